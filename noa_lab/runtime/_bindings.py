"""Giving llama-cpp-python, which is installed without libraries, those of the embedded runtime."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from noa_lab.errors import RuntimeMissing, SetupError
from noa_lab.events import CancelToken
from noa_lab.paths import Home
from noa_lab.runtime._pins import PIN
from noa_lab.runtime._process import clean_environment, run
from noa_lab.runtime._rejection import rejected_for
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import embedded

__all__ = [
    "bindings_linked",
    "bindings_ready",
    "is_pinned",
    "library_folder",
    "link_bindings",
    "own_libraries",
    "shared_libraries",
    "unlink_bindings",
]

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
        runtime: Also ask whether they are this runtime's, and were tried.
    """
    folder = library_folder()
    if folder is None or not folder.is_dir():
        return False
    if runtime is None:
        return any(path.exists() and path.name.removeprefix("lib").startswith("llama.") for path in folder.iterdir())
    libraries = shared_libraries(runtime.folder)
    if not libraries or _read_stamp(folder) != _tried(runtime):
        return False
    if os.name == "nt":
        return all((folder / library.name).is_file() for library in libraries)
    return all(_points_to(folder / library.name, library) for library in libraries)


def bindings_ready(home: Home) -> bool:
    """Whether the bindings have the libraries of a complete embedded runtime, or some of their own."""
    try:
        pinned = embedded(home)
    except RuntimeMissing:
        return bool(own_libraries())
    return is_pinned(pinned) and (bindings_linked(pinned) or bool(own_libraries()))


def is_pinned(runtime: Runtime) -> bool:
    """Whether it is the llama.cpp that the bindings were made for."""
    return (runtime.tag, runtime.commit) == (PIN.tag, PIN.commit)


def _real(library: Path) -> Path:
    """Where the library is, whatever links its folder was reached through: homes that share a build share its libraries."""
    return library.parent.resolve() / library.name


def _tried(runtime: Runtime) -> str:
    return f"{runtime.folder.resolve()} tried"


def _read_stamp(folder: Path) -> str:
    try:
        return (folder / _STAMP).read_text(encoding="utf-8")
    except OSError:
        return ""


def _points_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.exists() and link.readlink() == _real(target)


def link_bindings(runtime: Runtime, model: Path, *, cancel: CancelToken | None = None) -> None:
    """Link (Windows: copy) the runtime's libraries into this Python's `llama_cpp/lib`, and try them in a child process.

    Nothing happens when that was done before; links that dangle are repaired.

    Args:
        runtime: The embedded runtime.
        model: A small GGUF file for the trial.
        cancel: Ends the trial.

    Raises:
        SetupError: When llama-cpp-python is not installed, or has other libraries of its own.
        RuntimeRejected: When the trial fails; the libraries are taken away again.
        Cancelled: When `cancel` was; the libraries are taken away again.
    """
    folder = library_folder()
    if folder is None:
        raise SetupError(
            "llama-cpp-python is not installed in this Python.",
            fix="Run `python lab.py`, which installs it.",
            distribution="llama-cpp-python",
        )
    if bindings_linked(runtime):
        return
    _refuse_foreign(folder)
    folder.mkdir(exist_ok=True)
    unlink_bindings()
    try:
        (folder / _STAMP).write_text("not tried yet", encoding="utf-8")
        for library in shared_libraries(runtime.folder):
            target = folder / library.name
            if os.name == "nt":
                shutil.copy2(library, target)
            else:
                target.symlink_to(_real(library))
        _try(Path(sys.executable), model, cancel)
    except BaseException:
        # Untried libraries could kill the next process that imports them.
        unlink_bindings()
        raise
    (folder / _STAMP).write_text(_tried(runtime), encoding="utf-8")


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


def own_libraries() -> list[str]:
    """Names of llama.cpp's libraries that the bindings brought themselves, as conda's do; empty when they are ours to give."""
    folder = library_folder()
    if folder is None or not folder.is_dir() or (folder / _STAMP).is_file():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink() and "llama" in path.name
    )


def _refuse_foreign(folder: Path) -> None:
    foreign = own_libraries()
    if foreign:
        raise SetupError(
            f"llama-cpp-python brings libraries of its own ({', '.join(foreign[:3])} in {folder}).",
            fix="Use noa_lab in an environment of its own: `python lab.py` makes one.",
            folder=str(folder),
        )


def _try(python: Path, model: Path, cancel: CancelToken | None) -> None:
    """Import `llama_cpp` in a child Python, load the model, generate one token."""
    code = (
        "import sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False)\n"
        "print('tokens', model.create_completion('Once upon', max_tokens=1)['usage']['completion_tokens'])\n"
    )
    private = Path(tempfile.mkdtemp(prefix="noa-lab-bindings-"))
    try:
        done = run([python, "-c", code, model], cwd=private, env=clean_environment(private), seconds=120, cancel=cancel)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if done.returncode != 0 or done.timed_out or "tokens 1" not in done.text:
        raise rejected_for(python, "`import llama_cpp` and one token", done)
