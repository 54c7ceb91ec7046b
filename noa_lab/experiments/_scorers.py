"""Scorers: what makes an answer a good one. Here: what all have in common, and those that compare with no text."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, runtime_checkable

from noa_lab.errors import BadInput, ExperimentError

__all__ = ["Function", "JsonValid", "Length", "PassFail", "Scorer", "refuse"]

_MAX_NAME = 80


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
            row: The input's fields.

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


@dataclass(frozen=True, kw_only=True)
class PassFail:
    """A scorer that says True or False.

    Attributes:
        name: What its column is called; by default the kind, with `not_` before it when negated.
        negate: Whether True and False change places.
    """

    kind: ClassVar[str]

    name: str = ""
    negate: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"not_{self.kind}" if self.negate else self.kind)
        if not isinstance(self.name, str) or len(self.name) > _MAX_NAME or self.name != self.name.strip():
            refuse("name", f"{self.name!r} is no name", f"Use a text of at most {_MAX_NAME} characters.", self.name)
        if not isinstance(self.negate, bool):
            refuse("negate", f"{self.negate!r} is neither True nor False", "Use True or False.", self.negate)

    def __call__(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        """See `Scorer`."""
        passed = self._passes(answer, row)
        return None if passed is None else passed != self.negate

    def spec(self) -> dict[str, Any]:
        """See `Scorer`."""
        key = f"not_{self.kind}" if self.negate else self.kind
        return {"name": self.name, key: self._argument(), **self._options()}

    def check(self, fields: set[str]) -> None:
        """See `Scorer`."""

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        raise NotImplementedError

    def _argument(self) -> Any:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class JsonValid(PassFail):
    """Whether the whole answer is one JSON value (RFC 8259: no NaN), or an object with the required keys."""

    kind: ClassVar[str] = "json_valid"

    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        keys: Any = self.required
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            refuse("required", f"{keys!r} is no list of keys", 'Give a list of texts, for example ["title"].', keys)
        object.__setattr__(self, "required", tuple(keys))

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        try:
            value = json.loads(answer, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False
        return not self.required or (isinstance(value, dict) and set(self.required) <= set(value))

    def _argument(self) -> Any:
        return True

    def _options(self) -> dict[str, Any]:
        return {"required": list(self.required)} if self.required else {}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, kw_only=True)
class Length(PassFail):
    """Whether the answer is long or short enough.

    Attributes:
        measure: "words" (as separated by white space) or "characters" (Unicode code points, without white space at the ends).
        bound: "min" or "max".
        limit: The number, itself allowed.
    """

    measure: str
    bound: str
    limit: int

    @property
    def kind(self) -> str:  # type: ignore[override]  # one class for four kinds
        """The scorer's name in files."""
        return f"{self.bound}_{self.measure}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 0:
            refuse(
                self.kind,
                f"{self.limit!r} is not a number of {self.measure}",
                "Give a whole number, 0 or more.",
                self.limit,
            )

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        found = len(answer.split()) if self.measure == "words" else len(answer.strip())
        return found <= self.limit if self.bound == "max" else found >= self.limit

    def _argument(self) -> Any:
        return self.limit


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
        if not isinstance(self.name, str) or len(self.name) > _MAX_NAME or self.name != self.name.strip():
            refuse("name", f"{self.name!r} is no name", f"Use a text of at most {_MAX_NAME} characters.", self.name)

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
