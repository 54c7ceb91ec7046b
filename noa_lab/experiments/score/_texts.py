"""Scorers that compare the answer with texts, which may be templates over the input's fields."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from noa_lab.errors import BadInput, ExperimentError, TemplateInvalid
from noa_lab.experiments.grid._templates import Template
from noa_lab.experiments.score._base import BaseScorer, PassFail, Scorer, is_missing, refuse
from noa_lab.experiments.score._matching import compiled, search

__all__ = [
    "TextBased",
    "contains",
    "contains_all",
    "contains_any",
    "ends_with",
    "equals",
    "icontains",
    "not_contains",
    "regex",
    "same_letters",
    "starts_with",
]

_SLOW_SEARCHES = 3
_ONE_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def same_letters(text: str, ignore_case: bool = False) -> str:
    """One spelling of letters that look the same: an e with an accent may be one character or two."""
    composed = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", composed.casefold()) if ignore_case else composed


@dataclass(frozen=True, kw_only=True)
class TextBased(BaseScorer):
    """A scorer with a text, or several, that may be templates over the input's fields.

    An input that lacks such a field is not scored. A text that is nothing but one variable stands for all its values where it is a list.
    """

    argument: ClassVar[str] = "text"
    several: ClassVar[bool] = False
    """Whether a list of texts is allowed."""
    may_be_empty: ClassVar[bool] = False
    """Whether an empty text, once filled in, can be compared with."""

    text: str | tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.text
        texts = list(given) if self.several and isinstance(given, list | tuple) else [given]
        for text in texts:
            if isinstance(text, bool) or not isinstance(text, str | int | float):
                refuse(self.kind, f"{text!r} is no text", 'Give a text or a template such as "{{ expected }}".', text)
            if str(text) == "":
                refuse(
                    self.kind, "the text is empty, which every answer holds", 'Give a text, or "{{ expected }}".', text
                )
        if not texts:
            refuse(self.kind, "there is no text", "Give at least one.", given)
        object.__setattr__(self, "text", tuple(map(str, texts)) if isinstance(given, list | tuple) else str(self.text))
        for template in self._templates:
            if not template.variables:
                self._check_text(template.render({}))

    @functools.cached_property
    def _templates(self) -> tuple[Template, ...]:
        try:
            return tuple(map(Template, (self.text,) if isinstance(self.text, str) else self.text))
        except TemplateInvalid as error:
            message = f"The scorer {self.name!r}: {error.message[:1].lower()}{error.message[1:]}"
            raise TemplateInvalid(message, fix=error.fix, **error.fields) from None

    def check(self, fields: set[str]) -> None:
        """See `Scorer`."""
        super().check(fields)
        for variable in sorted({name for template in self._templates for name in template.variables} - fields):
            known = ", ".join(sorted(fields)) or "none"
            raise TemplateInvalid(
                f"The scorer {self.name!r} uses {{{{ {variable} }}}}, which no input has.",
                fix=f"Give the inputs a field {variable!r}, or use one that they have: {known}.",
                prompt=self.name,
                variable=variable,
            )

    def texts_for(self, row: Mapping[str, Any]) -> list[str]:
        """The texts, filled in; those whose fields the input lacks are left out."""
        found: list[str] = []
        for template in self._templates:
            if any(is_missing(row.get(variable)) for variable in template.variables):
                continue
            alone = _ONE_VARIABLE.fullmatch(template.source)
            value = row.get(alone[1]) if alone else None
            found += [str(each) for each in value] if isinstance(value, list | tuple) else [template.render(row)]
        return [text for text in found if self.may_be_empty or text.strip()]

    def _check_text(self, text: str) -> None:
        """Refuse a fixed text that can never work."""


@dataclass(frozen=True, kw_only=True)
class _TextTest(PassFail, TextBased):
    """Whether the answer stands to a text as it shall; with several texts, to any of them."""

    ignore_case: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.ignore_case, bool):
            refuse(
                "ignore_case", f"{self.ignore_case!r} is neither True nor False", "Use True or False.", self.ignore_case
            )

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        texts = self.texts_for(row)
        return any(self._holds(answer, text) for text in texts) if texts else None

    def _holds(self, answer: str, text: str) -> bool:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Contains(_TextTest):
    kind: ClassVar[str] = "contains"

    def _holds(self, answer: str, text: str) -> bool:
        return same_letters(text, self.ignore_case) in same_letters(answer, self.ignore_case)


@dataclass(frozen=True, kw_only=True)
class _ContainsAny(_Contains):
    kind: ClassVar[str] = "contains_any"
    several: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class _ContainsAll(_Contains):
    kind: ClassVar[str] = "contains_all"
    several: ClassVar[bool] = True

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        texts = self.texts_for(row)
        return all(self._holds(answer, text) for text in texts) if texts else None


@dataclass(frozen=True, kw_only=True)
class _Equals(_TextTest):
    kind: ClassVar[str] = "equals"
    may_be_empty: ClassVar[bool] = True

    def _holds(self, answer: str, text: str) -> bool:
        return same_letters(answer.strip(), self.ignore_case) == same_letters(text.strip(), self.ignore_case)


@dataclass(frozen=True, kw_only=True)
class _StartsWith(_TextTest):
    kind: ClassVar[str] = "starts_with"

    def _holds(self, answer: str, text: str) -> bool:
        return same_letters(answer.lstrip(), self.ignore_case).startswith(same_letters(text, self.ignore_case))


@dataclass(frozen=True, kw_only=True)
class _EndsWith(_TextTest):
    kind: ClassVar[str] = "ends_with"

    def _holds(self, answer: str, text: str) -> bool:
        return same_letters(answer.rstrip(), self.ignore_case).endswith(same_letters(text, self.ignore_case))


@dataclass(frozen=True, kw_only=True)
class _Regex(_TextTest):
    kind: ClassVar[str] = "regex"

    _slow: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def _check_text(self, text: str) -> None:
        compiled(text, 0)

    def _holds(self, answer: str, text: str) -> bool:
        if len(self._slow) >= _SLOW_SEARCHES:
            raise ExperimentError(
                f"The scorer {self.name!r} is not tried any more: {_SLOW_SEARCHES} searches took too long, "
                f"the last for {self._slow[-1][:200]!r}.",
                fix="Write the pattern without repeats inside repeats, such as (a+)+.",
                pattern=text,
            )
        try:
            return search(text, answer, ignore_case=self.ignore_case)
        except BadInput:
            raise
        except ExperimentError:
            self._slow.append(text)
            raise


def contains(text: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer contains `text`.

    Args:
        text: The text, or a template such as "{{ expected }}". Letters written as one or two code points are the same.
        ignore_case: Whether capitals and small letters are the same.
        common: `name`, `negate`, `weight`, `when`: see `BaseScorer`.

    Raises:
        BadInput: For an empty text.
        TemplateInvalid: For a broken template.
    """
    return _Contains(text=text, ignore_case=ignore_case, **common)


def icontains(text: str, *, name: str = "", negate: bool = False, **common: Any) -> Scorer:
    """`contains` without regard to capitals; its default name is "icontains"."""
    chosen = name or ("not_icontains" if negate else "icontains")
    return _Contains(text=text, ignore_case=True, negate=negate, name=chosen, **common)


def not_contains(text: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer does not contain `text`; see `contains`."""
    return _Contains(text=text, ignore_case=ignore_case, negate=True, **common)


def contains_any(text: str | Iterable[str], *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer contains at least one of several texts; "{{ variable }}" may be a list. See `contains`."""
    return _ContainsAny(text=_listed(text), ignore_case=ignore_case, **common)


def contains_all(text: str | Iterable[str], *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer contains every one of several texts; "{{ variable }}" may be a list. See `contains`."""
    return _ContainsAll(text=_listed(text), ignore_case=ignore_case, **common)


def _listed(text: str | Iterable[str]) -> str | tuple[str, ...]:
    return text if isinstance(text, str) or not isinstance(text, Iterable) else tuple(text)


def equals(text: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer is `text`, white space at the ends aside; arguments as for `contains`."""
    return _Equals(text=text, ignore_case=ignore_case, **common)


def starts_with(text: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer begins with `text`, white space before it aside; arguments as for `contains`."""
    return _StartsWith(text=text, ignore_case=ignore_case, **common)


def ends_with(text: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether the answer ends with `text`, white space after it aside; arguments as for `contains`."""
    return _EndsWith(text=text, ignore_case=ignore_case, **common)


def regex(pattern: str, *, ignore_case: bool = False, **common: Any) -> Scorer:
    """Whether a regular expression (Python's) is found in the answer.

    A search that takes more than a second is an error in that cell; after three of them the scorer is not tried again.

    Args:
        pattern: At most 2,000 characters; may be a template, whose values then are part of the pattern.
        ignore_case: Whether capitals and small letters are the same.
        common: `name`, `negate`, `weight`, `when`: see `BaseScorer`.

    Raises:
        BadInput: When the pattern is no regular expression.
        TemplateInvalid: For a broken template.
    """
    return _Regex(text=pattern, ignore_case=ignore_case, **common)
