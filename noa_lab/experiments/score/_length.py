"""Scorers of an answer's length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noa_lab.experiments.score._base import PassFail, refuse

__all__ = ["Length"]


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
