"""A server's log: written by its watcher, read by anyone.

One file a server, `logs/NAME.log`; it is set aside as NAME.log.1 when it grows over 8 MiB or when the day changes, and the three
last ones are kept.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LogWriter", "log_path", "redact", "tail"]

MAX_BYTES = 8 << 20
KEPT = 3
MASK = "[redacted]"


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """`text` without the secrets."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return text


def log_path(folder: Path, name: str) -> Path:
    """The log of the server `name`."""
    return folder / f"{name}.log"


class LogWriter:
    """Appends lines to a log file. A full disk loses lines, never the server: what was lost is counted and said."""

    def __init__(self, path: Path, secrets: tuple[str, ...] = (), *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._secrets = secrets
        self._max_bytes = max_bytes
        self._lost = 0
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._day = time.strftime("%Y%m%d")
        self._size = self._path.stat().st_size

    def write(self, line: str) -> None:
        """Append one line (without its end)."""
        data = redact(line, self._secrets).encode(errors="replace") + b"\n"
        try:
            if self._size and (self._size + len(data) > self._max_bytes or self._day != time.strftime("%Y%m%d")):
                self._rotate()
            if self._lost:
                data = f"[noa_lab: {self._lost} lines could not be written]\n".encode() + data
            self._size += self._file.write(data)
            self._lost = 0
        except OSError:
            self._lost += 1

    def _rotate(self) -> None:
        self._file.close()
        for number in range(KEPT, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log; reaches back into the file set aside when the current one is short."""
    found: deque[str] = deque(maxlen=max(0, lines))
    for part in (path.with_name(f"{path.name}.1"), path):
        try:
            with part.open(encoding="utf-8", errors="replace") as file:
                found.extend(line.rstrip("\n") for line in file)
        except FileNotFoundError:
            continue
    return list(found)


def follow(path: Path, *, interval: float = 0.25) -> Iterator[str]:
    """New lines of a log as they are written, across rotations; ends only when the consumer stops.

    An empty string is yielded whenever nothing new came within `interval` seconds, so that the consumer can look around.
    """
    position, inode, rest = -1, -1, ""
    while True:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                status = os.fstat(file.fileno())
                if position < 0:
                    position = status.st_size
                elif status.st_ino != inode or status.st_size < position:
                    position = 0
                inode = status.st_ino
                file.seek(position)
                rest += file.read()
                position = file.tell()
        except FileNotFoundError:
            position = 0
        *whole, rest = rest.split("\n")
        yield from whole
        if not whole:
            yield ""
            time.sleep(interval)
