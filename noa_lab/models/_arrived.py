"""What comes of asking a source for a model: its files, on this disk, hashed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from noa_lab.events import Progress, Report

__all__ = ["MOST_BYTES", "SPARE_BYTES", "STEP", "Arrived", "ArrivedFile", "share_of"]

STEP = "Download the model"
SPARE_BYTES = 100_000_000
"""Disk space that a download leaves free."""
MOST_BYTES = 2**41
"""Largest file that is fetched."""


@dataclass(frozen=True, slots=True)
class ArrivedFile:
    """One file of a model.

    Attributes:
        path: Where it is.
        sha256: Its hash.
        size_bytes: Its size.
        promised: Whether the source itself said this hash before.
    """

    path: Path
    sha256: str
    size_bytes: int
    promised: bool = False


@dataclass(frozen=True, slots=True)
class Arrived:
    """A model as it has arrived.

    Attributes:
        files: Its files in order: one, or the parts of a split model.
        shared: Whether they belong to another tool's cache: they are linked, never moved.
        version: What the source calls this version of it (a commit); empty where it does not say.
    """

    files: tuple[ArrivedFile, ...]
    shared: bool = False
    version: str = ""

    @property
    def promised(self) -> bool:
        """Whether every file has the hash that the source said."""
        return all(file.promised for file in self.files)


def share_of(report: Report, sizes: Iterable[int | None], number: int) -> Report:
    """A `Report` for one of several files, which speaks of all of them.

    Args:
        report: Who is told.
        sizes: Size of each file in order; None where it is not known.
        number: Which one this is, from 0.
    """
    known = list(sizes)
    if len(known) == 1:
        return report
    before = sum(size or 0 for size in known[:number])
    total = None if None in known else sum(size or 0 for size in known)

    def tell(progress: Progress) -> None:
        done = None if progress.done is None else progress.done + before
        message = f"{progress.message} ({number + 1} of {len(known)})"
        last = progress.finished and number == len(known) - 1
        report(replace(progress, message=message, done=done, total=total, finished=last))

    return tell
