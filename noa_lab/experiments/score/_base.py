"""What all scorers have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, NoReturn, Protocol, runtime_checkable

from noa_lab.errors import BadInput, TemplateInvalid

__all__ = ["MAX_NAME", "BaseScorer", "Graded", "PassFail", "Scorer", "is_missing", "number_in", "refuse"]

MAX_NAME = 80
_SHARED = ("name", "negate", "weight", "when")


@runtime_checkable
class Scorer(Protocol):
    """Judges one answer at a time."""

    @property
    def name(self) -> str:
        """What its column is called: `score.<name>`."""

    def __call__(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        """Score an answer.

        Args:
            answer: The model's text.
            row: The input's fields, and `finish_reason` and `completion_tokens` of the answer.

        Returns:
            True or False, or a finite number; None when it does not apply to this input (which is then left out of statistics).
        """

    def spec(self) -> dict[str, Any]:
        """What `scorer_from_spec` makes an equal scorer of."""

    def check(self, fields: set[str]) -> None:
        """Make sure that the inputs have what it needs.

        Raises:
            TemplateInvalid: When they do not.
        """


def refuse(kind: str, problem: str, fix: str, value: object) -> NoReturn:
    """Raise `BadInput` about an argument of a scorer."""
    raise BadInput(f"{kind}: {problem}.", fix=fix, field=kind, value=value)


def is_missing(value: object) -> bool:
    """Whether an input's field is not there: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_in(kind: str, value: object, low: float, high: float) -> None:
    """Make sure that an argument is a number from `low` to `high`."""
    fine = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fine:
        refuse(kind, f"{value!r} is no number from {low:g} to {high:g}", "Use one.", value)


@dataclass(frozen=True, kw_only=True)
class BaseScorer:
    """A scorer that files can hold.

    Attributes:
        name: What its column is called; by default the kind, with `not_` before it when negated.
        negate: Whether the result is turned round: True to False, x to 1 - x.
        weight: How much it counts where several are put together (`score.weighted`).
        when: A field of the inputs: only inputs that have it, and not empty or false, are scored.
    """

    kind: ClassVar[str]
    argument: ClassVar[str] = ""
    """The field that a file writes beside the kind; where empty, it writes `true`."""
    unwritten: ClassVar[frozenset[str]] = frozenset()
    """Fields that the kind itself says."""

    name: str = ""
    negate: bool = False
    weight: float = 1.0
    when: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"not_{self.kind}" if self.negate else self.kind)
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME or self.name != self.name.strip():
            refuse("name", f"{self.name!r} is no name", f"Use a text of at most {MAX_NAME} characters.", self.name)
        if not isinstance(self.negate, bool):
            refuse("negate", f"{self.negate!r} is neither True nor False", "Use True or False.", self.negate)
        number_in("weight", self.weight, 0.0, 1e6)
        if not isinstance(self.when, str):
            refuse("when", f"{self.when!r} is no name of a field", 'Name a field, for example "expected".', self.when)

    def __call__(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        """See `Scorer`."""
        return self._turned(self._score(answer, row)) if self._applies(row) else None

    def spec(self) -> dict[str, Any]:
        """See `Scorer`."""
        key = f"not_{self.kind}" if self.negate else self.kind
        argument = _plain(getattr(self, self.argument)) if self.argument else True
        found: dict[str, Any] = {"name": self.name, key: argument}
        for each in fields(self):
            value = getattr(self, each.name)
            left_out = {"name", "negate", self.argument} | self.unwritten
            if each.init and each.name not in left_out and value != _default(each):
                found[each.name] = _plain(value)
        return found

    def check(self, fields: set[str]) -> None:
        """See `Scorer`."""
        if self.when and self.when not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise TemplateInvalid(
                f"The scorer {self.name!r} is for inputs with {self.when!r}, which no input has.",
                fix=f"Use a field that they have: {known}.",
                prompt=self.name,
                variable=self.when,
            )

    def _applies(self, row: Mapping[str, Any]) -> bool:
        value = row.get(self.when) if self.when else True
        return not is_missing(value) and value not in ("", False, [], {})

    def _turned(self, value: float | bool | None) -> float | bool | None:
        if value is None or not self.negate:
            return value
        return not value if isinstance(value, bool) else 1.0 - value

    def _score(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        raise NotImplementedError


def _default(each: Any) -> Any:
    if each.default is not MISSING:
        return each.default
    return each.default_factory() if each.default_factory is not MISSING else MISSING


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class PassFail(BaseScorer):
    """A scorer that says True or False."""

    def _score(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        return self._passes(answer, row)

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Graded(BaseScorer):
    """A scorer that gives a number from 0 to 1; with `at_least`, whether it is that high."""

    at_least: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_least is not None:
            number_in("at_least", self.at_least, 0.0, 1.0)

    def _score(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        value = self._measure(answer, row)
        return value if value is None or self.at_least is None else value >= self.at_least

    def _measure(self, answer: str, row: Mapping[str, Any]) -> float | None:
        raise NotImplementedError
