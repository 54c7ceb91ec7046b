"""Scorers that compare the answer with a text, which may be a template over the input's fields."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from noa_lab.errors import BadInput, ExperimentError, TemplateInvalid
from noa_lab.experiments.grid._templates import Template
from noa_lab.experiments.score._base import PassFail, refuse
from noa_lab.experiments.score._matching import compiled, search

__all__ = ["Contains", "Equals", "Regex", "StartsWith"]

_SLOW_SEARCHES = 3


def _same_letters(text: str, ignore_case: bool) -> str:
    """One spelling of letters that look the same: an e with an accent may be one character or two."""
    composed = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", composed.casefold()) if ignore_case else composed


@dataclass(frozen=True, kw_only=True)
class _TextTest(PassFail):
    """A test against a text that may be a template over the input's fields."""

    text: str
    ignore_case: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        text: Any = self.text
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            refuse(self.kind, f"{text!r} is no text", 'Give a text or a template such as "{{ expected }}".', text)
        object.__setattr__(self, "text", str(self.text))
        if not self.text:
            refuse(
                self.kind, "the text is empty, which every answer holds", 'Give a text, or "{{ expected }}".', self.text
            )
        if not isinstance(self.ignore_case, bool):
            refuse(
                "ignore_case", f"{self.ignore_case!r} is neither True nor False", "Use True or False.", self.ignore_case
            )
        if not self._template.variables:
            self._check_text(self._template.render({}))

    @functools.cached_property
    def _template(self) -> Template:
        try:
            return Template(self.text)
        except TemplateInvalid as error:
            message = f"The scorer {self.name!r}: {error.message[:1].lower()}{error.message[1:]}"
            raise TemplateInvalid(message, fix=error.fix, **error.fields) from None

    def check(self, fields: set[str]) -> None:
        """See `Scorer`."""
        for variable in sorted(self._template.variables - fields):
            known = ", ".join(sorted(fields)) or "none"
            raise TemplateInvalid(
                f"The scorer {self.name!r} uses {{{{ {variable} }}}}, which no input has.",
                fix=f"Give the inputs a field {variable!r}, or use one that they have: {known}.",
                prompt=self.name,
                variable=variable,
            )

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        if any(_missing(row.get(variable)) for variable in self._template.variables):
            return None
        text = self._template.render(row)
        return self._holds(answer, text) if text.strip() or self.kind == Equals.kind else None

    def _holds(self, answer: str, text: str) -> bool:
        raise NotImplementedError

    def _check_text(self, text: str) -> None:
        """Refuse a fixed text that can never work."""

    def _argument(self) -> Any:
        return self.text

    def _options(self) -> dict[str, Any]:
        return {"ignore_case": True} if self.ignore_case else {}


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True, kw_only=True)
class Contains(_TextTest):
    """Whether the answer contains the text."""

    kind: ClassVar[str] = "contains"

    def _holds(self, answer: str, text: str) -> bool:
        return _same_letters(text, self.ignore_case) in _same_letters(answer, self.ignore_case)


@dataclass(frozen=True, kw_only=True)
class Equals(_TextTest):
    """Whether the answer is the text; spaces and newlines around both do not count."""

    kind: ClassVar[str] = "equals"

    def _holds(self, answer: str, text: str) -> bool:
        return _same_letters(answer.strip(), self.ignore_case) == _same_letters(text.strip(), self.ignore_case)


@dataclass(frozen=True, kw_only=True)
class StartsWith(_TextTest):
    """Whether the answer begins with the text; spaces and newlines before it do not count."""

    kind: ClassVar[str] = "starts_with"

    def _holds(self, answer: str, text: str) -> bool:
        return _same_letters(answer.lstrip(), self.ignore_case).startswith(_same_letters(text, self.ignore_case))


@dataclass(frozen=True, kw_only=True)
class Regex(_TextTest):
    """Whether the regular expression is found anywhere in the answer; a search takes at most a second."""

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
