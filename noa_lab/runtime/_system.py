"""A llama.cpp that is on this machine already: conda's, Homebrew's, or whatever `llama-server` on PATH is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import RuntimeMissing
from noa_lab.paths import Home

__all__ = ["Found", "find_conda", "find_system"]

_BREW_FOLDERS = ("/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin")


@dataclass(frozen=True, slots=True)
class Found:
    """A folder with somebody else's llama-server.

    Attributes:
        folder: The folder, as it was found; links are not followed, because a package manager moves their targets.
        manager: Whose it is, in words: "conda", "Homebrew", "PATH".
    """

    folder: Path
    manager: str


def find_conda(environment: Mapping[str, str] | None = None) -> Found | None:
    """The llama.cpp of the active conda environment; None where there is none.

    Args:
        environment: Environment variables; default: this process's.
    """
    named = (os.environ if environment is None else environment).get("CONDA_PREFIX", "")
    if not named or not Path(named).is_absolute():
        return None
    places = ("Library/bin", "bin", "Scripts") if os.name == "nt" else ("bin",)
    return next(
        (Found(folder, "conda") for place in places if _has_server(folder := Path(named, *place.split("/")))), None
    )


def find_system(home: Home, environment: Mapping[str, str] | None = None) -> Found:
    """The llama.cpp to use where it is: the active conda environment's, the first `llama-server` on PATH, Homebrew's.

    The current folder is never looked into, whatever PATH says (an empty entry means it, and so does a relative one): a stranger's
    program may lie there. Neither is noa_lab's own home.

    Args:
        home: The home, whose runtimes are not the system's.
        environment: Environment variables; default: this process's.

    Raises:
        RuntimeMissing: When there is none.
    """
    environment = os.environ if environment is None else environment
    conda = find_conda(environment)
    if conda is not None:
        return conda
    here, ours = Path.cwd().resolve(), home.root.resolve()
    entries = [Path(entry.strip('"')) for entry in environment.get("PATH", "").split(os.pathsep) if entry.strip('"')]
    brew = [Path(folder) for folder in _BREW_FOLDERS] if sys.platform in {"darwin", "linux"} else []
    for folder in dict.fromkeys((*entries, *brew)):
        if not folder.is_absolute() or folder.resolve() == here or folder.resolve().is_relative_to(ours):
            continue
        if _has_server(folder):
            is_brew = (folder in brew and (folder.parent / "Cellar").is_dir()) or "homebrew" in str(folder).lower()
            return Found(folder, "Homebrew" if is_brew else "PATH")
    raise RuntimeMissing(
        "There is no llama-server on PATH, in the active conda environment or in Homebrew's folders.",
        fix="Install one (`conda install -c conda-forge llama.cpp`, `brew install llama.cpp`), or let noa_lab get it: `noa-lab install`.",
        pointer="system",
    )


def _has_server(folder: Path) -> bool:
    path = folder / ("llama-server.exe" if os.name == "nt" else "llama-server")
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except OSError:
        return False
