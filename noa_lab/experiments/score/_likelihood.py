"""Scorers that need a model's numbers, not its words: log-probabilities and embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from noa_lab.errors import UnknownName
from noa_lab.experiments.score._base import number_in
from noa_lab.experiments.score._model import Case, Grade, ModelScorer
from noa_lab.experiments.score._texts import TextBased
from noa_lab.inference import InferenceEngine

__all__ = ["logprob", "perplexity", "similar"]

Measure = Literal["logprob", "per_token", "probability"]

_MEASURES = ("logprob", "per_token", "probability")


@dataclass(frozen=True, kw_only=True)
class _Logprob(ModelScorer, TextBased):
    kind: ClassVar[str] = "logprob"
    several: ClassVar[bool] = True

    measure: Measure = "logprob"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in _MEASURES:
            raise UnknownName.among("measure", str(self.measure), _MEASURES, where="logprob")

    async def _grade(self, engine: InferenceEngine, case: Case) -> Grade:
        values = []
        for text in self.texts_for(case.row):
            found = await engine.acontinuation_logprobs(case.messages, text)
            per_token = found.logprob / max(len(found.tokens), 1)
            values.append(per_token if self.measure == "per_token" else found.logprob)
        if not values:
            return Grade(None)
        best = max(values)
        return Grade(math.exp(best) if self.measure == "probability" else best)

    def _turned(self, value: float | bool | None) -> float | bool | None:
        if value is None or not self.negate or self.measure == "probability":
            return super()._turned(value)
        return -float(value)


@dataclass(frozen=True, kw_only=True)
class _Perplexity(ModelScorer):
    kind: ClassVar[str] = "perplexity"

    at_most: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_most is not None:
            number_in("at_most", self.at_most, 1.0, 1e9)

    async def _grade(self, engine: InferenceEngine, case: Case) -> Grade:
        if not case.answer.strip():
            return Grade(None)
        found = await engine.acontinuation_logprobs(case.messages, case.answer)
        value = math.exp(min(-found.logprob / max(len(found.tokens), 1), 700.0))
        return Grade(1.0 / (1.0 + value) if self.at_most is None else float(value <= self.at_most))


@dataclass(frozen=True, kw_only=True)
class _Similar(ModelScorer, TextBased):
    kind: ClassVar[str] = "similar"
    several: ClassVar[bool] = True

    at_least: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_least is not None:
            number_in("at_least", self.at_least, 0.0, 1.0)

    async def _grade(self, engine: InferenceEngine, case: Case) -> Grade:
        texts = self.texts_for(case.row)
        if not texts:
            return Grade(None)
        if not case.answer.strip():
            return Grade(0.0)
        first, *others = (await engine.aembed([case.answer, *texts])).vectors
        # The vectors have length 1; texts of opposite meaning are no less alike than unrelated ones.
        value = max(0.0, *(sum(a * b for a, b in zip(first, other, strict=True)) for other in others))
        return Grade(min(value, 1.0) if self.at_least is None else float(value >= self.at_least))


def logprob(text: str | Iterable[str], *, measure: Measure = "logprob", **common: Any) -> ModelScorer:
    """How probable the expected answer is to the model, whatever it answered: finer than right or wrong, and without sampling noise.

    Args:
        text: The expected answer, or several (the most probable counts); may be templates such as "{{ expected }}".
        measure: "logprob" (natural logarithm of the whole text's probability, 0 at most), "per_token" (that, divided by its tokens) or
            "probability" (from 0 to 1).
        common: `name`, `negate`, `weight`, `when`; `model` for another model than the one that answered.
    """
    return _Logprob(text=text if isinstance(text, str) else tuple(text), measure=measure, **common)


def perplexity(*, at_most: float | None = None, **common: Any) -> ModelScorer:
    """How little the answer surprises the model: 1 / (1 + perplexity); with `at_most`, whether its perplexity is that low."""
    return _Perplexity(at_most=at_most, **common)


def similar(text: str | Iterable[str], *, at_least: float | None = None, **common: Any) -> ModelScorer:
    """How like `text` the answer is in meaning: the cosine of their embeddings, 0 where that is negative.

    Args:
        text: A reference, or several (the best counts); may be templates.
        at_least: With a number, the score is whether the likeness is that high.
        common: `name`, `negate`, `weight`, `when`; `model`, one that makes embeddings.
    """
    return _Similar(text=text if isinstance(text, str) else tuple(text), at_least=at_least, **common)
