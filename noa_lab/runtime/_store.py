"""The runtimes of a home: folders with a manifest, and two pointers to them.

runtimes/
├── <id>/             programs, libraries, manifest.json
├── current.json      the one that servers use; replaceable
└── embedded.json     the one that the bindings load; pinned to their own commit
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from noa_lab.errors import RuntimeMissing
from noa_lab.paths import Home, write_atomic
from noa_lab.runtime._runtime import Runtime

__all__ = ["complete", "current", "embedded", "hash_files", "load", "place", "point", "runtimes", "stage"]

MANIFEST = "manifest.json"
_IN_PLACE = frozenset({"system", "path"})
"""Sources whose programs stay where they were found."""


def current(home: Home) -> Runtime:
    """The runtime that servers use.

    Raises:
        RuntimeMissing: When none is installed, or its files are gone.
    """
    return _pointed(home, "current")


def embedded(home: Home) -> Runtime:
    """The runtime whose libraries the bindings load.

    Raises:
        RuntimeMissing: When none is installed, or its files are gone.
    """
    return _pointed(home, "embedded")


def runtimes(home: Home) -> list[Runtime]:
    """Every complete runtime of a home, the current one first."""
    found = [
        load(folder)
        for folder in sorted(home.runtimes.iterdir())
        if not folder.name.startswith(".") and folder.is_dir()
    ]
    present = [runtime for runtime in found if runtime is not None and complete(runtime)]
    name = _read_pointer(home, "current")
    return sorted(present, key=lambda runtime: (runtime.id != name, runtime.id))


def _pointed(home: Home, pointer: str) -> Runtime:
    name = _read_pointer(home, pointer)
    runtime = load(home.runtimes / name) if name else None
    if runtime is None:
        raise RuntimeMissing(
            "No llama.cpp is installed yet.",
            fix="Run `noa-lab install`, or lab.install() in a notebook.",
            pointer=pointer,
        )
    if not complete(runtime):
        raise RuntimeMissing(
            f"Files of the llama.cpp in {runtime.folder} are gone.",
            fix="Run `noa-lab install`, or lab.install() in a notebook: it puts them back.",
            pointer=pointer,
            id=name,
        )
    return runtime


def _read_pointer(home: Home, pointer: str) -> str:
    try:
        found = json.loads((home.runtimes / f"{pointer}.json").read_text(encoding="utf-8"))
        name = found["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    # A pointer names a folder here and nothing else, whoever wrote the file.
    return name if isinstance(name, str) and name == Path(name).name and not name.startswith(".") else ""


def point(home: Home, pointer: str, runtime: Runtime) -> None:
    """Make "current" or "embedded" mean this runtime; a reader sees the old one or the new one."""
    write_atomic(home.runtimes / f"{pointer}.json", json.dumps({"id": runtime.id}) + "\n")


def load(folder: Path) -> Runtime | None:
    """The runtime that a folder's manifest describes; None without a readable manifest."""
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = {each.name for each in fields(Runtime)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
        }
        where = Path(values.pop("folder", folder))
        return Runtime(**values, folder=where if values.get("source") in _IN_PLACE else folder)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def complete(runtime: Runtime) -> bool:
    """Whether all its files are there; their contents are not read."""
    return bool(runtime.files) and all((runtime.folder / name).is_file() for name in runtime.files)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder by name; links are followed."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def stage(programs: Path, home: Home, wanted: tuple[str, ...]) -> Path:
    """Copy programs and libraries, links as links, to a hidden folder beside the runtimes.

    Args:
        programs: Where the build left them.
        home: The home.
        wanted: Names of the programs, without ".exe"; every library goes along.
    """
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home.runtimes))
    staging.chmod(0o755)
    for path in sorted(programs.iterdir()):
        is_library = ".so" in path.suffixes or path.suffix in {".dll", ".dylib"} or ".so." in path.name
        if is_library or path.name.removesuffix(".exe") in wanted:
            shutil.copy2(path, staging / path.name, follow_symlinks=False)
    return staging


def place(staging: Path, runtime: Runtime, home: Home) -> Runtime:
    """Write the manifest and give the staged folder its name; what was there before is replaced whole.

    Returns:
        The runtime at its final place.
    """
    final = home.runtimes / runtime.id
    placed = replace(runtime, folder=final)
    write_atomic(staging / MANIFEST, json.dumps(placed.as_dict(), indent=1) + "\n")
    _flush(staging)
    if final.exists():
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=home.runtimes))
        final.replace(aside / runtime.id)
        staging.replace(final)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        staging.replace(final)
    return placed


def _flush(folder: Path) -> None:
    """Get the bytes to the disk before a name promises them."""
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
