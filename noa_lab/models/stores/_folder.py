"""GGUF files in a folder, such as LM Studio's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from noa_lab.models.stores._stored import StoredModel, complete_models

__all__ = ["lm_studio_folders", "models_in_folder", "models_of_lm_studio"]

_MOST_FILES = 20_000
_MOST_DEPTH = 8


def models_in_folder(folder: Path, tool: str = "folder") -> list[StoredModel]:
    """Every model in a folder and the folders in it; links to folders are not followed.

    Args:
        folder: Where to look, at most 8 folders deep and over at most 20,000 files.
        tool: Whose they are.
    """
    found = complete_models((path.relative_to(folder).as_posix(), path) for path in _gguf_files(folder))
    models = (StoredModel(tool, name, files, sum(path.stat().st_size for path in files)) for name, files in found)
    return sorted(models, key=lambda model: model.name)


def _gguf_files(folder: Path) -> Iterator[Path]:
    seen = 0
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        if depth >= _MOST_DEPTH:
            folders.clear()
        for name in sorted(files):
            seen += 1
            if seen > _MOST_FILES:
                return
            if name.lower().endswith(".gguf"):
                yield Path(here, name)


def lm_studio_folders(home: Path) -> list[Path]:
    """Where LM Studio keeps its models: as its settings say, else where its versions have put them.

    Args:
        home: The user's home folder.
    """
    pointer = home / ".lmstudio-home-pointer"
    roots = [Path(_text(pointer).strip())] if _text(pointer).strip() else []
    roots += [home / ".lmstudio", home / ".cache" / "lm-studio"]
    folders = [_downloads_folder(root) or root / "models" for root in roots]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _downloads_folder(root: Path) -> Path | None:
    try:
        said = json.loads(_text(root / "settings.json"))["downloadsFolder"]
        return Path(said) if isinstance(said, str) and Path(said).is_absolute() else None
    except (ValueError, KeyError, TypeError):
        return None


def models_of_lm_studio(home: Path) -> list[StoredModel]:
    """The models of LM Studio."""
    return [model for folder in lm_studio_folders(home) for model in models_in_folder(folder, "LM Studio")]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")[: 2**20]
    except (OSError, UnicodeDecodeError):
        return ""
