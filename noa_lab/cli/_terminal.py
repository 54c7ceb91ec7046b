"""Printing for people: progress while work goes on, tables, errors with their fix."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from noa_lab.errors import NoaLabError
from noa_lab.events import Progress
from noa_lab.tables import duration, printable, size

__all__ = ["TerminalReport", "print_error", "print_json", "print_table", "say"]

LIVE_SECONDS = 0.1
PLAIN_SECONDS = 15.0


class TerminalReport:
    """A `Report` that draws progress on standard error: one moving line on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Keeps lines whole when several threads report."""
        self._live = sys.stderr.isatty()
        self._step = ""
        self._started = 0.0
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        with self._lock:
            now = time.monotonic()
            if progress.step != self._step:
                self._step, self._started, self._shown = progress.step, now, 0.0
                self._print(f"· {progress.step}" + (f": {progress.message}" if progress.message else ""))
            if progress.finished:
                took = duration(now - self._started)
                self._print(f"  {progress.message or 'done'} ({took})")
                self._step = ""
            elif now - self._shown >= (LIVE_SECONDS if self._live else PLAIN_SECONDS) and self._shown:
                self._shown = now
                self._print(f"  {self._line(progress, now)}", moving=True)
            elif not self._shown:
                self._shown = now

    def _line(self, progress: Progress, now: float) -> str:
        parts = [duration(now - self._started)]
        if progress.done is not None:
            as_text = size if progress.unit == "bytes" else "{:.0f}".format
            parts.append(as_text(progress.done) + (f" of {as_text(progress.total)}" if progress.total else ""))
        if progress.fraction is not None:
            parts.append(f"{progress.fraction:.0%}")
        if progress.rate and progress.unit == "bytes":
            parts.append(f"{size(progress.rate)}/s")
            parts.append(f"{duration(progress.eta_seconds)} left" if progress.eta_seconds else "")
        parts.append(progress.message)
        return "  ".join(part for part in parts if part)[:110]

    def _print(self, text: str, *, moving: bool = False) -> None:
        text = printable(text)
        if self._live:
            sys.stderr.write(f"\r\033[K{text}" + ("" if moving else "\n"))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def print_error(error: NoaLabError) -> None:
    """An error on standard error: what went wrong, and what to do."""
    sys.stderr.write(f"noa-lab: {printable(error.message)}\n")
    if error.fix:
        sys.stderr.write(f"  Fix: {printable(error.fix)}\n")


def print_json(data: Any) -> None:
    """Data on standard output as JSON; text that the terminal could take for control codes is escaped."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; texts are printed as they are, without markup. Columns without any name have no head line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(value: object) -> Text:
        return Text(" ".join(printable(str(value)).split()))

    table = Table(
        title=plain(title) if title else None, title_justify="left", title_style="bold", show_header=any(columns)
    )
    for column in columns:
        table.add_column(plain(column))
    for row in rows:
        table.add_row(*map(plain, row))
    Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140).print(table)


def say(text: str, *, end: str = "\n") -> None:
    """Text on standard output that may come from a model, a repository or a file: it cannot drive the terminal."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()
