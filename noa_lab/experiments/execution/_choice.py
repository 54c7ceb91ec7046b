"""Which executor a model's cells get, and what its engine is wanted for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from noa_lab.errors import Unsupported
from noa_lab.experiments.execution._wish import EngineWish, ExecutorName, Requested
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.inference import InferenceEngine

__all__ = ["Chosen", "choose", "identity_of", "wish_for"]

_LANES = 8
"""Most answers side by side: a step of llama.cpp reads the weights once for all of them, and from about eight on that hardly shows."""

_FEW = 100
"""Answers below which loading the model a second time, and evaluating again what a server may still hold, is not worth it."""

_CHARACTERS = 2.5
"""Characters that a token has at least, for texts that are mostly words: a guess that is corrected before anything is asked."""

_TEMPLATE_TOKENS = 64
_STEP = 256

_UNIMPORTANT = frozenset(("slots", "context_size", "id_slot"))
"""What does not change an answer where several are batched anyway: which slot, of how many, in how large a context."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An executor, and why it was chosen.

    Attributes:
        executor: Its name.
        why: In one sentence; empty where it was asked for.
        firm: Whether another one must not take its place.
    """

    executor: ExecutorName
    why: str = ""
    firm: bool = False

    def on(self, engine: InferenceEngine) -> Chosen:
        """The choice, once the engine is there.

        Raises:
            Unsupported: When the executor that was asked for needs what the engine cannot do.
        """
        if self.executor not in {"lanes", "tree"} or hasattr(engine, "batch"):
            return self
        if self.firm:
            raise Unsupported(
                f"The engine of {engine.model_name!r} cannot run {self.executor!r}: it has no slots to plan with.",
                fix="Leave the executor at 'auto'.",
                what="batch",
                engine=type(engine).__name__,
            )
        return self.plainly("the engine has no slots to plan with")

    def plainly(self, why: str) -> Chosen:
        """The executor that always works."""
        return Chosen("plain", why, self.firm)

    def on_a_server(self) -> Chosen:
        """What is taken where a tree was chosen and has no room."""
        return Chosen(
            "lanes", "a second copy of the model with a context for these prompts would not fit into the memory"
        )


def choose(
    requested: Requested,
    recorded: ExecutorName | None,
    grid: Grid,
    answers: int = 0,
    hindrance: Callable[[], str] | None = None,
    known: Callable[[], ExecutorName | None] = lambda: None,
) -> Chosen:
    """The executor of a model's cells.

    Args:
        requested: What the user asked for.
        recorded: What the model's cells of this run were executed by so far: executors never mix between the arms of a model.
        grid: What is to be run.
        answers: How many of the model's answers are missing.
        hindrance: Tells why there had better be no tree, "" when nothing stands against one; None: there is none to be had.
        known: Tells by which executor other runs have answers that can be taken over, or None.
    """
    if recorded is not None:
        return Chosen(recorded, "as its other answers in this run", firm=True)
    if requested != "auto":
        return Chosen(requested, firm=True)
    if any(config.overflow != "error" for config in grid.sampling):
        return Chosen("plain", "prompts that are too long are shortened one by one")
    if hindrance is None:
        return Chosen("lanes", "the server's slots share what prompts have in common")
    before = known()
    if before == "lanes":
        return Chosen("lanes", "as the answers of other runs that are taken over")
    if before is None and answers < _FEW:
        return Chosen("lanes", f"fewer than {_FEW} answers are not worth loading the model a second time")
    if against := hindrance():
        return Chosen("lanes", against)
    if before == "tree":
        return Chosen("tree", "as the answers of other runs that are taken over")
    return Chosen("tree", "all answers grow side by side in one context, in which what prompts share is there once")


def wish_for(
    chosen: Chosen, cells: Collection[Cell], grid: Grid, conversations: Conversations, needed: int
) -> EngineWish:
    """What the engine is wanted for.

    Args:
        chosen: The executor.
        cells: What it will be asked.
        grid: The run's grid.
        conversations: Its conversations.
        needed: Tokens of context that are known to be needed; 0 where nothing is known yet.
    """
    if chosen.executor == "plain":
        return EngineWish()
    if not needed:
        places = {(cell.prompt, cell.input_id) for cell in cells}
        characters = max((sum(map(len, conversations.texts(place))) for place in places), default=0)
        longest = max(config.max_tokens for config in grid.sampling)
        needed = int(characters / _CHARACTERS) + _TEMPLATE_TOKENS + longest
    size = -(-needed // _STEP) * _STEP
    slots = min(_LANES, len(cells)) if chosen.executor in {"lanes", "tree"} else 1
    return EngineWish(chosen.executor, max(1, slots), size)


def identity_of(fingerprint: Mapping[str, Any], executor: ExecutorName) -> dict[str, Any]:
    """What of an engine's fingerprint, with the executor, makes two cells the same question to the same machine."""
    if executor not in {"lanes", "tree"}:
        return {**fingerprint, "noa_lab_executor": executor} if executor != "plain" else dict(fingerprint)
    kept = {name: value for name, value in fingerprint.items() if name not in _UNIMPORTANT}
    return {**kept, "noa_lab_executor": executor}
