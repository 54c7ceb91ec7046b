"""Lists that read as tables, and the words in them: amounts for people, text that cannot drive a terminal."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any, ClassVar, Self, SupportsIndex, TypeVar, overload

__all__ = ["TableList", "duration", "printable", "size"]

Row = TypeVar("Row")

_WIDTH = 80
_MOST_ROWS = 100
_SHORT_WORDS = 30
"""Characters up to which a cell stays on one line in a notebook."""
_WHOLE_COLUMN = 24
"""Characters up to which a column is not shortened in plain text."""


class TableList(list[Row]):
    """A list of dataclasses that a notebook shows as a table, and a terminal as lines of at most 80 columns.

    Everything else is a list's; a slice is a table again. `pandas.DataFrame(found)` has every field of every row, and with it
    come all of pandas' formats: `pandas.DataFrame(found).to_csv("found.csv")`. At most 100 rows are shown, and it is said how many
    there are beside them.
    """

    _heads: ClassVar[tuple[str, ...]]
    """Names of the columns."""
    _short: ClassVar[tuple[str, ...]] = ()
    """Those of them that plain text has room for; none: all."""
    _empty: ClassVar[str]
    """What is said when there is nothing."""

    def _cells(self, row: Row) -> tuple[object, ...]:
        """A row's cells, one for each of `_heads`."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Row: ...
    @overload
    def __getitem__(self, index: slice[Any, Any, Any], /) -> Self: ...
    def __getitem__(self, index: SupportsIndex | slice[Any, Any, Any], /) -> Row | Self:
        return type(self)(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        if not self:
            return self._empty
        shown = [self._heads.index(name) for name in self._short or self._heads]
        rows = [[str(cell) for cell in self._cells(row)] for row in self[:_MOST_ROWS]]
        lines = _as_text([self._heads[at] for at in shown], [[row[at] for at in shown] for row in rows])
        return lines + (f"\n{self._left}" if self._left else "")

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{html.escape(self._empty)}</div>"
        head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in self._heads)
        body = "".join(f"<tr>{''.join(map(_as_cell, self._cells(row)))}</tr>" for row in self[:_MOST_ROWS])
        left = f"<div>{html.escape(self._left)}</div>" if self._left else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{left}"

    @property
    def _left(self) -> str:
        """What is said of the rows that are not shown."""
        left = len(self) - _MOST_ROWS
        return f"... and {left} more; pandas.DataFrame(...) has all of them" if left > 0 else ""


def _as_cell(value: object) -> str:
    # JupyterLab's tables are right-aligned; names are not read well that way.
    text = str(value)
    style = "text-align: left" + ("; white-space: nowrap" if len(text) <= _SHORT_WORDS else "")
    return f'<td style="{style}">{html.escape(text)}</td>'


def _as_text(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in plain text; where they do not fit, the widest are shortened."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plain = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False)
    for at, head in enumerate(heads):
        longest = max(len(row[at]) for row in plain)
        table.add_column(
            Text(head, no_wrap=True, overflow="ellipsis"), no_wrap=max(longest, len(head)) <= _WHOLE_COLUMN
        )
    for row in plain:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    page = io.StringIO()
    console = Console(
        file=page, width=_WIDTH, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()).rstrip("\n")


def size(count: float) -> str:
    """Bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    whole = round(seconds)
    return (
        f"{seconds:.1f} s" if seconds < 10 else f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"
    )


def printable(text: str) -> str:
    """The text with every character replaced that a terminal could obey (C0 and C1 controls) or that turns text around (bidi).

    Line feeds and tabs stay.
    """
    return text.translate(_OBEYED)


_OBEYED = {
    code: "\ufffd"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0x061C,
        0x200E,
        0x200F,
    )
    if chr(code) not in "\n\t"
}
