"""Scorers of answers that shall be XML or HTML, or hold some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, ClassVar
from xml.parsers import expat

from noa_lab.errors import ExperimentError
from noa_lab.experiments.score._base import PassFail, Scorer, refuse

__all__ = ["contains_html", "contains_xml", "html_valid", "xml_valid"]

_MOST_TRIES = 50
_MOST_CHARACTERS = 20_000
"""Of HTML: Python's parser takes time with the square of a text that opens tags and closes none."""

_TAG = re.compile(r"<([A-Za-z_][\w.-]{0,60})[\s/>]")
_HTML = frozenset({
    "a", "abbr", "article", "aside", "audio", "b", "blockquote", "body", "br", "button", "canvas", "caption", "cite", "code",
    "col", "dd", "del", "details", "div", "dl", "dt", "em", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2",
    "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "i", "iframe", "img", "input", "ins", "label", "legend", "li", "link",
    "main", "mark", "meta", "nav", "ol", "option", "p", "pre", "q", "s", "samp", "script", "section", "select", "small", "span",
    "strong", "style", "sub", "summary", "sup", "svg", "table", "tbody", "td", "template", "textarea", "tfoot", "th", "thead",
    "time", "title", "tr", "u", "ul", "video",
})  # fmt: skip
_VOID = frozenset(["br", "col", "hr", "img", "input", "link", "meta"])
_OPTIONAL_END = frozenset(
    ["body", "dd", "dt", "head", "html", "li", "option", "p", "tbody", "td", "tfoot", "th", "thead", "tr"]
)


@dataclass(frozen=True, kw_only=True)
class _Xml(PassFail):
    """Well-formed XML. Documents that declare entities are refused: they can grow without end."""

    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names: Any = self.required
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            refuse("required", f"{names!r} is no list of elements", 'Give paths, for example ["answer/text"].', names)
        object.__setattr__(self, "required", tuple(names))

    def _fits(self, text: str) -> bool:
        found = _elements(text)
        return found is not None and all(any(path.endswith(f"/{name}") for path in found) for name in self.required)


@dataclass(frozen=True, kw_only=True)
class _XmlValid(_Xml):
    kind: ClassVar[str] = "xml_valid"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        return self._fits(answer.strip())


@dataclass(frozen=True, kw_only=True)
class _ContainsXml(_Xml):
    kind: ClassVar[str] = "contains_xml"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        place = 0
        for _ in range(_MOST_TRIES):
            start = _TAG.search(answer, place)
            if start is None:
                return False
            ending = f"</{start[1]}>"
            end = answer.find(ending, start.start())
            closed = answer.find("/>", start.start())
            for stop in (end + len(ending) if end >= 0 else -1, closed + 2 if closed >= 0 else -1):
                if stop > 0 and self._fits(answer[start.start() : stop]):
                    return True
            place = start.end()
        return False


def _elements(text: str) -> set[str] | None:
    """The paths of all elements, each beginning with "/"; None where the text is no XML."""
    parser = expat.ParserCreate()
    open_: list[str] = []
    found: set[str] = set()

    def start(name: str, _: object) -> None:
        open_.append(name)
        found.add("/" + "/".join(open_))

    def entity(*_: object) -> None:
        raise ValueError("entities are not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_.pop()
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except (expat.ExpatError, ValueError):
        return None
    return found


class _Reader(HTMLParser):
    """Notes the known elements, what stands outside of them, and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.known = self.outside = False
        self.broken = False
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.known |= tag in _HTML
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.known |= tag in _HTML

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1] != tag and self._open[-1] in _OPTIONAL_END:
            self._open.pop()
        if not self._open or self._open.pop() != tag:
            self.broken = True

    def handle_data(self, data: str) -> None:
        self.outside |= not self._open and bool(data.strip())

    @property
    def complete(self) -> bool:
        """Whether everything that has to be closed is."""
        return not self.broken and all(tag in _OPTIONAL_END for tag in self._open)


def _read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader


@dataclass(frozen=True, kw_only=True)
class _HtmlValid(PassFail):
    kind: ClassVar[str] = "html_valid"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        if len(answer) > _MOST_CHARACTERS:
            raise ExperimentError(
                f"{len(answer):,} characters are too many to be checked as HTML.",
                fix=f"Keep answers below {_MOST_CHARACTERS:,} characters, or use contains_html.",
                characters=len(answer),
            )
        page = _read(answer)
        return page.known and page.complete and not page.outside


@dataclass(frozen=True, kw_only=True)
class _ContainsHtml(PassFail):
    kind: ClassVar[str] = "contains_html"

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        return _read(answer[:_MOST_CHARACTERS]).known


def xml_valid(*, required: Iterable[str] = (), **common: Any) -> Scorer:
    """Whether the whole answer is well-formed XML; with `required`, with these elements ("title", "answer/text")."""
    names: Any = required if isinstance(required, str) else tuple(required)
    return _XmlValid(required=names, **common)


def contains_xml(*, required: Iterable[str] = (), **common: Any) -> Scorer:
    """Whether a well-formed XML element stands somewhere in the answer; with `required`, one that has these elements."""
    names: Any = required if isinstance(required, str) else tuple(required)
    return _ContainsXml(required=names, **common)


def html_valid(**common: Any) -> Scorer:
    """Whether the whole answer is HTML: known elements, closed in order, no text outside of them; at most 20,000 characters."""
    return _HtmlValid(**common)


def contains_html(**common: Any) -> Scorer:
    """Whether the answer has an HTML element in its first 20,000 characters."""
    return _ContainsHtml(**common)
