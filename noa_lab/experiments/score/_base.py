"""What all scorers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, runtime_checkable

from noa_lab.errors import BadInput

__all__ = ["MAX_NAME", "PassFail", "Scorer", "refuse"]

MAX_NAME = 80


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
        if not isinstance(self.name, str) or len(self.name) > MAX_NAME or self.name != self.name.strip():
            refuse("name", f"{self.name!r} is no name", f"Use a text of at most {MAX_NAME} characters.", self.name)
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
