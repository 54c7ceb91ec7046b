"""Who uses a model's file beside us: other tools, other names of the same bytes, servers that are up, models made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from noa_lab.models._file import ModelFile
from noa_lab.models._record import records_of_home
from noa_lab.models.stores import lm_studio_folders, ollama_folders
from noa_lab.paths import Home

__all__ = ["children_of", "owner_of", "servers_with"]


def owner_of(path: Path, home: Home) -> str:
    """Whose file it is, by where it lies: "noa_lab", "Hugging Face", "Ollama", "LM Studio", or "you"."""
    from huggingface_hub import constants

    real = path.resolve()
    user = Path.home()
    places = [("noa_lab", [home.models]), ("Hugging Face", [Path(constants.HF_HUB_CACHE)])]
    places += [("Ollama", ollama_folders(user)), ("LM Studio", lm_studio_folders(user))]
    for owner, folders in places:
        if any(real.is_relative_to(folder.resolve()) for folder in folders):
            return owner
    return "you"


def children_of(model: ModelFile, home: Home) -> list[str]:
    """Names of the models that were quantised from this one."""
    return [each.name for each in records_of_home(home) if model.sha256 and each.parent == model.sha256]


def servers_with(model: ModelFile, home: Home) -> list[str]:
    """Names of this home's servers that run the model, by what their records say and whether their process lives."""
    return [name for name, path in _served(home) if path in {str(file) for file in model.files}]


def _served(home: Home) -> Iterator[tuple[str, str]]:
    """Name and model file of every server whose process lives.

    The records are the server room's, which is above this one; here a few of their fields are read, and a test with a real server
    holds that they are there.
    """
    import psutil

    for record in (home.root / "servers").glob("*/*.json"):
        try:
            data = json.loads(record.read_text(encoding="utf-8"))
            name, path, pid = str(data["name"]), str(data["model"]["path"]), int((data["process"] or {"pid": 0})["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if pid and psutil.pid_exists(pid):
            yield name, path
