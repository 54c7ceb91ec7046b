"""A model that another tool keeps on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["StoredModel", "complete_models", "name_for"]

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the store of another tool, or in a folder.

    Attributes:
        tool: "Hugging Face", "Ollama", "LM Studio", or "folder".
        name: What it is called there: "owner/repo/file.gguf", "llama3.2:3b", "publisher/repo/file.gguf".
        files: Where its bytes are: one file, or the parts of a split model in order.
        size_bytes: Bytes of all of them.
        sha256: What the store says its hash is; "" where it says nothing.
    """

    tool: str
    name: str
    files: tuple[Path, ...]
    size_bytes: int
    sha256: str = ""

    @property
    def suggested(self) -> str:
        """What it would be called here."""
        return name_for(self.name)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "tool": self.tool,
            "name": self.name,
            "suggested": self.suggested,
            "files": [str(path) for path in self.files],
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }


def name_for(text: str) -> str:
    """A name for a model: the last part of a path without ".gguf", with dashes for what names cannot have."""
    last = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    match = _PART.fullmatch(last)
    stem = match["stem"] if match is not None else re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "model"


def complete_models(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """The models that files make up: each file, or all parts of a split model under the name of the first.

    Args:
        files: Names, as they are to be shown, and where the bytes are. Parts whose others are missing make no model, and neither do
            projectors ("mmproj-...") and what is empty.
    """
    groups: dict[tuple[str, int], dict[int, tuple[str, Path]]] = {}
    for name, path in files:
        plain = name.rpartition("/")[2]
        if plain.lower().startswith("mmproj") or not _has_bytes(path):
            continue
        match = _PART.fullmatch(plain)
        if match is None:
            yield name, (path,)
        else:
            key = (name[: -len(plain)] + match["stem"], int(match["count"]))
            groups.setdefault(key, {})[int(match["number"])] = (name, path)
    for (_, count), parts in groups.items():
        if sorted(parts) == list(range(1, count + 1)):
            yield parts[1][0], tuple(parts[number][1] for number in range(1, count + 1))


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size >= 24
    except OSError:
        return False
