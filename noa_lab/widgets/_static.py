"""A view without a browser that can run scripts: HTML for GitHub, nbconvert and untrusted notebooks, Markdown, plain text.

No script, no class, no outside address: inline styles only, everything escaped, at most 20 KB.
"""

from __future__ import annotations

from html import escape
from typing import Any

from noa_lab.widgets._view import PAGE, Block, View, clip, flat

__all__ = ["LIMIT", "SIGNS", "as_html", "as_markdown", "as_text"]

LIMIT = 20_000
"""Most bytes of the HTML form."""

SIGNS = {"ok": "✓", "info": "·", "busy": "…", "warn": "!", "error": "✗"}
"""The sign of each kind, so that no meaning hangs on a colour."""

_WORDS = {"warn": "Warning: ", "error": "Error: "}
_FRAME = "border:1px solid #8886;border-radius:4px;padding:10px 14px;max-width:72em"
_PRE = "white-space:pre-wrap;border:1px solid #8884;padding:6px 8px;margin:4px 0;font-size:90%"
_CELL = "text-align:left;vertical-align:top"


def as_html(view: View) -> str:
    """The view as HTML; tables and long texts are shortened until it fits into `LIMIT`."""
    for rows, chars in ((20, 400), (10, 200), (4, 100), (0, 80)):
        page = _html(view, rows, chars)
        if len(page.encode()) <= LIMIT:
            return page
    return f'<div style="{_FRAME}"><b>{escape(view["title"])}</b><div>{escape(clip(view["status"], 500))}</div></div>'


def _html(view: View, rows: int, chars: int) -> str:
    parts = [f'<div style="{_FRAME}"><b>{escape(view["title"])}</b> · {_sign(view["state"])} {escape(view["status"])}']
    for entry in view["messages"]:
        words = _WORDS.get(entry["kind"], "") + clip(entry["text"], chars)
        parts.append(f"<div>{_sign(entry['kind'])} {escape(words)} {escape(clip(entry['fix'], chars))}</div>")
    parts.extend(_block_html(block, rows, chars) for block in view["blocks"])
    parts.append('<div style="opacity:.75;font-size:85%">Run this cell in JupyterLab to use the panel.</div></div>')
    return "\n".join(part for part in parts if part)


def _block_html(block: Block, rows: int, chars: int) -> str:
    kind = block["type"]
    if kind == "section":
        inside = "".join(_block_html(inner, rows, chars) for inner in block["blocks"])
        label = f"<div><b>{escape(block['label'])}</b></div>" if block["label"] else ""
        return f'<div style="margin:8px 0">{label}{inside}</div>' if inside else ""
    if kind == "table":
        return _table_html(block, rows, chars)
    if kind in {"code", "log"}:
        return f'<pre style="{_PRE}">{escape(clip(block["text"], chars * 8))}</pre>' if block["text"] else ""
    return "".join(f"<div>{escape(clip(line, chars))}</div>" for line in _lines(block))


def _table_html(block: Block, rows: int, chars: int) -> str:
    heads = "".join(f'<th style="{_CELL}">{escape(head["label"])}</th>' for head in block["columns"])
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(clip(_cell(item), chars))}</td>' for item in row) + "</tr>"
        for row in block["rows"][:rows]
    )
    left = block["total"] - min(rows, len(block["rows"]))
    more = f"<div>… and {left} more rows</div>" if left > 0 else ""
    grid = f'<table cellpadding="4"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    content = grid if body else f"<div>{escape(block['empty'])}</div>"
    return f"<div>{escape(block['label'])}</div>{content}{more if body else ''}"


def as_markdown(view: View) -> str:
    """The view as Markdown, for readers that take no HTML (agents among them)."""
    lines = [f"**{_plain(view['title'])}**: {SIGNS[view['state']]} {_plain(view['status'])}", ""]
    lines += [
        f"- {SIGNS[entry['kind']]} {_plain(_WORDS.get(entry['kind'], '') + entry['text'])} {_plain(entry['fix'])}"
        for entry in view["messages"]
    ]
    for block in flat(view["blocks"]):
        if block["type"] == "table" and block["rows"]:
            heads = [_plain(head["label"]) or " " for head in block["columns"]]
            lines += ["", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
            lines += [
                f"| {' | '.join(_plain(clip(_cell(item), 200)) for item in row)} |" for row in block["rows"][:PAGE]
            ]
            left = block["total"] - min(PAGE, len(block["rows"]))
            lines += ["", f"… and {left} more rows", ""] if left > 0 else [""]
        elif block["type"] in {"code", "log"} and block["text"]:
            fence = "`" * max(3, _longest_fence(block["text"]) + 1)
            lines += ["", fence + ("python" if block["type"] == "code" else ""), clip(block["text"], 4000), fence, ""]
        else:
            lines += [f"- {_plain(line)}" for line in _lines(block)]
    return "\n".join(lines)


def as_text(view: View) -> str:
    """The view in one short paragraph of plain text."""
    notes = "".join(f"\n{SIGNS[entry['kind']]} {entry['text']} {entry['fix']}".rstrip() for entry in view["messages"])
    return f"{view['panel']}: {view['status']}{notes}"


def _lines(block: Block) -> list[str]:
    """The blocks that are a few words, in words."""
    kind = block["type"]
    if kind == "facts":
        return [f"{name}: {value}" for name, value in block["items"]]
    if kind == "field":
        return [f"{block['label']}: {_value(block)}" + (f" ({block['error']})" if block["error"] else "")]
    if kind == "progress":
        share = "" if block["fraction"] is None else f"{block['fraction']:.0%} "
        return [f"{block['label']}: {share}{block['text']}"]
    if kind == "text":
        return [(f"{SIGNS[block['kind']]} " if block["kind"] else "") + block["text"]]
    return []


def _value(block: Block) -> str:
    if block["kind"] == "checkbox":
        return "yes" if block["value"] else "no"
    if block["kind"] == "select":
        return str(dict(block["options"]).get(block["value"], block["value"]))
    return str(block["value"]) or "(empty)"


def _cell(item: Any) -> str:
    if isinstance(item, str):
        return item
    marks = " ".join(f"{SIGNS[kind]} {words}" for kind, words in item["marks"])
    return f"{item['text']} [{marks}]" if marks and item["text"] else item["text"] or marks


def _sign(kind: str) -> str:
    return f'<span aria-hidden="true">{SIGNS[kind]}</span>'


def _plain(words: str) -> str:
    """Text that stays on its line and cannot become markup of a Markdown document."""
    flat = " ".join(words.split())
    for mark in "\\`*_[]|<>#!":
        flat = flat.replace(mark, "\\" + mark)
    return flat


def _longest_fence(words: str) -> int:
    longest = run = 0
    for letter in words:
        run = run + 1 if letter == "`" else 0
        longest = max(longest, run)
    return longest
