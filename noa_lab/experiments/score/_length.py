"""Scorers of an answer's length and of how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from noa_lab.experiments.score._base import PassFail, Scorer, refuse

__all__ = [
    "finish_reason",
    "max_characters",
    "max_tokens",
    "max_words",
    "min_characters",
    "min_tokens",
    "min_words",
]


@dataclass(frozen=True, kw_only=True)
class _Length(PassFail):
    """Whether the answer is long or short enough.

    Attributes:
        measure: "words" (as separated by white space), "characters" (Unicode code points, without white space at the ends) or "tokens"
            (the model's own).
        bound: "min" or "max".
        limit: The number, itself allowed.
    """

    argument: ClassVar[str] = "limit"
    unwritten: ClassVar[frozenset[str]] = frozenset({"measure", "bound"})

    measure: str
    bound: str
    limit: int

    @property
    def kind(self) -> str:  # type: ignore[override]  # one class for six kinds
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
        if self.measure == "tokens":
            found = row.get("completion_tokens")
            if found is None:
                return None
        else:
            found = len(answer.split()) if self.measure == "words" else len(answer.strip())
        return bool(found <= self.limit if self.bound == "max" else found >= self.limit)


@dataclass(frozen=True, kw_only=True)
class _FinishReason(PassFail):
    kind: ClassVar[str] = "finish_reason"
    argument: ClassVar[str] = "reason"

    reason: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.reason, str) or not self.reason:
            refuse(self.kind, f"{self.reason!r} is no reason", 'Use "stop", "stop_sequence" or "length".', self.reason)

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del answer
        found = row.get("finish_reason")
        return None if found is None else found == self.reason


def max_words(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at most `limit` words. `common`: `name`, `negate`, `weight`, `when`."""
    return _Length(measure="words", bound="max", limit=limit, **common)


def min_words(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at least `limit` words."""
    return _Length(measure="words", bound="min", limit=limit, **common)


def max_characters(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at most `limit` characters, white space at the ends aside."""
    return _Length(measure="characters", bound="max", limit=limit, **common)


def min_characters(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at least `limit` characters, white space at the ends aside."""
    return _Length(measure="characters", bound="min", limit=limit, **common)


def max_tokens(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at most `limit` tokens, as the model counts them."""
    return _Length(measure="tokens", bound="max", limit=limit, **common)


def min_tokens(limit: int, **common: Any) -> Scorer:
    """Whether the answer has at least `limit` tokens, as the model counts them."""
    return _Length(measure="tokens", bound="min", limit=limit, **common)


def finish_reason(reason: str = "stop", **common: Any) -> Scorer:
    """Whether the answer ended for this reason: "stop" (by itself), "stop_sequence" or "length" (cut at the token limit)."""
    return _FinishReason(reason=reason, **common)
