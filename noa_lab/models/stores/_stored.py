"""A model that another tool keeps on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.models._split import is_later_part, part_names, whole_name
from noa_lab.tables import TableList, size

__all__ = ["StoredModel", "StoredModels", "complete_models", "name_for"]


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


class StoredModels(TableList[StoredModel]):
    """Models of other tools; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = ("Tool", "Model", "Size")
    _empty = "No other tool has GGUF models here."

    def _cells(self, row: StoredModel) -> tuple[object, ...]:
        return (row.tool, row.name, size(row.size_bytes))


def name_for(text: str) -> str:
    """A name for a model: the last part of a path without ".gguf", with dashes for what names cannot have."""
    last = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem = re.sub(r"\.gguf$", "", whole_name(last), flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "model"


def complete_models(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """The models that files make up: each file, or all parts of a split model under the name of the first.

    Args:
        files: Names, as they are to be shown, and where the bytes are. Parts whose others are missing make no model, and neither do
            projectors ("mmproj-...") and what is empty.
    """
    there = {name: path for name, path in files if _has_bytes(path)}
    for name, path in there.items():
        folder, slash, plain = name.rpartition("/")
        if plain.lower().startswith("mmproj") or is_later_part(plain):
            continue
        names = [f"{folder}{slash}{part}" for part in part_names(plain)]
        if not names:
            yield name, (path,)
        elif all(part in there for part in names):
            yield name, tuple(there[part] for part in names)


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size >= 24
    except OSError:
        return False
