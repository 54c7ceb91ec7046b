"""The runtimes of a home: folders with a manifest, and two pointers to them.

runtimes/
├── <id>/             programs, libraries, manifest.json; the manifest alone for one that is used where it was found
├── current.json      the one that servers use, and those that were used before it, newest first
└── embedded.json     the one that the bindings load; pinned to their own commit

A pointer is one small file that is replaced whole: the switch and its history happen together or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noa_lab.errors import RuntimeMissing
from noa_lab.events import silent
from noa_lab.paths import Home, write_atomic
from noa_lab.runtime._libraries import copy_linked, is_library
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._runtime import Runtime, RuntimeList

__all__ = [
    "adopt",
    "complete",
    "current",
    "embedded",
    "hash_files",
    "load",
    "place",
    "point",
    "rollback",
    "runtimes",
    "stage",
    "stamps",
    "switch",
]

MANIFEST = "manifest.json"
_IN_PLACE = frozenset({"system"})
"""Sources whose programs stay where they were found."""

_KEPT_HISTORY = 16


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


def runtimes(home: Home) -> RuntimeList:
    """Every complete runtime of a home, the current one first; `Runtime.marks` tells what each is used for."""
    present = {runtime.id: runtime for runtime in _present(home)}
    name = _read_pointer(home, "current")
    previous = next((each for each in _history(home) if each in present and each != name), "")
    marks = {"current": name, "embedded": _read_pointer(home, "embedded"), "previous": previous}
    marked = [
        replace(runtime, marks=tuple(mark for mark, marked in marks.items() if marked == runtime.id))
        for runtime in present.values()
    ]
    return RuntimeList(sorted(marked, key=lambda runtime: (runtime.id != name, runtime.id)))


def _present(home: Home) -> list[Runtime]:
    folders = [folder for folder in home.runtimes.iterdir() if not folder.name.startswith(".") and folder.is_dir()]
    found = [load(folder) for folder in sorted(folders)]
    return [runtime for runtime in found if runtime is not None and complete(runtime)]


def rollback(home: Home) -> Runtime:
    """Make the runtime that was used before the current one the current one again; takes milliseconds, needs no network.

    Two rollbacks in a row lead back to where they began, as `cd -` does. One whose files are gone is passed over. The embedded
    runtime, which the bindings load, is never touched. Servers that are up keep the runtime that they were started with.

    Raises:
        RuntimeMissing: When there was none before, or its files are gone.
    """
    with _switching(home):
        name, history = _read_pointer(home, "current"), _history(home)
        for each in history:
            runtime = load(home.runtimes / each) if each != name else None
            if runtime is not None and complete(runtime):
                _write_current(home, each, [name, *history])
                return current(home)
    raise RuntimeMissing(
        "There is no earlier llama.cpp to go back to.",
        fix="`noa-lab runtimes` shows what is here; `noa-lab install --tag bNNNN` gets another one.",
        pointer="previous",
    )


def switch(home: Home, runtime: Runtime) -> Runtime:
    """Make this runtime the current one; the one before it is where `rollback` goes.

    Returns:
        The runtime, with its marks.
    """
    with _switching(home):
        name = _read_pointer(home, "current")
        if name != runtime.id:
            _write_current(home, runtime.id, [name, *_history(home)])
    return replace(current(home), notes=runtime.notes)


def _switching(home: Home) -> AbstractContextManager[None]:
    # Not the lock of the installation: that one is held for minutes, and a rollback shall not wait for it.
    return exclusive(home.runtimes / ".switch.lock", "Switch llama.cpp", report=silent, cancel=None)


def _write_current(home: Home, name: str, history: list[str]) -> None:
    kept = list(dict.fromkeys(each for each in history if each and each != name))[:_KEPT_HISTORY]
    write_atomic(home.runtimes / "current.json", json.dumps({"id": name, "previous": kept}) + "\n")


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
            f"Files of the llama.cpp in {runtime.folder} are gone{' or changed' if runtime.source in _IN_PLACE else ''}.",
            fix="Run `noa-lab install`, or lab.install() in a notebook: it puts them back.",
            pointer=pointer,
            id=name,
        )
    names = {mark: _read_pointer(home, mark) for mark in ("current", "embedded")}
    return replace(runtime, marks=tuple(mark for mark, marked in names.items() if marked == name))


def _read(home: Home, pointer: str) -> dict[str, Any]:
    try:
        found = json.loads((home.runtimes / f"{pointer}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_pointer(home: Home, pointer: str) -> str:
    return next(iter(_names([_read(home, pointer).get("id")])), "")


def _history(home: Home) -> list[str]:
    """Names of the runtimes that were current before, newest first."""
    previous = _read(home, "current").get("previous")
    return _names(previous if isinstance(previous, list) else [])


def _names(found: list[Any]) -> list[str]:
    # A pointer names a folder here and nothing else, whoever wrote the file.
    return [name for name in found if isinstance(name, str) and name == Path(name).name and name[:1] not in {"", "."}]


def point(home: Home, runtime: Runtime) -> None:
    """Make "embedded" mean this runtime; a reader sees the old one or the new one."""
    write_atomic(home.runtimes / "embedded.json", json.dumps({"id": runtime.id}) + "\n")


def load(folder: Path) -> Runtime | None:
    """The runtime that a folder's manifest describes; None without a readable manifest."""
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = {each.name for each in fields(Runtime)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
        }
        values["id"] = folder.name
        where = Path(values.pop("folder", folder))
        return Runtime(**values, folder=where if values.get("source") in _IN_PLACE else folder)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def complete(runtime: Runtime) -> bool:
    """Whether all its files are there; their contents are not read.

    Programs that are used where they were found belong to someone else, who may replace them: their sizes and times must be those of
    the trial.
    """
    if not runtime.files or not all((runtime.folder / name).is_file() for name in runtime.files):
        return False
    return runtime.source not in _IN_PLACE or stamps(runtime.folder, runtime.files) == runtime.stamps


def stamps(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Size and time of change of files by name."""
    found = {name: (folder / name).stat() for name in names}
    return {name: f"{each.st_size} {each.st_mtime_ns}" for name, each in found.items()}


def hash_files(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """sha256 of files by name; links to files are followed.

    Args:
        folder: The folder.
        names: Which; None for every file in it and in the folders in it.
    """
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found = {}
    for name in sorted(names):
        if name != MANIFEST and (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def stage(programs: Path, home: Home, wanted: tuple[str, ...] | None = None) -> Path:
    """Copy programs and libraries, links as links, to a hidden folder beside the runtimes.

    Args:
        programs: Where they are.
        home: The home.
        wanted: Names of the programs, without ".exe"; every library goes along. None takes all that can be llama.cpp's.
    """
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home.runtimes))
    staging.chmod(0o755)
    try:
        for path in sorted(programs.iterdir()):
            named = path.name.removesuffix(".exe") in wanted if wanted is not None else _belongs(path)
            if (named or is_library(path)) and path.name != MANIFEST:
                copy_linked(path, staging / path.name)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return staging


def _belongs(path: Path) -> bool:
    """Whether a file beside llama-server may be llama.cpp's: its folder may be one for all programs of a system."""
    name = path.name.lower()
    return name.startswith(("llama", "ggml", "licen", "rpc-server", "rocblas", "hipblaslt")) or path.suffix in {
        ".metal",
        ".metallib",
    }


def adopt(programs: Path, home: Home) -> Path:
    """Make a folder on the home's own disk the staging folder: renamed, not copied.

    Args:
        programs: A folder that is ours, with nothing in it but what belongs to the runtime.
        home: The home.
    """
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home.runtimes))
    try:
        programs.replace(staging)
    except OSError:
        # Windows replaces no folder, not even an empty one; and the downloads may be on another disk.
        staging.rmdir()
        shutil.move(programs, staging)
    staging.chmod(0o755)
    return staging


def place(staging: Path, runtime: Runtime, home: Home) -> Runtime:
    """Write the manifest and give the staged folder its name.

    Equal bytes that are there already stay; a folder that lacks files is replaced whole; one with other bytes stays too, and the new
    one gets a number: at no moment is a runtime that works away.

    Returns:
        The runtime at its final place.
    """
    final = home.runtimes / runtime.id
    for number in range(2, 1000):
        there = load(final)
        if there is None or not complete(there):
            break
        if there.folder == runtime.folder or hash_files(there.folder, there.files) == there.files == runtime.files:
            return there
        final = home.runtimes / f"{runtime.id}-{number}"
    runtime = replace(runtime, id=final.name)
    stays = runtime.source in _IN_PLACE
    now = datetime.now(UTC).isoformat(timespec="seconds")
    placed = replace(runtime, folder=runtime.folder if stays else final, installed=now)
    write_atomic(staging / MANIFEST, json.dumps(placed.manifest(), indent=1) + "\n")
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
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
