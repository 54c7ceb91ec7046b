"""Where a model of server.yaml is: its path as the file means it, or the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import nearest
from noa_lab.models import Models
from noa_lab.server.config._config import ServerConfig
from noa_lab.server.config._sections import ModelSection

__all__ = ["Place", "find_model"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is.

    Attributes:
        reference: What `Models.get` takes: a path, a name of the catalogue, or another reference.
        tried: The files that were looked for, in order; the last one is there if `reference` is a path.
        note: What is to be said about it, in words; may be empty.
    """

    reference: str
    tried: tuple[Path, ...] = ()
    note: str = ""


def find_model(config: ServerConfig, entry: ModelSection, models: Models) -> Place:
    """Find a model's file, or what to get it by; nothing is fetched.

    A relative path is tried from the parent of the `configs` folder, then from the file's own folder; then the catalogue is asked for
    the model's name.

    Args:
        config: The configuration.
        entry: One of its models.
        models: The models of this home, and the catalogue.

    Raises:
        ConfigInvalid: When there is no such file and no such model, with all that was tried.
    """
    if entry.path is not None and "://" in entry.path:
        return Place(entry.path)
    tried: list[Path] = []
    if entry.path is not None:
        path = Path(entry.path).expanduser()
        for folder in config.folders:
            tried.append(Path(folder / path))
            if tried[-1].is_file():
                return Place(str(tried[-1]), tuple(tried))
            if path.is_absolute():
                break
    known = [row.name for row in models.list()]
    if entry.name not in known:
        at = ("models", config.models.index(entry), "path" if entry.path is not None else "name")
        looked = [*(f"{file} is not a file" for file in tried), f"the catalogue has no {entry.name!r}"]
        near = nearest(entry.name, known)
        fix = f"Did you mean {near!r}?" if near else "Correct the path, or put the file there."
        message = f"the model {entry.name!r} is not to be found: {'; '.join(looked)}."
        value = entry.path or entry.name
        raise config.document.invalid(message, fix=fix, at=at, value=value, nearest=near, tried=list(map(str, tried)))
    note = f"{entry.path} is not here; the catalogue's {entry.name} is used instead" if tried else ""
    return Place(entry.name, tuple(tried), note)
