"""Several scorers as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from noa_lab.errors import BadInput, ExperimentError
from noa_lab.experiments.score._base import BaseScorer, Graded, PassFail, Scorer, refuse
from noa_lab.experiments.score._model import needs_model

__all__ = ["all_of", "any_of", "weighted"]


@dataclass(frozen=True, kw_only=True)
class _Combined(BaseScorer):
    argument: ClassVar[str] = "parts"

    parts: tuple[Scorer, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        parts: Any = self.parts
        if isinstance(parts, str) or not isinstance(parts, Iterable):
            refuse(self.kind, f"{parts!r} is no list of scorers", "Give a list of scorers.", parts)
        object.__setattr__(self, "parts", tuple(parts))
        if not self.parts:
            refuse(self.kind, "there are no scorers", "Give at least one.", [])
        for part in self.parts:
            if not isinstance(part, Scorer) or needs_model(part):
                raise BadInput(
                    f"{self.kind}: {part!r} cannot be part of another scorer.",
                    fix="Use scorers that need no model, such as score.contains(...).",
                    field=self.kind,
                    value=part,
                )

    def spec(self) -> dict[str, Any]:
        """See `Scorer`."""
        key = f"not_{self.kind}" if self.negate else self.kind
        return super().spec() | {key: [part.spec() for part in self.parts]}

    def check(self, fields: set[str]) -> None:
        """See `Scorer`."""
        super().check(fields)
        for part in self.parts:
            part.check(fields)

    def _values(self, answer: str, row: Mapping[str, Any]) -> list[tuple[float, float]]:
        """Weight and score of each part that applies."""
        found = []
        for part in self.parts:
            value = part(answer, row)
            if value is None:
                continue
            if not 0.0 <= float(value) <= 1.0:
                raise ExperimentError(
                    f"The scorer {part.name!r} gave {value!r}, which cannot be put together with others.",
                    fix="Use scorers that give numbers from 0 to 1.",
                    scorer=part.name,
                    value=value,
                )
            found.append((float(getattr(part, "weight", 1.0)), float(value)))
        return found


@dataclass(frozen=True, kw_only=True)
class _Weighted(Graded, _Combined):
    kind: ClassVar[str] = "weighted"

    def _measure(self, answer: str, row: Mapping[str, Any]) -> float | None:
        values = self._values(answer, row)
        total = sum(weight for weight, _ in values)
        return sum(weight * value for weight, value in values) / total if total else None


@dataclass(frozen=True, kw_only=True)
class _AllOf(PassFail, _Combined):
    kind: ClassVar[str] = "all_of"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        values = self._values(answer, row)
        return all(value == 1.0 for _, value in values) if values else None


@dataclass(frozen=True, kw_only=True)
class _AnyOf(PassFail, _Combined):
    kind: ClassVar[str] = "any_of"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        values = self._values(answer, row)
        return any(value == 1.0 for _, value in values) if values else None


def weighted(parts: Iterable[Scorer], *, at_least: float | None = None, **common: Any) -> Scorer:
    """The weighted mean of several scorers, each with its own `weight`; parts that do not apply to an input are left out.

    Args:
        parts: Scorers that give True, False or numbers from 0 to 1.
        at_least: With a number, the score is whether the mean is that high.
        common: `name`, `negate`, `weight`, `when`: see `BaseScorer`.

    Raises:
        BadInput: Without parts, or with one that needs a model.
    """
    return _Weighted(parts=parts, at_least=at_least, **common)  # type: ignore[arg-type]  # made a tuple


def all_of(parts: Iterable[Scorer], **common: Any) -> Scorer:
    """Whether all of several scorers that apply are passed in full; see `weighted`."""
    return _AllOf(parts=parts, **common)  # type: ignore[arg-type]  # made a tuple


def any_of(parts: Iterable[Scorer], **common: Any) -> Scorer:
    """Whether at least one of several scorers that apply is passed in full; see `weighted`."""
    return _AnyOf(parts=parts, **common)  # type: ignore[arg-type]  # made a tuple
