"""A digest for people: Markdown and HTML. File names, manifests and the model's words are hostile: everything is escaped."""

from __future__ import annotations

import html
import re
from collections import Counter

from noa_lab.agents._digest import RepositoryDigest
from noa_lab.agents._names import shown

__all__ = ["markdown", "page"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_MOST_ROWS = 30
_AUTHOR = {"model": "the model", "docs": "its documentation", "code": "counted", "nobody": "nobody"}


def markdown(digest: RepositoryDigest) -> str:
    """The digest as Markdown."""
    facts = digest.facts
    lines = [f"# {_plain(facts.name or 'Digest')}", ""]
    lines += [
        f"{_plain(digest.purpose)} *(by {_AUTHOR[digest.purpose_by]})*"
        if digest.purpose
        else "*No purpose could be told.*",
        "",
    ]
    lines += [f"- {label}: {_plain(value)}" for label, value in _summary(digest)]
    for title, heads, rows in _tables(digest):
        lines += ["", f"## {title}", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        lines += [f"| {' | '.join(map(_plain, row))} |" for row in rows[:_MOST_ROWS]]
        if len(rows) > _MOST_ROWS:
            lines += ["", f"... and {len(rows) - _MOST_ROWS} more."]
    if digest.warnings:
        lines += ["", "## Notes", "", *(f"- {_plain(warning)}" for warning in digest.warnings)]
    return "\n".join(lines) + "\n"


def page(digest: RepositoryDigest) -> str:
    """The digest as a piece of HTML without scripts or outside resources."""
    facts = digest.facts
    body = [f"<h3>{_html(facts.name or 'Digest')}</h3>"]
    if digest.purpose:
        author = f'<span style="opacity:.7">(by {_AUTHOR[digest.purpose_by]})</span>'
        body.append(f"<p>{_html(digest.purpose)} {author}</p>")
    else:
        body.append("<p><em>No purpose could be told.</em></p>")
    rows = "".join(
        f"<tr><th style='text-align:left'>{_html(a)}</th><td style='text-align:left'>{_html(b)}</td></tr>"
        for a, b in _summary(digest)
    )
    body.append(f"<table>{rows}</table>")
    for title, heads, cells in _tables(digest):
        head = "".join(f"<th style='text-align:left'>{_html(name)}</th>" for name in heads)
        inner = "".join(
            f"<tr>{''.join(f'<td style={_LEFT}>{_html(cell)}</td>' for cell in row)}</tr>" for row in cells[:_MOST_ROWS]
        )
        more = f"<p>... and {len(cells) - _MOST_ROWS} more.</p>" if len(cells) > _MOST_ROWS else ""
        opened = " open" if title == "Components" else ""
        body.append(
            f"<details{opened}><summary>{title} ({len(cells)})</summary><table><tr>{head}</tr>{inner}</table>{more}</details>"
        )
    if digest.warnings:
        body.append("<ul>" + "".join(f"<li>{_html(warning)}</li>" for warning in digest.warnings) + "</ul>")
    return f'<div class="noa-lab-digest">{"".join(body)}</div>'


_LEFT = "'text-align:left'"


def _summary(digest: RepositoryDigest) -> list[tuple[str, str]]:
    facts = digest.facts
    code = [f"{language.name} ({language.lines} lines in {language.files})" for language in facts.languages[:5]]
    rows = [
        ("Status", digest.status),
        ("Files", f"{facts.files} ({_size(facts.bytes)}, {facts.lines} lines of text), listed by {facts.source}"),
        ("Languages", ", ".join(code) or "none known"),
        ("Tests", f"{facts.test_files} files"),
        ("Licence", facts.licence or "none found"),
        (
            "Model",
            f"{digest.model or 'none'}, prompt {digest.prompt_name!r}"
            if digest.prompt_name
            else digest.model or "none",
        ),
        ("Tokens", f"{digest.tokens.prompt} in and {digest.tokens.completion} out, {digest.tokens.questions} requests"),
    ]
    if digest.redacted_secrets:
        rows.append(("Secrets taken out", str(digest.redacted_secrets)))
    if digest.dropped_citations:
        rows.append(("Paths named by the model that do not exist", str(digest.dropped_citations)))
    return rows


def _tables(digest: RepositoryDigest) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    facts = digest.facts
    reasons = Counter(entry.reason for entry in digest.omitted)
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = [
        (
            "Components",
            ("Path", "Role", "By", "In its own words"),
            [(c.path, c.role, _AUTHOR[c.by], "" if c.by == "docs" else c.own_words) for c in digest.components],
        ),
        (
            "Entry points",
            ("Name", "Kind", "Target", "Said in"),
            [(e.name, e.kind, e.target, e.path) for e in facts.entry_points],
        ),
        (
            "Dependencies",
            ("Name", "Wanted", "Group", "Said in"),
            [(d.name, d.requirement or "any", d.group, d.manifest) for d in facts.dependencies],
        ),
        ("Left out", ("Reason", "Files"), [(reason, str(count)) for reason, count in reasons.most_common()]),
    ]
    return [entry for entry in tables if entry[2]]


def _plain(text: str) -> str:
    """One line of Markdown in which nothing is markup; an address does not become a link."""
    escaped = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return escaped.replace("://", ":\u2060//")


def _html(text: str) -> str:
    return html.escape(" ".join(shown(text).replace("\\\\", "\\").split()))


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
