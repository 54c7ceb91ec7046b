"""Split models: several files that are one model, by the names that llama.cpp gives them (`NAME-00001-of-00003.gguf`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from noa_lab.models._file import ModelMetadata
from noa_lab.models._gguf import read_header_of

__all__ = ["is_later_part", "part_names", "read_parts", "whole_name"]

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST_PARTS = 1000


def part_names(name: str) -> tuple[str, ...]:
    """The names of all parts of the model that a file is a part of, in order; empty when it is no part.

    Args:
        name: The file's name, or an address or path that ends with it.
    """
    match = _PART.fullmatch(name)
    count = int(match["count"]) if match else 0
    if match is None or not 1 <= int(match["number"]) <= count <= _MOST_PARTS or count == 1:
        return ()
    return tuple(f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def is_later_part(name: str) -> bool:
    """Whether a file is a part of a split model, but not the first."""
    names = part_names(name)
    return bool(names) and name != names[0]


def whole_name(name: str) -> str:
    """The name of the model that a file is, or is a part of; without ".gguf"."""
    match = _PART.fullmatch(name)
    return match["stem"] if match and part_names(name) else name.removesuffix(".gguf")


def read_parts(files: Sequence[Path]) -> ModelMetadata:
    """What the headers of a model's files say together: one file, or all parts in order.

    Raises:
        ModelFileBroken: When one is no readable GGUF.
    """
    first, *others = (read_header_of(file) for file in files)
    return first.joined(others).metadata()
