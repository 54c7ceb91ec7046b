"""Reading a GGUF header without trusting it.

GGUF (version 2 and 3, little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts of tensors and
of key-values, the key-values, one description per tensor, padding, the tensors' bytes. Every count and length is checked before
anything is read or allocated for it, and every tensor must lie inside the file.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from noa_lab.errors import ModelFileBroken
from noa_lab.models._file import ModelMetadata
from noa_lab.models._gguf_header import GgufHeader, TensorInfo, Value
from noa_lab.models._gguf_types import TENSOR_TYPES
from noa_lab.models._gguf_window import MOST_TEXT_BYTES, ByteSource, OpenFile, Window

__all__ = ["read_gguf", "read_header", "read_header_of"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Several times what the largest published models have (vocabularies of 260,000 tokens, templates of 50 KiB).
_MOST_TENSORS = 32_768
_MOST_KEYS = 8192
_MOST_KEY_BYTES = 1024
_MOST_TEXTS = 2_000_000
_MOST_KEPT_NUMBERS = 200_000
_LONGEST_KEPT_ARRAY = 1024
_MOST_DIMENSIONS = 4
_MOST_NAME_BYTES = 63
_TENSOR_CODES = {count: f"<{count}QIQ" for count in range(1, _MOST_DIMENSIONS + 1)}
"""Shape, type and place of a tensor, by its number of dimensions."""

_KEPT_TEXTS = ("general.architecture", "general.name", "tokenizer.chat_template")


def read_gguf(path: Path) -> ModelMetadata:
    """Read and check the header of a GGUF file; the tensors' bytes are not read.

    Args:
        path: The file. Of a split model, any part; the numbers are then that part's.

    Raises:
        ModelFileBroken: When it is no GGUF, is cut short, or says something impossible.
    """
    return read_header_of(path).metadata()


def read_header_of(path: Path) -> GgufHeader:
    """The whole header of a file; see `read_gguf`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return read_header(OpenFile(file, size, path.name))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileBroken(
            f"{path} cannot be read: {reason}.",
            fix="Check that the file exists and that you may read it.",
            path=str(path),
        ) from None


def read_header(source: ByteSource) -> GgufHeader:
    """The whole header of a file, which may be far away; no more than the header is read.

    Raises:
        ModelFileBroken: When it is no GGUF, is cut short, or says something impossible.
    """
    return _Reader(Window(source)).read()


class _Reader:
    """Walks through a header once."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._values: dict[str, Value] = {}
        self._lengths: dict[str, int] = {}
        self._kept = 0
        self._texts = 0

    def read(self) -> GgufHeader:
        window = self._window
        if window.size < 24 or window.need(4)[0][:4] != b"GGUF":
            window.broken("it does not begin with GGUF")
        version = window.number("I")
        if version in {2 << 24, 3 << 24}:
            window.broken("it is big-endian; llama.cpp reads little-endian files here")
        if version not in {2, 3}:
            window.broken(f"its version is {version}")
        tensors, keys = window.number("Q"), window.number("Q")
        if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
            window.broken(f"it claims {tensors:,} tensors and {keys:,} key-values")
        self._read_keys(keys)
        found, furthest = self._read_tensors(tensors)
        header = GgufHeader(self._values, self._lengths, found, window.position, window.size)
        # The parts of a split model say what the model is in the first one only.
        if not header.architecture and not header.number("split.no"):
            window.broken("it names no architecture")
        if tensors and header.data_offset + furthest > window.size:
            missing = header.data_offset + furthest - window.size
            window.broken(f"{missing:,} of its {header.data_offset + furthest:,} bytes are missing at the end")
        return header

    def _read_keys(self, count: int) -> None:
        seen: set[str] = set()
        for _ in range(count):
            key = self._window.text(_MOST_KEY_BYTES, "the name of a key")
            if key in seen:
                self._window.broken(f"the key {key[:80]!r} is there twice")
            seen.add(key)
            self._read_value(key)

    def _read_value(self, key: str) -> None:
        kind = self._window.number("I")
        if kind == _ARRAY:
            self._read_array(key)
        elif kind == _STRING:
            text = self._window.text(MOST_TEXT_BYTES, f"the text of {key[:80]!r}")
            if key in _KEPT_TEXTS:
                self._values[key] = text
        elif kind in _SCALARS:
            code = f"<{_SCALARS[kind]}"
            self._values[key] = struct.unpack_from(code, *self._window.need(struct.calcsize(code)))[0]
        else:
            self._window.broken(f"the key {key[:80]!r} has the unknown type {kind}")

    def _read_array(self, key: str) -> None:
        kind, length = self._window.number("I"), self._window.number("Q")
        self._lengths[key] = length
        if kind == _STRING:
            self._texts += length
            if self._texts > _MOST_TEXTS:
                self._window.broken(f"the list {key[:80]!r} claims {length:,} texts")
            self._window.skip_texts(length)
            return
        if kind not in _SCALARS:
            self._window.broken(f"the list {key[:80]!r} has elements of type {kind}")
        width = struct.calcsize(f"<{_SCALARS[kind]}")
        if length <= _LONGEST_KEPT_ARRAY and self._kept + length <= _MOST_KEPT_NUMBERS:
            self._kept += length
            found = self._window.need(width * length)
            self._values[key] = list(struct.unpack_from(f"<{length}{_SCALARS[kind]}", *found))
        else:
            self._window.skip(width * length)

    def _read_tensors(self, count: int) -> tuple[tuple[TensorInfo, ...], int]:
        """The tensors, and how far their bytes reach from the first one's."""
        alignment = GgufHeader(self._values, {}, (), 0, 0).alignment
        if alignment > 2**20 or alignment & (alignment - 1):
            self._window.broken(f"its alignment is {alignment}")
        furthest = 0
        found: dict[str, TensorInfo] = {}
        for tensor, offset in (self._read_tensor() for _ in range(count)):
            if tensor.name in found:
                self._window.broken(f"the tensor {tensor.name!r} is there twice")
            if offset % alignment:
                self._window.broken(f"the tensor {tensor.name!r} is not aligned")
            found[tensor.name] = tensor
            furthest = max(furthest, offset + tensor.size_bytes)
        return tuple(found.values()), furthest

    def _read_tensor(self) -> tuple[TensorInfo, int]:
        window = self._window
        name = window.text(_MOST_NAME_BYTES, "the name of a tensor")
        dimensions = window.number("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            window.broken(f"the tensor {name!r} has {dimensions} dimensions")
        *shape, kind, offset = struct.unpack_from(_TENSOR_CODES[dimensions], *window.need(8 * dimensions + 12))
        if kind not in TENSOR_TYPES:
            window.broken(f"the tensor {name!r} has the unknown type {kind}")
        label, block, width = TENSOR_TYPES[kind]
        weights = math.prod(shape)
        if weights == 0 or weights >= 2**62 or shape[0] % block:
            window.broken(f"the tensor {name!r} has the impossible shape {shape}")
        if offset >= 2**62:
            window.broken(f"the tensor {name!r} lies beyond any file")
        return TensorInfo(name, label, tuple(shape), weights // block * width), offset
