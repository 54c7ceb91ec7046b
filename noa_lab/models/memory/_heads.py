"""The beginning of a model's files, up to the weights: read where the file is, and remembered for a while."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import ModelFileBroken
from noa_lab.models._gguf import read_header
from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models._gguf_window import ByteSource, OpenFile
from noa_lab.paths import Home, write_atomic

__all__ = ["Head", "header_of_heads", "read_head", "read_head_of", "recall_heads", "remember_heads"]

MOST_HEAD_BYTES = 64 * 2**20
"""Most bytes that are read of a file that is somewhere else; the largest published headers have 16 MiB."""

_DAYS_KEPT = 7
_STEP_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of one file.

    Attributes:
        content: Its bytes up to where the weights begin.
        size: Bytes of the whole file.
        name: Name of the file.
    """

    content: bytes
    size: int
    name: str

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        return self.content[offset : offset + count]


class _Prefix:
    """A source of which everything is kept that was read, from the first byte on without gaps."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.name, self.size = source.name, source.size
        self.content = bytearray()

    def read(self, offset: int, count: int) -> bytes:
        wanted = min(self.size, offset + count)
        while len(self.content) < wanted:
            if len(self.content) >= MOST_HEAD_BYTES:
                raise ModelFileBroken(
                    f"The header of {self.name} is longer than {MOST_HEAD_BYTES:,} bytes.",
                    fix="Get the whole file to look at it.",
                    path=self.name,
                )
            # Each step as long as all before: a small header takes few bytes, a large one few requests.
            step = max(_STEP_BYTES, len(self.content), wanted - len(self.content))
            step = min(step, MOST_HEAD_BYTES - len(self.content), self.size - len(self.content))
            arrived = self._source.read(len(self.content), step)
            if not arrived:
                break
            self.content += arrived
        return bytes(self.content[offset : offset + count])


def read_head(source: ByteSource) -> Head:
    """Read the beginning of a file, and check it.

    Raises:
        ModelFileBroken: When it is no GGUF, or its header is impossible or too long.
    """
    prefix = _Prefix(source)
    header = read_header(prefix)
    prefix.read(0, header.data_offset)
    return Head(bytes(prefix.content[: header.data_offset]), source.size, source.name)


def read_head_of(path: Path) -> Head:
    """The beginning of a file on this machine; see `read_head`."""
    with path.open("rb") as file:
        return read_head(OpenFile(file, path.stat().st_size, path.name))


def header_of_heads(heads: Sequence[Head]) -> GgufHeader:
    """The header of the whole model.

    Raises:
        ModelFileBroken: When one of them is none.
    """
    first, *others = (read_header(head) for head in heads)
    return first.joined(others)


def remember_heads(home: Home, ref: str, heads: Sequence[Head]) -> None:
    """Keep the heads of a reference for a week, so that looking again needs no network."""
    packed = [zlib.compress(head.content, 6) for head in heads]
    facts = [
        {"name": head.name, "size": head.size, "packed": len(each)} for head, each in zip(heads, packed, strict=True)
    ]
    index = json.dumps({"at": time.time(), "parts": facts}).encode()
    path = _path(home, ref)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, len(index).to_bytes(8, "little") + index + b"".join(packed))


def recall_heads(home: Home, ref: str, *, days: float = _DAYS_KEPT) -> list[Head]:
    """The heads that were kept; [] where there are none that are younger than `days`."""
    try:
        data = _path(home, ref).read_bytes()
        at = 8 + int.from_bytes(data[:8], "little")
        index = json.loads(data[8:at])
        if not 0 <= time.time() - index["at"] <= days * 86_400:
            return []
        heads = []
        for part in index["parts"]:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(data[at : at + part["packed"]], MOST_HEAD_BYTES)
            if not unpacker.eof:
                return []
            heads.append(Head(unpacked, int(part["size"]), str(part["name"])))
            at += part["packed"]
        return heads
    except (OSError, ValueError, KeyError, TypeError, zlib.error):
        return []


def _path(home: Home, ref: str) -> Path:
    return home.models / ".heads" / f"{hashlib.sha256(ref.encode()).hexdigest()[:24]}.head"
