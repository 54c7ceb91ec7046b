"""Scorers that ask a model. They run after the answers, see `noa_lab.experiments.grading`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from noa_lab.errors import BadInput, ExperimentError
from noa_lab.experiments.score._base import BaseScorer, refuse
from noa_lab.inference import ChatMessage, InferenceConfig, InferenceEngine

__all__ = ["Case", "Grade", "ModelScorer", "ask", "choose", "needs_model", "quoted"]

_TOP = 40
_LEAST = 0.01
"""A model that gives all choices together less than this does not answer by one of them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to be graded.

    Attributes:
        answer: The answer.
        row: The input's fields, and facts of the answer.
        messages: The conversation that it answers.
        other: The baseline's answer to the same input; None where the scorer compares with none.
    """

    answer: str
    row: Mapping[str, Any]
    messages: Sequence[ChatMessage]
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    """What a model says of an answer.

    Attributes:
        value: The score; None where the scorer does not apply.
        reason: The model's words; may be empty.
        orders: Of a pairwise judge: what it chose when the answer was shown first, and when second; empty otherwise.
    """

    value: float | None
    reason: str = ""
    orders: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelScorer(BaseScorer):
    """A scorer that asks a model.

    Attributes:
        model: Reference of the model that is asked; empty for the one that answered.
    """

    compares: ClassVar[bool] = False
    """Whether it needs the baseline's answer."""

    model: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, str):
            refuse("model", f"{self.model!r} is no reference of a model", "Use a name of the catalogue.", self.model)

    def __call__(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        """Refused: it needs a model.

        Raises:
            BadInput: Always.
        """
        del answer, row
        raise BadInput(
            f"The scorer {self.name!r} asks a model, so that it cannot score by itself.",
            fix="Give it to lab.compare or run.rescore; there it runs after the answers.",
            field="scorers",
            value=self.name,
        )

    async def grade(self, engine: InferenceEngine, case: Case) -> Grade:
        """Grade an answer.

        Args:
            engine: The model that is asked.
            case: The answer.

        Raises:
            NoaLabError: What the engine raises.
        """
        if not self._applies(case.row):
            return Grade(None)
        found = await self._grade(engine, case)
        return Grade(self._turned_number(found.value), found.reason, found.orders)

    def _turned_number(self, value: float | None) -> float | None:
        turned = self._turned(value)
        return None if turned is None else float(turned)

    async def _grade(self, engine: InferenceEngine, case: Case) -> Grade:
        raise NotImplementedError


def needs_model(scorer: object) -> bool:
    """Whether a scorer asks a model and so runs after the answers."""
    return isinstance(scorer, ModelScorer)


def quoted(text: str, tag: str) -> str:
    """A text between tags that it cannot close itself."""
    safe = re.sub(rf"<(/?)\s*{tag}", r"<\1 ", text, flags=re.IGNORECASE)
    return f"<{tag}>\n{safe.strip()}\n</{tag}>"


async def ask(engine: InferenceEngine, messages: Sequence[ChatMessage], tokens: int) -> str:
    """A greedy answer in words."""
    config = InferenceConfig(temperature=0.0, max_tokens=tokens)
    return (await engine.achat(messages, config)).text.strip()


async def choose(engine: InferenceEngine, messages: Sequence[ChatMessage], options: Sequence[str]) -> list[float]:
    """How probable each of several short answers is, as shares that sum to 1.

    By the probabilities of the first token where the engine tells them; where it does not, the option that the model writes has all.

    Raises:
        ExperimentError: When the model writes none of them.
    """
    abilities = engine.capabilities
    if abilities.logprobs:
        config = InferenceConfig(temperature=0.0, max_tokens=1, n_probs=_TOP)
        found = await engine.achat(messages, config)
        masses = _masses(found.logprobs[0].top if found.logprobs else (), options)
        if sum(masses) >= _LEAST:
            return [mass / sum(masses) for mass in masses]
    if abilities.continuation_logprobs:
        scores = [(await engine.acontinuation_logprobs(messages, option)).logprob for option in options]
        weights = [math.exp(score - max(scores)) for score in scores]
        return [weight / sum(weights) for weight in weights]
    constraint: dict[str, Any] = {}
    if "grammar" in abilities.constraints:
        constraint["grammar"] = "root ::= " + " | ".join(f'"{option}"' for option in options)
    config = InferenceConfig(temperature=0.0, max_tokens=16, **constraint)
    return _written((await engine.achat(messages, config)).text, options)


def _masses(top: Sequence[Any], options: Sequence[str]) -> list[float]:
    """What each option's spellings have of the first token's probability."""
    masses = [0.0] * len(options)
    for token in top:
        text = token.text.strip().casefold()
        for place, option in enumerate(options):
            if text == option.casefold():
                masses[place] += math.exp(token.logprob)
    return masses


def _written(text: str, options: Sequence[str]) -> list[float]:
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    found = re.search(rf"(?<!\w)(?:{names})(?!\w)", text, re.IGNORECASE)
    if found is None:
        raise ExperimentError(
            f"The model did not choose one of {', '.join(options)}, but wrote {text[:80]!r}.",
            fix="Use a stronger model as the judge.",
            options=list(options),
            text=text[:200],
        )
    return [1.0 if option.casefold() == found[0].casefold() else 0.0 for option in options]
