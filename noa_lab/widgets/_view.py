"""What a panel shows, as plain data: the words that panels are written in.

A panel is a function from its state to a `View`. The browser (static/*.js) and the static forms (`_static`) draw the same view, so
neither knows anything that the other does not. Everything in a view is ready for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

__all__ = [
    "PAGE",
    "Block",
    "Kind",
    "View",
    "button",
    "buttons",
    "cell",
    "clip",
    "code",
    "column",
    "facts",
    "field",
    "flat",
    "log",
    "message",
    "panel_view",
    "progress",
    "section",
    "split",
    "table",
    "text",
]

Block = dict[str, Any]
"""One thing in a panel: `type`, an `id` that is unique in the panel and stable over its views, and what the type needs."""

View = dict[str, Any]
"""A whole panel: panel, title, intro, state, status, messages, blocks."""

Kind = Literal["ok", "info", "busy", "warn", "error"]
"""What a status or a message means; the renderers show it as a sign and a word, never as a colour alone."""

PAGE = 20
"""Rows of a table that are sent to the browser at a time."""


def panel_view(
    panel: str,
    title: str,
    *,
    intro: str,
    kind: Kind,
    status: str,
    messages: Sequence[Block],
    blocks: Iterable[Block | None],
) -> View:
    """A whole panel; blocks that are None are left out."""
    return {
        "panel": panel,
        "title": title,
        "intro": intro,
        "state": kind,
        "status": status,
        "messages": list(messages),
        "blocks": [block for block in blocks if block is not None],
    }


def message(kind: Kind, what: str, fix: str = "") -> Block:
    """A line of the message strip: what happened, and what to do about it."""
    return {"kind": kind, "text": clip(what, 2000), "fix": clip(fix, 1000)}


def section(
    id: str,  # noqa: A002
    label: str,
    blocks: Iterable[Block | None],
    *,
    layout: Literal["stack", "columns", "row"] = "stack",
    folded: bool | None = None,
) -> Block:
    """Blocks under a heading; `folded` makes it one that can be opened and says whether it starts closed."""
    inside = [block for block in blocks if block is not None]
    return {"type": "section", "id": id, "label": label, "layout": layout, "folded": folded, "blocks": inside}


def facts(id: str, label: str, items: Iterable[tuple[str, object]]) -> Block:  # noqa: A002
    """Pairs of a name and what is known about it."""
    return {
        "type": "facts",
        "id": id,
        "label": label,
        "items": [[name, clip(str(value), 300)] for name, value in items],
    }


def field(
    id: str,  # noqa: A002
    label: str,
    value: str | bool,
    *,
    kind: Literal["text", "number", "area", "select", "checkbox"] = "text",
    options: Iterable[tuple[str, str]] = (),
    help: str = "",  # noqa: A002
    error: str = "",
    rows: int = 3,
    enabled: bool = True,
) -> Block:
    """Something to fill in.

    Args:
        id: Name under which the browser sends what was typed.
        label: Visible name.
        value: What it holds now: text as the user typed it, or whether it is ticked.
        kind: How it is filled in.
        options: Value and label of each choice of a "select".
        help: One line below it.
        error: What is wrong with its value; shown in place of `help`.
        rows: Height of an "area", in lines.
        enabled: Whether it can be changed now.
    """
    return {
        "type": "field",
        "id": id,
        "label": label,
        "kind": kind,
        "value": value,
        "options": [list(option) for option in options],
        "help": help,
        "error": error,
        "rows": rows,
        "enabled": enabled,
    }


def button(
    action: str,
    label: str,
    *,
    enabled: bool = True,
    primary: bool = False,
    small: bool = False,
    args: Mapping[str, Any] | None = None,
) -> Block:
    """A button that sends `action`; one per panel is primary at a time."""
    return {
        "action": action,
        "label": label,
        "enabled": enabled,
        "primary": primary,
        "small": small,
        "args": dict(args or {}),
    }


def buttons(id: str, items: Iterable[Block | None]) -> Block:  # noqa: A002
    """Buttons in a row."""
    return {"type": "buttons", "id": id, "items": [item for item in items if item is not None]}


def progress(id: str, label: str, fraction: float | None, words: str) -> Block:  # noqa: A002
    """How far something is: a share from 0 to 1, or None where it cannot be known, and the same in words."""
    share = None if fraction is None else round(min(1.0, max(0.0, fraction)), 4)
    return {"type": "progress", "id": id, "label": label, "fraction": share, "text": clip(words, 300)}


def text(id: str, words: str, *, kind: Kind | None = None) -> Block:  # noqa: A002
    """A paragraph; with a kind, one that stands out."""
    return {"type": "text", "id": id, "text": clip(words, 2000), "kind": kind}


def code(id: str, label: str, source: str) -> Block:  # noqa: A002
    """Text to copy."""
    return {"type": "code", "id": id, "label": label, "text": source}


def log(id: str, label: str, lines: Iterable[str]) -> Block:  # noqa: A002
    """The end of a log."""
    return {"type": "log", "id": id, "label": label, "text": "\n".join(clip(line, 300) for line in lines)}


def column(label: str, *, align: Literal["start", "end"] = "start", wide: bool = False) -> Block:
    """A column of a table; a wide one takes the room that is left."""
    return {"label": label, "align": align, "wide": wide}


def cell(
    words: str,
    *,
    marks: Iterable[tuple[Kind, str]] = (),
    action: str = "",
    chosen: bool | None = None,
    args: Mapping[str, Any] | None = None,
) -> Block:
    """A table cell with marks below its text, or one that can be pressed."""
    content: Block = {"text": words, "marks": [list(mark) for mark in marks]}
    if action:
        content |= {"action": action, "chosen": chosen, "args": dict(args or {})}
    return content


def table(
    id: str,  # noqa: A002
    label: str,
    columns: Iterable[Block],
    rows: Iterable[Sequence[str | Block]],
    *,
    offset: int = 0,
    total: int | None = None,
    empty: str = "Nothing yet.",
    export: bool = True,
) -> Block:
    """A table. The browser gets one page of a long one at a time, and can save all of it as CSV.

    Args:
        id: Name under which its pages are turned.
        label: What it shows; also what its file is called.
        columns: From `column`.
        rows: All of them; or, of a table that is too long to be drawn as a whole, the page that starts at row `offset` of `total`.
        offset: First row of such a page.
        total: Rows of such a table in all.
        empty: What stands there when there are no rows.
        export: Whether the browser can save it; not where the panel has a better way.
    """
    shown = [list(row) for row in rows]
    return {
        "type": "table",
        "id": id,
        "label": label,
        "columns": list(columns),
        "rows": shown,
        "offset": offset,
        "total": len(shown) if total is None else total,
        "empty": empty,
        "export": export,
    }


def clip(words: str, limit: int) -> str:
    """`words`, shortened to `limit` characters with an ellipsis."""
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


_HEAVY = {"table": ("rows", "offset", "total"), "code": ("text",), "log": ("text",)}


def flat(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with those inside of sections in their place."""
    for block in blocks:
        if block["type"] == "section":
            yield from flat(block["blocks"])
        else:
            yield block


def split(blocks: list[Block], parts: dict[str, Any], offset: Callable[[str, int], int]) -> list[Block]:
    """The blocks without their heavy parts, which go into `parts` by block id; of a long table one page.

    Args:
        blocks: The blocks.
        parts: Takes the heavy parts.
        offset: From a table's id and the number of its rows to the first row that is shown.
    """
    light = []
    for block in blocks:
        heavy = _HEAVY.get(block["type"], ())
        if heavy:
            page = _page(block, offset) if block["type"] == "table" else block
            parts[block["id"]] = {name: page[name] for name in heavy}
        kept = {name: value for name, value in block.items() if name not in heavy}
        if block["type"] == "section":
            kept["blocks"] = split(block["blocks"], parts, offset)
        light.append(kept)
    return light


def _page(block: Block, offset: Callable[[str, int], int]) -> Block:
    """The page of a table that is shown; a table that was given as a page is that page."""
    if block["total"] > len(block["rows"]):
        return block
    first = offset(block["id"], block["total"])
    return {**block, "offset": first, "rows": block["rows"][first : first + PAGE]}
