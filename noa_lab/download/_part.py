"""The half-fetched file on the disk: `NAME.part`, with its journal `NAME.part.journal`, until it is whole and checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from noa_lab.download._disk import named_disk_errors, reserve
from noa_lab.download._journal import Facts, Journal
from noa_lab.download._pieces import Claim, Pieces
from noa_lab.errors import DownloadFailed

__all__ = ["Part", "PartWriter", "journal_path", "part_path", "sync_folder"]


def part_path(target: Path) -> Path:
    """Where the bytes of a file are before it is whole."""
    return target.with_name(f"{target.name}.part")


def journal_path(target: Path) -> Path:
    """Where it is remembered which bytes they are."""
    return target.with_name(f"{target.name}.part.journal")


class Part:
    """A half-fetched file that is being worked on.

    Args:
        target: The file that it will be.
        facts: What it is a part of.
        journal: Its journal, open.
        done: What is here of each piece.
    """

    def __init__(self, target: Path, facts: Facts, journal: Journal, done: list[int]) -> None:
        self.target = target
        self.facts = facts
        self.path = part_path(target)
        self._journal = journal
        self._inode = _inode(self.path)
        self.pieces = Pieces(facts.total, done, on_change=journal.set)

    @classmethod
    def begin(cls, target: Path, facts: Facts) -> Self:
        """Begin from nothing, over whatever is there, with the disk space reserved.

        Raises:
            DiskFull: When there is not enough.
        """
        path = part_path(target)
        discard(target)
        try:
            with named_disk_errors(path, facts.total or 1):
                with path.open("wb") as file:
                    if facts.total:
                        reserve(file, facts.total)
                return cls(target, facts, Journal.create(journal_path(target), facts), [])
        except BaseException:
            discard(target)
            raise

    @classmethod
    def load(cls, target: Path) -> Self | None:
        """What an earlier call left; None when there is nothing that can be continued."""
        path = part_path(target)
        if path.is_symlink() or not path.is_file():
            return None
        found = Journal.load(journal_path(target))
        if found is None:
            return None
        journal, facts, done = found
        try:
            size = path.stat().st_size
        except OSError:
            size = -1  # somebody else has just finished it
        if size < sum(done) or (facts.total is not None and size != facts.total):
            journal.close()
            return None
        return cls(target, facts, journal, done)

    @property
    def taken_space(self) -> int:
        """Disk space that it takes: bytes that are here or reserved."""
        status = self.path.stat()
        return max(self.pieces.here, min(getattr(status, "st_blocks", 0) * 512, status.st_size))

    @property
    def missing_space(self) -> int:
        """Disk space that it still needs."""
        return max((self.facts.total or 0) - self.taken_space, 0)

    def writer(self) -> PartWriter:
        """A way to write to it, for one connection."""
        return PartWriter(self)

    def close(self) -> None:
        """Let go of the journal; what has arrived stays."""
        self._journal.close()

    def discard(self) -> None:
        """Remove it and its journal."""
        self.close()
        discard(self.target)

    def finish(self) -> None:
        """Put the whole file, on the disk for good, in the place of the target. The journal goes last.

        Raises:
            DiskFull: When the disk cannot take it after all.
            DownloadFailed: When it is not the file any more that was written here. A lock keeps others away, but there are network
                drives whose locks are none.
        """
        with named_disk_errors(self.path, 1):
            if self.path.exists():
                with self.path.open("rb+") as file:
                    os.fsync(file.fileno())
            if _inode(self.path) != self._inode:
                raise DownloadFailed(
                    f"{self.path} was replaced while it was written: another process fetches the same file.",
                    fix="Wait until the other download has ended, then start this one again.",
                    source=self.facts.url,
                    reason="another process fetches the same file, and the drive's locks do not keep them apart",
                    kind="busy",
                )
            self.path.replace(self.target)
            sync_folder(self.target.parent)
        self.close()
        journal_path(self.target).unlink(missing_ok=True)


class PartWriter:
    """Writes the bytes of claims; a context manager. Not thread-safe: each connection has its own.

    Args:
        part: What to write to.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._file = part.path.open("r+b", buffering=0)
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, claim: Claim, data: bytes) -> None:
        """Write the next bytes of a claim, then note that they are here.

        Raises:
            DiskFull: When they do not fit.
        """
        pieces = self._part.pieces
        missing = (pieces.total or 0) - pieces.here or len(data)
        with named_disk_errors(self._part.path, missing):
            if self._at != claim.at:
                self._file.seek(claim.at)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self._at = claim.at + len(data)
            pieces.advance(claim, len(data))


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def discard(target: Path) -> None:
    """Remove what is half-fetched of a file."""
    part_path(target).unlink(missing_ok=True)
    journal_path(target).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder outlast a power failure, where the platform can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network drives cannot
    finally:
        os.close(descriptor)
