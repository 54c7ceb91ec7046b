"""A Python function as a scorer."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from noa_lab.errors import ExperimentError
from noa_lab.experiments.score._base import MAX_NAME, refuse

__all__ = ["Function"]


@dataclass(frozen=True, kw_only=True)
class Function:
    """A Python function as a scorer.

    Attributes:
        function: Called with the answer and the input's fields; returns True, False, a finite number, or None for "does not apply".
        name: What its column is called.
        negate: Whether the result is turned round: True to False, x to low + high - x (1 - x where the range is not known).
        low: The smallest number that it can return; None where that is not known.
        high: The largest; known together with `low`.
    """

    function: Callable[[str, Mapping[str, Any]], float | bool | None]
    name: str = ""
    negate: bool = False
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
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME or self.name != self.name.strip():
            refuse("name", f"{self.name!r} is no name", f"Use a text of at most {MAX_NAME} characters.", self.name)

    def __call__(self, answer: str, row: Mapping[str, Any]) -> float | bool | None:
        """See `Scorer`.

        Raises:
            ExperimentError: When the function returns what is no score. What it raises itself passes through.
        """
        value: Any = self.function(answer, row)
        if hasattr(value, "item") and not isinstance(value, bool | int | float):
            value = value.item()  # numpy's numbers
        if value is None or isinstance(value, bool):
            return None if value is None else value != self.negate
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ExperimentError(
                f"The scorer {self.name!r} returned {value!r}.",
                fix="Return True, False, a finite number, or None where it does not apply.",
                scorer=self.name,
                value=value,
            )
        if self.low is None or self.high is None:
            return 1 - value if self.negate else value
        if not self.low <= value <= self.high:
            raise ExperimentError(
                f"The scorer {self.name!r} returned {value!r}, outside of its range from {self.low:g} to {self.high:g}.",
                fix="Give the range that its numbers really have in low= and high=.",
                scorer=self.name,
                value=value,
            )
        return self.low + self.high - value if self.negate else value

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
        key = "not_function" if self.negate else "function"
        place = f"{getattr(self.function, '__module__', '')}:{getattr(self.function, '__qualname__', self.name)}"
        ends = {} if self.low is None else {"low": self.low, "high": self.high}
        return {"name": self.name, key: place, "source_sha256": self._source_hash(), **ends}

    def _source_hash(self) -> str | None:
        """Tells an edited function from the one before; None where Python cannot find the source."""
        try:
            return hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        except (OSError, TypeError):
            return None

    def check(self, fields: set[str]) -> None:
        """See `Scorer`; what a function needs cannot be seen from outside."""
