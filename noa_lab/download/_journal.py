"""What is remembered beside a half-fetched file, so that the next process can go on: written in place, readable after any kill.

    8 bytes   b"noa-part"
    8 bytes   length of the header (little-endian, a multiple of 8)
    header    JSON, filled up with spaces
    8 bytes   for each piece of 1 MiB: how much of it is here

A number never straddles a page, so that a killed process has written all of it or nothing. It is written after the bytes that it
speaks of. That order holds for a killed process, not for a power failure; what is fetched without a known hash is therefore only
continued within the same boot.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

from noa_lab.download._pieces import PIECE_BYTES

__all__ = ["Facts", "Journal", "boot_id"]

_MAGIC = b"noa-part"
_NUMBER = struct.Struct("<Q")
_MOST_HEADER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Facts:
    """What a half-fetched file is a part of.

    Attributes:
        url: Its address, without secrets.
        total: Its size; None where it is not known.
        validator: ETag or date of the answer that it began with; empty where there was none.
        host: Host that the answer came from.
        sha256: Hash that it will be held against; empty where there is none.
        boot: When this machine was started, as `boot_id` tells it.
    """

    url: str
    total: int | None
    validator: str
    host: str
    sha256: str
    boot: str


class Journal:
    """A journal that is open for writing; thread-safe.

    Args:
        file: The file.
        offset: Where the numbers begin.
    """

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._lock = threading.Lock()
        """Keeps a seek and its write together."""

    @classmethod
    def create(cls, path: Path, facts: Facts) -> Self:
        """Begin a journal, over whatever is there."""
        header = json.dumps(asdict(facts)).encode()
        header += b" " * (-len(header) % 8)
        pieces = 0 if facts.total is None else -(-facts.total // PIECE_BYTES)
        file = path.open("w+b", buffering=0)
        try:
            file.write(_MAGIC + _NUMBER.pack(len(header)) + header + bytes(8 * pieces))
        except BaseException:
            file.close()
            raise
        return cls(file, 16 + len(header))

    @classmethod
    def load(cls, path: Path) -> tuple[Self, Facts, list[int]] | None:
        """The journal, its facts, and what is here of each piece; None when there is none that can be read."""
        try:
            file = path.open("r+b", buffering=0)
        except OSError:
            return None
        try:
            raw = file.read()
            size = _NUMBER.unpack_from(raw, 8)[0] if raw[:8] == _MAGIC else _MOST_HEADER_BYTES + 1
            facts = Facts(**json.loads(raw[16 : 16 + size]) if size <= _MOST_HEADER_BYTES else {})
            done = [number for (number,) in _NUMBER.iter_unpack(raw[16 + size :])]
            if not _sound(facts, done):
                raise ValueError
        except (OSError, ValueError, TypeError, struct.error):
            file.close()
            return None
        return cls(file, 16 + size), facts, done

    def set(self, piece: int, here: int) -> None:
        """Note how much of a piece is here."""
        with self._lock:
            self._file.seek(self._offset + 8 * piece)
            self._file.write(_NUMBER.pack(here))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()


def _sound(facts: Facts, done: list[int]) -> bool:
    """Whether a journal can be true."""
    texts = (facts.url, facts.validator, facts.host, facts.sha256, facts.boot)
    if not all(isinstance(text, str) for text in texts):
        return False
    total = facts.total
    if total is None:
        return all(number == PIECE_BYTES for number in done[:-1]) and all(0 < number <= PIECE_BYTES for number in done)
    if not isinstance(total, int) or total < 0 or len(done) != -(-total // PIECE_BYTES):
        return False
    sizes = (min(PIECE_BYTES, total - piece * PIECE_BYTES) for piece in range(len(done)))
    return all(number <= size for number, size in zip(done, sizes, strict=True))


def boot_id() -> str:
    """Something that is the same until this machine is started again."""
    if sys.platform.startswith("linux"):
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            pass
    import psutil

    # Told from the clock, it may differ by a moment from one time to the next.
    return f"{psutil.boot_time() / 60:.0f}"
