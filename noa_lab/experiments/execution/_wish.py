"""What a run asks of whoever opens a model's engine for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from noa_lab.events import CancelToken, Report, silent
from noa_lab.inference import InferenceEngine

__all__ = ["EXECUTORS", "EngineFor", "EngineWish", "ExecutorName", "Hindrance", "Requested"]

ExecutorName = Literal["plain", "lanes", "tree", "strict", "latency"]
"""How cells are asked for:

"plain": one request a cell, as many at once as the engine has slots.
"lanes": llama-server's slots used by plan; what prompts share is evaluated once.
"tree": in the embedded runtime, all answers of a shared beginning grown side by side.
"strict": one request at a time, nothing reused, so that an answer does not depend on what was asked before it.
"latency": like "strict", with the prompts taking turns: the only one whose times can be compared.
"""

Requested = Literal["auto", "plain", "lanes", "tree", "strict", "latency"]

EXECUTORS: tuple[Requested, ...] = ("auto", "plain", "lanes", "tree", "strict", "latency")


@dataclass(frozen=True, slots=True)
class EngineWish:
    """What an engine is wanted for. What cannot be had is left out: the engine's capabilities say what there is.

    Attributes:
        executor: How it will be used.
        slots: Requests at the same time; None: as the engine's own default.
        context_size: Tokens that one request needs; None: as the engine's own default.
        cancel: Gives up the opening, and a download that it takes, when cancelled; None where nobody can.
        report: Told how far the opening is.
    """

    executor: ExecutorName = "plain"
    slots: int | None = None
    context_size: int | None = None
    cancel: CancelToken | None = field(default=None, compare=False, repr=False)
    report: Report = field(default=silent, compare=False, repr=False)


class Hindrance(Protocol):
    """Tells what stands against an embedded engine for a model, by its reference."""

    def __call__(self, ref: str, wish: EngineWish, /) -> str:
        """Why the answers had better come from a server, as a part of a sentence; "" when nothing stands against a tree."""


class EngineFor(Protocol):
    """Opens the engine of a model, by its reference; leaving the block lets it go."""

    def __call__(self, ref: str, wish: EngineWish = ..., /) -> AbstractContextManager[InferenceEngine]:
        """The engine, as near to the wish as it can be had.

        Raises:
            Cancelled: When the wish was cancelled before the engine was there.
        """
