"""A Python function as a scorer."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from noa_lab.errors import ExperimentError
from noa_lab.experiments.score._base import BaseScorer, Scorer, refuse

__all__ = ["function"]


@dataclass(frozen=True, kw_only=True)
class _Function(BaseScorer):
    """A Python function as a scorer.

    Attributes:
        function: Called with the answer and the input's fields; returns True, False, a finite number, or None for "does not apply".
        low: The smallest number that it can return; None where that is not known.
        high: The largest; known together with `low`.
    """

    kind: ClassVar[str] = "function"

    function: Callable[[str, Mapping[str, Any]], float | bool | None]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        self._check_range()
        if not callable(self.function):
            refuse(
                "function", f"{self.function!r} cannot be called", "Give a function of answer and row.", self.function
            )
        own = getattr(self.function, "__name__", "") or type(self.function).__name__
        if not self.name and own == "<lambda>":
            refuse(
                "name",
                "a lambda has no name of its own",
                'Say what it measures: score.function(..., name="short").',
                own,
            )
        if not self.name:
            object.__setattr__(self, "name", f"not_{own}" if self.negate else own)
        super().__post_init__()

    def _score(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        """See `Scorer`.

        Raises:
            ExperimentError: When the function returns what is no score. What it raises itself passes through.
        """
        value: Any = self.function(answer, row)
        if hasattr(value, "item") and not isinstance(value, bool | int | float):
            value = value.item()  # numpy's numbers
        if value is None or isinstance(value, bool):
            return value
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ExperimentError(
                f"The scorer {self.name!r} returned {value!r}.",
                fix="Return True, False, a finite number, or None where it does not apply.",
                scorer=self.name,
                value=value,
            )
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ExperimentError(
                f"The scorer {self.name!r} returned {value!r}, outside of its range from {self.low:g} to {self.high:g}.",
                fix="Give the range that its numbers really have in low= and high=.",
                scorer=self.name,
                value=value,
            )
        return value

    def _turned(self, value: float | bool | None) -> float | bool | None:
        if not self.negate or value is None or isinstance(value, bool) or self.low is None or self.high is None:
            return super()._turned(value)
        return self.low + self.high - value

    def _check_range(self) -> None:
        ends: Any = (self.low, self.high)
        if ends == (None, None):
            return
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
        if not numbers or ends[0] >= ends[1]:
            fix = "Give two numbers, the smallest and the largest score, for example low=1, high=5."
            refuse("low", f"low = {self.low!r}, high = {self.high!r} is no range", fix, ends)

    def spec(self) -> dict[str, Any]:
        """See `Scorer`; a record only: a function cannot be made again from a file."""
        place = f"{getattr(self.function, '__module__', '')}:{getattr(self.function, '__qualname__', self.name)}"
        found: dict[str, Any] = {"name": self.name, "not_function" if self.negate else "function": place}
        found["source_sha256"] = self._source_hash()
        if self.low is not None:
            found |= {"low": self.low, "high": self.high}
        shared = {"weight": (self.weight, 1.0), "when": (self.when, "")}
        return found | {name: value for name, (value, default) in shared.items() if value != default}

    def _source_hash(self) -> str | None:
        """Tells an edited function from the one before; None where Python cannot find the source."""
        try:
            return hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        except (OSError, TypeError):
            return None


def function(
    fn: Callable[[str, Mapping[str, Any]], float | bool | None],
    *,
    low: float | None = None,
    high: float | None = None,
    **common: Any,
) -> Scorer:
    """A function of your own: `fn(answer, row)` returns True, False, a finite number, or None where it does not apply.

    Args:
        fn: The function; `row` has the input's fields.
        low: The smallest number that it can return. With the range, verdicts need not guess it from the scores; without one, scores
            that are all equal decide nothing. Numbers outside of it are errors of that score.
        high: The largest; give both or neither.
        common: `name` (default: the function's own), `weight`, `when`: see `BaseScorer`; `negate` turns True to False and a score x to
            low + high - x (1 - x where the range is not known).

    Raises:
        BadInput: When `low` and `high` are no range.
    """
    return _Function(function=fn, low=low, high=high, **common)
