"""A server's log: written by its watcher, read by anyone.

One file a server. It is set aside as FILE.1 with the first line of a new hour, day or week, as asked for, and always when it grows
over 8 MiB; older ones become FILE.2, FILE.3, ... and the seven last are kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["LEVELS", "Level", "LogWriter", "Rotation", "log_path", "redact", "tail", "verbosity"]

Level = Literal["error", "warning", "info", "debug"]
"""What is written: lines of this level and of more serious ones."""

Rotation = Literal["daily", "hourly", "weekly", "none"]
"""With the first line of which period a new file is begun."""

LEVELS: dict[str, tuple[str, int]] = {
    "error": ("E", 1),
    "warning": ("EW", 2),
    "info": ("EWI", 3),
    "debug": ("EWITD", 5),
}
"""Of each level: the letters in llama-server's lines that belong to it, and llama-server's own number for it (`-lv`)."""

_PERIODS = {"daily": "%Y%m%d", "hourly": "%Y%m%d%H", "weekly": "%G%V", "none": ""}
MAX_BYTES = 8 << 20
KEPT = 7
MASK = "[redacted]"
_BLOCK = 1 << 16
_LETTER = re.compile(r"^[\d.]+ ([A-Z]) ")
_BEARER = re.compile(r"(?i)(bearer\s+|api[-_ ]?key\W{1,4})[\w\-.~+/]{8,}=*")


def verbosity(level: str) -> int:
    """llama-server's `-lv` for a level; at least 3, because the watcher reads what is said at level 3."""
    return max(3, LEVELS[level][1])


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without the secrets, and without what stands where keys of others stand (`Bearer ...`, `api_key=...`)."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return _BEARER.sub(rf"\1{MASK}", text)


def log_path(folder: Path, name: str) -> Path:
    """The log of the server `name`, where no other file was asked for."""
    return folder / f"{name}.log"


class LogWriter:
    """Appends lines to a log file. A full disk loses lines, never the server: what was lost is counted and said.

    Args:
        path: The file; its folder is made when it is not there.
        secrets: What is replaced wherever it stands.
        level: What of llama-server's lines is written.
        rotation: With the first line of which period the file is set aside.
        max_bytes: How large it may grow.
    """

    def __init__(
        self,
        path: Path,
        secrets: tuple[str, ...] = (),
        *,
        level: Level = "info",
        rotation: Rotation = "daily",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._path = path
        self._secrets = secrets
        self._letters = LEVELS[level][0]
        self._period_format = _PERIODS[rotation]
        self._max_bytes = max_bytes
        self._lost = 0
        self._wanted = True
        self._lock = threading.Lock()
        """Keeps the file: llama-server's lines come from one thread, the watcher's own from another."""
        self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        status = self._path.stat()
        self._size = status.st_size
        # A file that was last written in another period is set aside with the first line of this one.
        self._period = self._period_of(status.st_mtime if status.st_size else time.time())

    def _period_of(self, at: float) -> str:
        return time.strftime(self._period_format, time.localtime(at)) if self._period_format else ""

    def write(self, line: str) -> None:
        """Append one of llama-server's lines (without its end), if its level is wanted; one without a level goes with the one before."""
        letter = _LETTER.match(line)
        if letter:
            self._wanted = letter[1] in self._letters
        if self._wanted:
            self._append(line)

    def note(self, line: str) -> None:
        """Append a line of noa_lab's own, whatever the level."""
        self._append(f"[noa_lab] {line}")

    def _append(self, line: str) -> None:
        data = redact(line, self._secrets).encode(errors="replace") + b"\n"
        with self._lock:
            try:
                if self._file.closed:  # a full disk had no room for a new file
                    self._open()
                elif self._size and self._is_due(len(data)):
                    self._rotate()
                if self._lost:
                    data = f"[noa_lab] {self._lost} lines could not be written\n".encode() + data
                self._size += self._file.write(data)
                self._lost = 0
            except OSError:
                self._lost += 1

    def _is_due(self, more: int) -> bool:
        return self._size + more > self._max_bytes or self._period != self._period_of(time.time())

    def _rotate(self) -> None:
        """Set the file aside. Windows renames no file that somebody reads: then it grows, and the next line tries again."""
        self._file.close()
        # Up to the first free number only, or tries that fail would push the older files out.
        last = next((each for each in range(1, KEPT) if not _numbered(self._path, each).exists()), KEPT)
        with contextlib.suppress(OSError):
            for number in range(last, 0, -1):
                _numbered(self._path, number - 1).replace(_numbered(self._path, number))
        self._open()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log: up to it there is `tail`, from it on there is `follow`, and no line falls between the two.

    Attributes:
        inode: The file that it is in; -1 where there is none yet.
        position: Bytes from that file's start.
    """

    inode: int
    position: int


def end_of(path: Path) -> Place:
    """Where a log ends now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return Place(-1, 0)
    return Place(status.st_ino, status.st_size)


def tail(path: Path, lines: int, *, before: Place | None = None) -> list[str]:
    """The last `lines` lines of a log; reaches back into the file set aside when the current one is short.

    Only the end of each file is read. With `before`, the last ones before that place.
    """
    found: deque[str] = deque(maxlen=max(0, lines))
    for part, end in ((path, before.position if before is not None else None), (_numbered(path, 1), None)):
        missing = lines - len(found)
        if missing > 0:
            found.extendleft(reversed(_last_lines(part, missing, end)))
    return list(found)


def _last_lines(path: Path, lines: int, end: int | None) -> list[str]:
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            if end is not None:
                position = min(position, end)
            data = b""
            while position > 0 and data.count(b"\n") <= lines:
                step = min(_BLOCK, position)
                position -= step
                file.seek(position)
                data = file.read(step) + data
    except FileNotFoundError:
        return []
    return data.decode(errors="replace").removesuffix("\n").split("\n")[-lines:] if data else []


def follow(path: Path, *, after: Place | None = None, interval: float = 0.25) -> Iterator[str]:
    """New lines of a log as they are written, across rotations; ends only when the consumer stops.

    Those after the place `after`, or after the log's end when the first one is asked for.

    An empty string is yielded whenever nothing new came within `interval` seconds, so that the consumer can look around.
    """
    after = after or end_of(path)
    position, inode, rest = after.position, after.inode, ""
    while True:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != inode:
                    rest += _missed(path, inode, position)
                    position = 0
                elif status.st_size < position:
                    position = 0
                inode = status.st_ino
                file.seek(position)
                rest += file.read()
                position = file.tell()
        except FileNotFoundError:
            pass
        *whole, rest = rest.split("\n")
        yield from whole
        if not whole:
            yield ""
            time.sleep(interval)


def _missed(path: Path, inode: int, position: int) -> str:
    """What had not been read of a file before it was set aside, and what was written into those set aside after it."""
    found: list[str] = []
    for number in range(1, KEPT + 1):
        try:
            with _numbered(path, number).open(encoding="utf-8", errors="replace") as file:
                if os.fstat(file.fileno()).st_ino == inode:
                    file.seek(position)
                    return "".join([file.read(), *reversed(found)])
                found.append(file.read())
        except OSError:
            break
    return ""
