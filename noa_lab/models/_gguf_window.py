"""A small window on a file that is not trusted: nothing is read or allocated before its length was checked."""

from __future__ import annotations

import struct
from typing import BinaryIO, NoReturn, Protocol

from noa_lab.errors import ModelFileBroken

__all__ = ["MOST_TEXT_BYTES", "ByteSource", "OpenFile", "Window"]

MOST_HEADER_BYTES = 256 * 2**20
MOST_TEXT_BYTES = 8 * 2**20
_CHUNK_BYTES = 2**18


class ByteSource(Protocol):
    """Something whose bytes can be read from anywhere: a file here, or one on a server.

    Attributes:
        name: What messages call it.
        size: How many bytes it has.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on; fewer only at the end of the file."""
        ...


class OpenFile:
    """A file that is open for reading, as a `ByteSource`."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self.size, self.name = file, size, name

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        self._file.seek(offset)
        return self._file.read(count)


class Window:
    """Reads numbers and texts from a source, forwards.

    Args:
        source: Where from.
        most: Longest header that is accepted, in bytes.
    """

    def __init__(self, source: ByteSource, most: int = MOST_HEADER_BYTES) -> None:
        self._source, self._most = source, most
        self._bytes = b""
        self._start = 0
        """Where in the file the window begins."""
        self._at = 0
        """Where in the window the next byte to read is."""

    def broken(self, reason: str) -> NoReturn:
        """Give up.

        Raises:
            ModelFileBroken: Always.
        """
        raise ModelFileBroken(
            f"{self._source.name} is no readable GGUF model: {reason}.",
            fix="Get the file again; only GGUF files of version 2 and 3 can be used.",
            path=self._source.name,
            reason=reason,
        )

    @property
    def size(self) -> int:
        """Size of the whole file."""
        return self._source.size

    @property
    def position(self) -> int:
        """Where in the file the next byte to read is."""
        return self._start + self._at

    def _check(self, end: int) -> None:
        if end > self.size:
            self.broken(f"the file ends at byte {self.size:,}, in the middle of its header")
        if end > self._most:
            self.broken(f"its header is longer than {self._most:,} bytes")

    def need(self, count: int) -> tuple[bytes, int]:
        """Make `count` bytes available; returns the window's bytes and where they begin in them."""
        if self._at + count > len(self._bytes):
            position = self.position
            self._check(position + count)
            rest = self._bytes[self._at :]
            wanted = max(count - len(rest), _CHUNK_BYTES)
            self._bytes = rest + self._source.read(position + len(rest), wanted)
            self._start, self._at = position, 0
            if count > len(self._bytes):
                self.broken("the file became shorter while it was read")
        begin = self._at
        self._at += count
        return self._bytes, begin

    def skip(self, count: int) -> None:
        """Go forward without reading what is skipped."""
        if self._at + count <= len(self._bytes):
            self._at += count
            return
        position = self.position + count
        self._check(position)
        self._bytes, self._start, self._at = b"", position, 0

    def number(self, code: str) -> int:
        """A whole number, by its `struct` code."""
        window, begin = self.need(struct.calcsize(f"<{code}"))
        return int(struct.unpack_from(f"<{code}", window, begin)[0])

    def text(self, most: int, what: str) -> str:
        """A text with its length before it; `what` names it in the error that a longer one than `most` bytes raises."""
        length = self.number("Q")
        if length > most:
            self.broken(f"{what} is {length:,} bytes long")
        window, begin = self.need(length)
        return window[begin : begin + length].decode("utf-8", "replace")

    def skip_texts(self, count: int) -> None:
        """Go over a list of texts. A vocabulary has 100,000 of them: one that lies inside the window stays in this loop."""
        unpack = struct.Struct("<Q").unpack_from
        window, at = self._bytes, self._at
        for _ in range(count):
            if at + 8 > len(window):
                self._at = at
                window, at = self.need(8)
            (length,) = unpack(window, at)
            at += 8
            if length > MOST_TEXT_BYTES:
                self.broken(f"a text in a list is {length:,} bytes long")
            if at + length > len(window):
                self._at = at
                self.skip(length)
                window, at = self._bytes, self._at
            else:
                at += length
        self._at = at
