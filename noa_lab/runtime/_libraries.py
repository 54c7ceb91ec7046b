"""Keeping programs and their libraries together when they are copied from where they were installed.

`cmake --install` and package managers put programs into bin/ and libraries into lib/, and a program finds its libraries by a path that
was fixed when it was linked, by the system's list, or by LD_LIBRARY_PATH. A copy has to find them by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["add_launchers", "beside_first", "bring_libraries", "copy_linked", "is_library"]

_ASK_SECONDS = 30.0
_TRACED = re.compile(r"^\s*(\S+) => (?:(/.+?) \(0x[0-9a-f]+\)|not found)\s*$", re.MULTILINE)
_NOT_LOADED = re.compile(r"Library not loaded: \S*?([^/\s]+\.dylib)")
_SEARCH_PATH = {"linux": "LD_LIBRARY_PATH", "darwin": "DYLD_LIBRARY_PATH"}
_SYSTEM_PREFIXES = tuple(map(Path, ("/", "/usr", "/usr/local")))
"""What is in these the system's own loader finds for every program."""

_LAUNCHER = """\
#!/bin/sh
# {name}.bin, with the libraries beside it: it was linked to look for them elsewhere.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
{variable}="$here${{{variable}:+:${variable}}}"
export {variable}
exec "$here/{name}.bin" "$@"
"""


def is_library(path: Path) -> bool:
    """Whether a file's name is that of a shared library."""
    return ".so" in path.suffixes or path.suffix in {".dll", ".dylib"} or ".so." in path.name


def beside_first(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment for programs in a folder: a search path of the user's must not give them another llama.cpp's libraries.

    LD_LIBRARY_PATH comes before the place that most programs were linked to look into, which is their own folder.
    """
    found = dict(environment)
    variable = _SEARCH_PATH.get(sys.platform, "")
    if found.get(variable):
        found[variable] = os.pathsep.join((str(folder), found[variable]))
    return found


def copy_linked(path: Path, target: Path) -> None:
    """Copy a file or a folder; a link to a neighbour (libraries have chains of versions) stays one, every other is followed."""
    if path.is_dir():
        shutil.copytree(path, target, symlinks=False, copy_function=_copy)
    elif path.is_symlink() and path.readlink().name == str(path.readlink()):
        target.symlink_to(path.readlink())
    elif path.is_file():
        _copy(path, target)


def _copy(path: str | Path, target: str | Path) -> None:
    """Copy a file. Package managers install without the right to write, which the owner of a copy needs to keep it or to remove it."""
    shutil.copy2(path, target)
    Path(target).chmod(Path(target).stat().st_mode | stat.S_IWUSR)


def bring_libraries(programs: Path, beside: Path, *, every: bool) -> None:
    """Put the libraries of a neighbouring lib folder beside programs; what is there already stays.

    Args:
        programs: Where the programs are, or were: for ".../bin", ".../lib" and ".../lib64" are looked into.
        beside: Where the libraries go.
        every: Take all libraries there, because the whole prefix is llama.cpp's; else those named for llama.cpp, and those that its
            server loads from there.
    """
    prefix = programs.parent
    folders = [prefix / name for name in ("lib", "lib64") if (prefix / name).is_dir()] if programs.name == "bin" else []
    loaded = [path for path in _loaded(programs / "llama-server", os.environ).values() if path is not None]
    theirs = {path for path in loaded if path.parent != programs and _named_for_llama_cpp(path)}
    for folder in folders:
        deeper = (
            folder.rglob("*")
            if every
            else (path for name in ("llama*", "ggml*") for path in folder.glob(f"{name}/**/*"))
        )
        theirs |= {
            path for path in (*folder.iterdir(), *deeper) if is_library(path) and (every or _named_for_llama_cpp(path))
        }
        if prefix not in _SYSTEM_PREFIXES:
            theirs |= {path for path in loaded if path.parent.resolve() == folder.resolve()}
    by_name = {path.name: path for path in sorted(theirs) if path.is_file()}
    brought = [path for name, path in by_name.items() if not os.path.lexists(beside / name)]
    for path in brought:
        copy_linked(path, beside / path.name)
    for path in brought:
        if not (beside / path.name).exists():
            # The neighbour that the link leads to is not among what was brought.
            (beside / path.name).unlink()
            _copy(path, beside / path.name)


def _named_for_llama_cpp(path: Path) -> bool:
    return re.match(r"(?:lib)?(?:llama|ggml|mtmd)", path.name) is not None


def add_launchers(folder: Path, tools: tuple[str, ...]) -> tuple[str, ...]:
    """Make copied programs load the libraries beside them, where by themselves they would not.

    A program that looks elsewhere is renamed to NAME.bin, and NAME becomes a small script that runs it with the folder on the loader's
    search path. On Windows the folder of a program is always searched first.

    Args:
        folder: Programs and libraries together, noa_lab's own copy.
        tools: Names of the programs.

    Returns:
        The programs that needed it.
    """
    variable = _SEARCH_PATH.get(sys.platform)
    if variable is None:
        return ()
    changed = []
    for name in tools:
        program = folder / name
        if program.is_symlink() or not _looks_elsewhere(program):
            continue
        program.replace(folder / f"{name}.bin")
        program.write_text(_LAUNCHER.format(name=name, variable=variable), encoding="utf-8")
        program.chmod(0o755)
        changed.append(name)
    return tuple(changed)


def _looks_elsewhere(program: Path) -> bool:
    """Whether a program does not load a library that lies beside it, but another one of that name, or none."""
    beside = {path.name for path in program.parent.iterdir() if is_library(path)}
    if sys.platform == "darwin":
        return bool(beside & set(_NOT_LOADED.findall(_ask(program, _plain(os.environ)))))
    here = program.parent.resolve()
    loaded = _loaded(program, _plain(os.environ))
    return any(path is None or path.parent.resolve() != here for name, path in loaded.items() if name in beside)


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what steers the loader."""
    return {name: value for name, value in environment.items() if name not in {*_SEARCH_PATH.values(), "LD_PRELOAD"}}


def _loaded(program: Path, environment: Mapping[str, str]) -> dict[str, Path | None]:
    """The libraries that Linux's loader finds for a program, by name; None for one that it does not find."""
    if sys.platform != "linux":
        return {}
    # It is what `ldd` does.
    found = _TRACED.findall(_ask(program, {**environment, "LD_TRACE_LOADED_OBJECTS": "1"}))
    return {name: Path(os.path.normpath(path)) if path else None for name, path in found}


def _ask(program: Path, environment: dict[str, str]) -> str:
    """What a program, or its loader, says."""
    # A static program would take no notice of the loader's variables, and start without the option.
    command = [str(program), "--version"]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).decode("utf-8", "replace")
