"""Scorers by name: `score.contains("{{ expected }}")`, `score.max_words(30, name="short")`, `score.function(mine)`.

Texts may be templates over the input's fields. An input that lacks such a field is not scored (None), which is not the same as failing.
Every scorer takes `name=` (its column is `score.<name>`) and `negate=True`; `score.not_contains(...)` is short for the most common of
these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._function import Function
from noa_lab.experiments.score._json import JsonValid
from noa_lab.experiments.score._length import Length
from noa_lab.experiments.score._texts import Contains, Equals, Regex, StartsWith

__all__ = [
    "contains",
    "equals",
    "function",
    "icontains",
    "json_valid",
    "max_characters",
    "max_words",
    "min_characters",
    "min_words",
    "not_contains",
    "regex",
    "starts_with",
]


def contains(text: str, *, ignore_case: bool = False, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer contains `text`.

    Args:
        text: The text, or a template such as "{{ expected }}". Letters written as one or two code points are the same.
        ignore_case: Whether capitals and small letters are the same.
        negate: True when it must not contain it.
        name: The column's name; default "contains".

    Raises:
        BadInput: For an empty text.
        TemplateInvalid: For a broken template.
    """
    return Contains(text=text, ignore_case=ignore_case, negate=negate, name=name)


def icontains(text: str, *, negate: bool = False, name: str = "") -> Scorer:
    """`contains` without regard to capitals; its default name is "icontains"."""
    return Contains(
        text=text, ignore_case=True, negate=negate, name=name or ("not_icontains" if negate else "icontains")
    )


def not_contains(text: str, *, ignore_case: bool = False, name: str = "") -> Scorer:
    """Whether the answer does not contain `text`; see `contains`."""
    return Contains(text=text, ignore_case=ignore_case, negate=True, name=name)


def equals(text: str, *, ignore_case: bool = False, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer is `text`, white space at the ends aside; arguments as for `contains`."""
    return Equals(text=text, ignore_case=ignore_case, negate=negate, name=name)


def starts_with(text: str, *, ignore_case: bool = False, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer begins with `text`, white space before it aside; arguments as for `contains`."""
    return StartsWith(text=text, ignore_case=ignore_case, negate=negate, name=name)


def regex(pattern: str, *, ignore_case: bool = False, negate: bool = False, name: str = "") -> Scorer:
    """Whether a regular expression (Python's) is found in the answer.

    A search that takes more than a second is an error in that cell; after three of them the scorer is not tried again.

    Args:
        pattern: At most 2,000 characters; may be a template, whose values then are part of the pattern.
        ignore_case: Whether capitals and small letters are the same.
        negate: True when it must not be found.
        name: The column's name; default "regex".

    Raises:
        BadInput: When the pattern is no regular expression.
        TemplateInvalid: For a broken template.
    """
    return Regex(text=pattern, ignore_case=ignore_case, negate=negate, name=name)


def json_valid(*, required: Iterable[str] = (), negate: bool = False, name: str = "") -> Scorer:
    """Whether the whole answer is valid JSON; with `required`, whether it is an object with these keys."""
    keys: Any = required if isinstance(required, str) else tuple(required)
    return JsonValid(required=keys, negate=negate, name=name)


def max_words(limit: int, *, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer has at most `limit` words."""
    return Length(measure="words", bound="max", limit=limit, negate=negate, name=name)


def min_words(limit: int, *, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer has at least `limit` words."""
    return Length(measure="words", bound="min", limit=limit, negate=negate, name=name)


def max_characters(limit: int, *, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer has at most `limit` characters, white space at the ends aside."""
    return Length(measure="characters", bound="max", limit=limit, negate=negate, name=name)


def min_characters(limit: int, *, negate: bool = False, name: str = "") -> Scorer:
    """Whether the answer has at least `limit` characters, white space at the ends aside."""
    return Length(measure="characters", bound="min", limit=limit, negate=negate, name=name)


def function(
    fn: Callable[[str, Mapping[str, Any]], float | bool | None],
    *,
    negate: bool = False,
    name: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Scorer:
    """A function of your own: `fn(answer, row)` returns True, False, a finite number, or None where it does not apply.

    Args:
        fn: The function; `row` has the input's fields.
        negate: Turns True to False and a score x to low + high - x (1 - x where the range is not known).
        name: The column's name; default the function's own.
        low: The smallest number that it can return. With the range, verdicts need not guess it from the scores; without one, scores
            that are all equal decide nothing. Numbers outside of it are errors of that score.
        high: The largest; give both or neither.

    Raises:
        BadInput: When `low` and `high` are no range.
    """
    return Function(function=fn, negate=negate, name=name, low=low, high=high)
