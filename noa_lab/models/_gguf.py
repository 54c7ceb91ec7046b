"""Reading a GGUF header without trusting it.

GGUF (version 2 and 3, little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts of tensors and
of key-values, the key-values, one description per tensor, padding, the tensors' bytes. Every count and length is checked before
anything is read or allocated for it, and every tensor must lie inside the file.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from noa_lab.errors import ModelFileBroken
from noa_lab.models._file import ModelMetadata

__all__ = ["TENSOR_TYPES", "read_gguf"]

TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
"""Tensor types by their number in the file: name, weights in a block, bytes of a block."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Several times what the largest published models have (vocabularies of 260,000 tokens, templates of 50 KiB).
_MOST_TENSORS = 65_536
_MOST_KEYS = 8192
_MOST_KEY_BYTES = 1024
_MOST_TEXT_BYTES = 8 * 2**20
_MOST_TEXTS = 2_000_000
_MOST_HEADER_BYTES = 256 * 2**20
_MOST_KEPT_NUMBERS = 200_000
_LONGEST_KEPT_ARRAY = 1024
_MOST_DIMENSIONS = 4
_MOST_NAME_BYTES = 63
_CHUNK_BYTES = 2**18

_KEPT_TEXTS = ("general.architecture", "general.name", "tokenizer.chat_template")

Number = int | float
Value = Number | str | list[Number]


def read_gguf(path: Path) -> ModelMetadata:
    """Read and check the header of a GGUF file; the tensors' bytes are not read.

    Args:
        path: The file. Of a split model, any part; the numbers are then that part's.

    Raises:
        ModelFileBroken: When it is no GGUF, is cut short, or says something impossible.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _Header(file, size, path).read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileBroken(f"{path} cannot be read: {reason}.", fix="Check the path.", path=str(path)) from None


@dataclass(slots=True)
class _Facts:
    """What is kept of the key-values."""

    values: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    """Elements of each array, kept or not."""
    kept: int = 0
    texts: int = 0

    def number(self, key: str) -> int:
        """A whole number that is not negative; of an array the largest; 0 where there is none."""
        value = self.values.get(key, 0)
        candidates = value if isinstance(value, list) else [value]
        whole = [
            int(each) for each in candidates if isinstance(each, int | float) and math.isfinite(each) and each >= 0
        ]
        return max(whole, default=0)

    def text(self, key: str) -> str:
        """A text, "" where there is none."""
        value = self.values.get(key, "")
        return value if isinstance(value, str) else ""


class _Header:
    """Walks through the header once, with a small window on the file."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file, self._size, self._path = file, size, path
        self._window = b""
        self._start = 0
        """Where in the file the window begins."""
        self._at = 0
        """Where in the window the next byte to read is."""

    def _broken(self, reason: str) -> NoReturn:
        raise ModelFileBroken(
            f"{self._path.name} is no readable GGUF model: {reason}.",
            fix="Get the file again; only GGUF files of version 2 and 3 can be used.",
            path=str(self._path),
            reason=reason,
        )

    @property
    def _position(self) -> int:
        return self._start + self._at

    def _need(self, count: int) -> int:
        """Make `count` bytes available; returns where they begin in the window."""
        if self._at + count > len(self._window):
            position = self._position
            if position + count > self._size:
                self._broken(f"the file ends at byte {self._size:,}, in the middle of its header")
            if position + count > _MOST_HEADER_BYTES:
                self._broken(f"its header is longer than {_MOST_HEADER_BYTES:,} bytes")
            rest = self._window[self._at :]
            self._window = rest + self._file.read(max(count - len(rest), _CHUNK_BYTES))
            self._start, self._at = position, 0
            if count > len(self._window):
                self._broken("the file became shorter while it was read")
        begin = self._at
        self._at += count
        return begin

    def _skip(self, count: int) -> None:
        if self._at + count <= len(self._window):
            self._at += count
            return
        position = self._position + count
        if position > self._size:
            self._broken(f"the file ends at byte {self._size:,}, in the middle of its header")
        if position > _MOST_HEADER_BYTES:
            self._broken(f"its header is longer than {_MOST_HEADER_BYTES:,} bytes")
        self._file.seek(position)
        self._window, self._start, self._at = b"", position, 0

    def _number(self, code: str) -> int:
        begin = self._need(struct.calcsize(f"<{code}"))
        return int(struct.unpack_from(f"<{code}", self._window, begin)[0])

    def _text(self, most: int, what: str) -> str:
        length = self._number("Q")
        if length > most:
            self._broken(f"{what} is {length:,} bytes long")
        begin = self._need(length)
        return self._window[begin : begin + length].decode("utf-8", "replace")

    def read(self) -> ModelMetadata:
        if self._size < 24 or bytes(self._window_at_start()) != b"GGUF":
            self._broken("it does not begin with GGUF")
        version = self._number("I")
        if version in {2 << 24, 3 << 24}:
            self._broken("it is big-endian; llama.cpp reads little-endian files here")
        if version not in {2, 3}:
            self._broken(f"its version is {version}")
        tensors, keys = self._number("Q"), self._number("Q")
        if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
            self._broken(f"it claims {tensors:,} tensors and {keys:,} key-values")
        facts = self._read_facts(keys)
        types, parameters = self._read_tensors(tensors, facts)
        return self._describe(facts, types, parameters, tensors)

    def _window_at_start(self) -> bytes:
        begin = self._need(4)
        return self._window[begin : begin + 4]

    def _read_facts(self, count: int) -> _Facts:
        facts = _Facts()
        seen: set[str] = set()
        for _ in range(count):
            key = self._text(_MOST_KEY_BYTES, "the name of a key")
            if key in seen:
                self._broken(f"the key {key[:80]!r} is there twice")
            seen.add(key)
            self._read_value(key, facts)
        return facts

    def _read_value(self, key: str, facts: _Facts) -> None:
        kind = self._number("I")
        if kind == _ARRAY:
            self._read_array(key, facts)
        elif kind == _STRING:
            text = self._text(_MOST_TEXT_BYTES, f"the text of {key[:80]!r}")
            if key in _KEPT_TEXTS:
                facts.values[key] = text
        elif kind in _SCALARS:
            facts.values[key] = self._scalar(kind)
        else:
            self._broken(f"the key {key[:80]!r} has the unknown type {kind}")

    def _scalar(self, kind: int) -> Number:
        code = f"<{_SCALARS[kind]}"
        begin = self._need(struct.calcsize(code))
        value: Number = struct.unpack_from(code, self._window, begin)[0]
        return value

    def _read_array(self, key: str, facts: _Facts) -> None:
        kind, length = self._number("I"), self._number("Q")
        facts.lengths[key] = length
        if kind == _STRING:
            facts.texts += length
            if facts.texts > _MOST_TEXTS:
                self._broken(f"the list {key[:80]!r} claims {length:,} texts")
            self._skip_texts(length)
            return
        if kind not in _SCALARS:
            self._broken(f"the list {key[:80]!r} has elements of type {kind}")
        width = struct.calcsize(f"<{_SCALARS[kind]}")
        if length <= _LONGEST_KEPT_ARRAY and facts.kept + length <= _MOST_KEPT_NUMBERS:
            facts.kept += length
            begin = self._need(width * length)
            facts.values[key] = list(struct.unpack_from(f"<{length}{_SCALARS[kind]}", self._window, begin))
        else:
            self._skip(width * length)

    def _skip_texts(self, count: int) -> None:
        # A vocabulary has 100,000 of them: the common case, a text inside the window, stays in this loop.
        unpack = struct.Struct("<Q").unpack_from
        window, at = self._window, self._at
        for _ in range(count):
            if at + 8 > len(window):
                self._at = at
                at = self._need(8)
                window = self._window
            (length,) = unpack(window, at)
            at += 8
            if length > _MOST_TEXT_BYTES:
                self._broken(f"a text in a list is {length:,} bytes long")
            if at + length > len(window):
                self._at = at
                self._skip(length)
                window, at = self._window, self._at
            else:
                at += length
        self._at = at

    def _read_tensors(self, count: int, facts: _Facts) -> tuple[Counter[str], int]:
        alignment = facts.number("general.alignment") or 32
        if alignment > 2**20 or alignment & (alignment - 1):
            self._broken(f"its alignment is {alignment}")
        bytes_of: Counter[str] = Counter()
        parameters = 0
        furthest = 0
        seen: set[str] = set()
        for _ in range(count):
            name, kind, weights, offset, length = self._read_tensor()
            if name in seen:
                self._broken(f"the tensor {name!r} is there twice")
            if offset % alignment:
                self._broken(f"the tensor {name!r} is not aligned")
            seen.add(name)
            bytes_of[kind] += length
            parameters += weights
            furthest = max(furthest, offset + length)
        begin = -(-self._position // alignment) * alignment
        if count and begin + furthest > self._size:
            missing = begin + furthest - self._size
            self._broken(f"{missing:,} of its {begin + furthest:,} bytes are missing at the end")
        return bytes_of, parameters

    def _read_tensor(self) -> tuple[str, str, int, int, int]:
        name = self._text(_MOST_NAME_BYTES, "the name of a tensor")
        dimensions = self._number("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            self._broken(f"the tensor {name!r} has {dimensions} dimensions")
        shape = [self._number("Q") for _ in range(dimensions)]
        kind, offset = self._number("I"), self._number("Q")
        if kind not in TENSOR_TYPES:
            self._broken(f"the tensor {name!r} has the unknown type {kind}")
        label, block, width = TENSOR_TYPES[kind]
        weights = math.prod(shape)
        if weights == 0 or weights >= 2**62 or shape[0] % block:
            self._broken(f"the tensor {name!r} has the impossible shape {shape}")
        if offset >= 2**62:
            self._broken(f"the tensor {name!r} lies beyond any file")
        return name, label, weights, offset, weights // block * width

    def _describe(self, facts: _Facts, types: Counter[str], parameters: int, tensors: int) -> ModelMetadata:
        architecture = _printable(facts.text("general.architecture"))
        if not architecture:
            self._broken("it names no architecture")
        heads = facts.number(f"{architecture}.attention.head_count")
        template = facts.values.get("tokenizer.chat_template")
        return ModelMetadata(
            architecture=architecture,
            name=_printable(facts.text("general.name")),
            parameters=parameters,
            context_length=facts.number(f"{architecture}.context_length"),
            layers=facts.number(f"{architecture}.block_count"),
            embedding_length=facts.number(f"{architecture}.embedding_length"),
            heads=heads,
            kv_heads=facts.number(f"{architecture}.attention.head_count_kv") or heads,
            vocabulary=facts.lengths.get("tokenizer.ggml.tokens") or facts.number(f"{architecture}.vocab_size"),
            quantization=types.most_common(1)[0][0] if types else "",
            chat_template=template if isinstance(template, str) else None,
            tensors=tensors,
        )


def _printable(text: str) -> str:
    """A name for a terminal: the file's author decides what is in it."""
    return "".join(character for character in text[:200] if character.isprintable()).strip()
