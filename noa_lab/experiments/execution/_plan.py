"""The plan of a run: how its answers are asked for, what its prompts share, and what that saves."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from noa_lab.inference.batch import SHORTEST, BatchFacts, BatchQuestion, Prefixes, packed

__all__ = ["Plan", "PlanBook", "TrunkFacts"]

_SHOWN_TRUNKS = 12


@dataclass(frozen=True, slots=True)
class TrunkFacts:
    """A beginning that several prompts share.

    Attributes:
        tokens: Its length.
        prompts: How many prompts begin with it.
    """

    tokens: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How the answers of one model are asked for.

    Attributes:
        model: The model.
        executor: How: "plain", "lanes", "tree", "strict" or "latency".
        why: Why so, in one sentence.
        lanes: Answers that grow side by side at most; 0 while that is not known.
        copying: Whether what prompts share is evaluated once and copied to where it is needed.
        prompts: Different prompts that have been looked at so far; a large grid is looked at part by part.
        answers: Answers wanted to them.
        prompt_tokens: Tokens of all prompts, each counted once for each answer.
        least_tokens: Tokens that must be evaluated at least: every distinct beginning once, and one for each repeated prompt.
        trunks: The beginnings that are shared by most, longest first.
        evaluated: Prompt tokens that have been evaluated, by the engine's own count.
        generated: Tokens generated.
        seconds: How long that took.
        paces: Milliseconds that a token took, evaluated or generated, one answer at a time and side by side; None where that was not
            measured: it is for short answers, when many are wanted.
    """

    model: str
    executor: str = ""
    why: str = ""
    lanes: int = 0
    copying: bool = False
    prompts: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    least_tokens: int = 0
    trunks: tuple[TrunkFacts, ...] = ()
    evaluated: int = 0
    generated: int = 0
    seconds: float = 0.0
    paces: tuple[float, float] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan of which `as_dict` gave `data`."""
        trunks = tuple(TrunkFacts(**trunk) for trunk in data.get("trunks", ()))
        paces = data.get("paces")
        return cls(**{**data, "trunks": trunks, "paces": tuple(paces) if paces else None})

    def after(self, before: Plan) -> Plan:
        """This plan, of a part of the run, together with the one of the part before: a run that was paused has several."""
        whole = self if self.answers >= before.answers else before
        sums = {name: getattr(self, name) + getattr(before, name) for name in ("evaluated", "generated", "seconds")}
        return replace(whole, **sums, paces=self.paces or before.paces)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"trunks": [asdict(trunk) for trunk in self.trunks]}

    def __str__(self) -> str:
        parts = [f"{self.model}: {self.executor or 'not decided yet'}" + (f" ({self.why})" if self.why else "")]
        if self.lanes:
            measured = ""
            if self.paces:
                alone, together = self.paces
                measured = (
                    f" (a token, read or written, took {alone:.2g} ms one at a time, {together:.2g} ms side by side)"
                )
            parts.append(
                ("one answer at a time" if self.lanes == 1 else f"{self.lanes} answers side by side") + measured
            )
        if self.prompts:
            saved = 1 - self.least_tokens / self.prompt_tokens if self.prompt_tokens else 0.0
            parts.append(
                f"{self.answers:,} answers to {self.prompts:,} prompts, {self.prompt_tokens:,} prompt tokens, "
                f"of which {self.least_tokens:,} have to be evaluated ({saved:.0%} are shared)"
            )
        if self.trunks:
            shared = ", ".join(f"{trunk.tokens:,} tokens x {trunk.prompts:,} prompts" for trunk in self.trunks[:4])
            parts.append(f"shared: {shared}" + (", ..." if len(self.trunks) > 4 else ""))
        if self.evaluated:
            parts.append(f"evaluated so far: {self.evaluated:,}")
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        return f"<div>{html.escape(str(self))}</div>"


@dataclass(slots=True)
class PlanBook:
    """Collects the facts of a plan while prompts are tokenized, part by part.

    Args:
        model: The model.
        executor: How its cells are asked for.
        why: Why so.
    """

    model: str
    executor: str
    why: str = ""
    started: float = field(default_factory=time.monotonic)
    prompts: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    least_tokens: int = 0
    trunks: list[TrunkFacts] = field(default_factory=list)

    def add(self, questions: Sequence[BatchQuestion]) -> None:
        """Take a part of the questions in."""
        tokens = [packed(question.tokens) for question in questions]
        prefixes = Prefixes(tokens)
        answers = sum(len(question.seeds) for question in questions)
        self.prompts += len(questions)
        self.answers += answers
        self.prompt_tokens += sum(len(question.tokens) * len(question.seeds) for question in questions)
        self.least_tokens += prefixes.minimum + answers - len(questions)
        for trunk in prefixes.trunks(SHORTEST):
            self.trunks.append(TrunkFacts(trunk.length, trunk.prompts))
        self.trunks.sort(key=lambda each: (-each.tokens * each.prompts, -each.tokens))
        del self.trunks[_SHOWN_TRUNKS:]

    def facts(self, batch: BatchFacts) -> Plan:
        """The plan as far as it is known, and what the batch has done."""
        return Plan(
            self.model,
            self.executor,
            self.why,
            lanes=batch.lanes,
            copying=batch.copying,
            prompts=self.prompts,
            answers=self.answers,
            prompt_tokens=self.prompt_tokens,
            least_tokens=self.least_tokens,
            trunks=tuple(self.trunks),
            evaluated=batch.evaluated,
            generated=batch.generated,
            seconds=time.monotonic() - self.started,
            paces=batch.paces,
        )
