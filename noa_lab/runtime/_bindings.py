"""Giving llama-cpp-python, which is installed without libraries, those of the embedded runtime."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from noa_lab.errors import SetupError
from noa_lab.runtime._runtime import Runtime

__all__ = ["bindings_linked", "library_folder", "link_bindings", "shared_libraries", "unlink_bindings"]

_STAMP = "noa-lab-runtime.txt"


def library_folder() -> Path | None:
    """The folder in this Python's `llama_cpp` package that its libraries belong into; None without the package.

    The package is found, not imported: without its libraries it cannot be.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "lib"


def shared_libraries(folder: Path) -> list[Path]:
    """The shared libraries of a runtime's folder, links among them included."""
    ends = (".dll",) if os.name == "nt" else (".dylib",) if os.uname().sysname == "Darwin" else (".so",)
    return sorted(path for path in folder.iterdir() if path.suffix in ends or ".so." in path.name)


def bindings_linked(runtime: Runtime | None = None) -> bool:
    """Whether this Python's `llama_cpp` has its libraries.

    Args:
        runtime: Also ask whether they are this runtime's.
    """
    folder = library_folder()
    if folder is None or not folder.is_dir():
        return False
    if runtime is None:
        return any(path.exists() and path.name.removeprefix("lib").startswith("llama.") for path in folder.iterdir())
    libraries = shared_libraries(runtime.folder)
    if os.name == "nt":
        stamp = folder / _STAMP
        stamped = stamp.is_file() and stamp.read_text(encoding="utf-8") == runtime.id
        return stamped and all((folder / library.name).is_file() for library in libraries)
    return bool(libraries) and all(_points_to(folder / library.name, library) for library in libraries)


def _points_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.exists() and link.readlink() == target.absolute()


def link_bindings(runtime: Runtime) -> bool:
    """Link (Windows: copy) the runtime's libraries into this Python's `llama_cpp/lib`; repairs what dangles.

    Args:
        runtime: The embedded runtime.

    Returns:
        Whether anything had to be changed.

    Raises:
        SetupError: When llama-cpp-python is not installed, or has other libraries of its own.
    """
    folder = library_folder()
    if folder is None:
        raise SetupError(
            "llama-cpp-python is not installed in this Python.",
            fix="Run `python lab.py`, which installs it.",
            distribution="llama-cpp-python",
        )
    if bindings_linked(runtime):
        return False
    _refuse_foreign(folder)
    folder.mkdir(exist_ok=True)
    unlink_bindings()
    for library in shared_libraries(runtime.folder):
        target = folder / library.name
        if os.name == "nt":
            shutil.copy2(library, target)
        else:
            target.symlink_to(library.absolute())
    (folder / _STAMP).write_text(runtime.id, encoding="utf-8")
    return True


def unlink_bindings() -> None:
    """Take away the libraries that `link_bindings` gave, so that `import llama_cpp` fails instead of killing the process."""
    folder = library_folder()
    if folder is None or not folder.is_dir():
        return
    ours = (folder / _STAMP).is_file()
    for path in folder.iterdir():
        if path.is_symlink() or (ours and path.suffix == ".dll"):
            path.unlink()
    (folder / _STAMP).unlink(missing_ok=True)


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir() or (folder / _STAMP).is_file():
        return
    foreign = [
        path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink() and "llama" in path.name
    ]
    if foreign:
        raise SetupError(
            f"llama-cpp-python brings libraries of its own ({', '.join(sorted(foreign)[:3])} in {folder}).",
            fix="Use noa_lab in an environment of its own: `python lab.py` makes one.",
            folder=str(folder),
        )
