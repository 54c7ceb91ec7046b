"""Text for HTML: everything that a model or a user wrote goes through here."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["clean", "esc", "flat", "number", "plain", "pre", "prose"]

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SHOWN = 1_500
_MOST = 20_000


def clean(text: object) -> str:
    """The text with what HTML and UTF-8 cannot carry replaced by a visible sign."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def esc(text: object) -> str:
    """The text for HTML content and quoted attributes."""
    return html.escape(clean(text), quote=True)


def prose(text: object, css: str = "text") -> str:
    """A block of somebody's text, its line breaks kept, its direction its own; long ones fold, very long ones are cut and say so."""
    content = clean(text)
    if not content.strip():
        return f'<p class="{css}"><em>(empty)</em></p>'
    if len(content) <= _SHOWN:
        return f'<p class="{css}" dir="auto">{html.escape(content)}</p>'
    rest = content[_SHOWN:_MOST]
    cut = f" The first {_MOST:,} are shown." if len(content) > _MOST else ""
    return (
        f'<p class="{css}" dir="auto">{html.escape(content[:_SHOWN])}…</p>'
        f"<details><summary>{len(content):,} characters: read on.{cut}</summary>"
        f'<p class="{css}" dir="auto">{html.escape(rest)}</p></details>'
    )


def pre(text: object) -> str:
    """Text whose spaces matter."""
    return f'<pre dir="auto">{esc(text)}</pre>'


def number(value: float, digits: int = 2) -> str:
    """A number, or a dash for NaN."""
    return "–" if value != value else f"{value:,.{digits}f}"  # noqa: RUF001 - NaN; an en dash


def plain(value: Any) -> str:
    """A value as people write it: texts bare, None as a dash, structures as JSON."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def flat(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows of a dotted name and a text."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name}.")
        else:
            rows.append((name, plain(value)))
    return rows
