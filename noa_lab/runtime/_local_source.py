"""llama.cpp's source as the user has it: an archive, a checkout, or a folder; and what it says about itself."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from noa_lab.errors import BadInput
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.runtime._archive import unpack
from noa_lab.runtime._backends import which
from noa_lab.runtime._pins import PIN, PROGRAMS, Pin

__all__ = ["LocalSource", "open_source"]

_STEP = "Look at llama.cpp's source"
_GIT = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""A checkout's own settings must not start programs."""
_SKIPPED = frozenset({".git", "build", "models", "node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Source that can be compiled.

    Attributes:
        folder: Its top folder.
        pin: Tag and commit, as far as they are known: "b0" and "unknown" where not.
        programs: The CMake targets that it has, of those that noa_lab builds.
        flags: CMake options that source of its age needs.
        digest: Changes with its contents, not with its place.
    """

    folder: Path
    pin: Pin
    programs: tuple[str, ...]
    flags: tuple[str, ...]
    digest: str


def open_source(path: Path, work: Path, *, report: Report, cancel: CancelToken | None) -> LocalSource:
    """Find llama.cpp's source.

    Args:
        path: A .tar.gz or .zip archive, a git checkout, or a folder; llama.cpp's own, or one that holds it as "vendor/llama.cpp".
        work: Where an archive is unpacked to.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        BadInput: When it is not llama.cpp's source.
        DownloadFailed: When the archive is broken or hostile.
        Cancelled: When `cancel` was.
    """
    path = path.expanduser().absolute()
    report(Progress(_STEP, path.name))
    if path.is_dir():
        folder, digest = _top(path, path), ""
    elif path.is_file():
        digest = _sha256(path)
        unpacked = work / f"source-{digest[:12]}"
        if not unpacked.is_dir():
            unpack(path, unpacked, report=report, cancel=cancel)
        folder = _top(unpacked, path)
    else:
        raise BadInput(
            f"There is no file or folder {path}.",
            fix="Name an archive or a folder of llama.cpp's source.",
            field="source_path",
            value=str(path),
        )
    pin = _identity(path, folder, digest)
    flags, programs = _shape(folder)
    if "llama-server" not in programs:
        raise _no_source(path, "it has no llama-server to build")
    known = pin.commit if pin.commit != "unknown" else "a commit that it does not name"
    report(
        Progress(
            _STEP,
            f"{'build ' + str(pin.build_number) if pin.build_number else 'a build without a number'}, {known}",
            finished=True,
        )
    )
    return LocalSource(folder, pin, programs, flags, digest or _tree_digest(folder))


def _top(folder: Path, named: Path) -> Path:
    """The folder that is llama.cpp's, among a folder and what it holds."""
    candidates = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    for each in candidates:
        for place in (each, each / "vendor" / "llama.cpp"):
            if (place / "CMakeLists.txt").is_file() and (place / "include" / "llama.h").is_file():
                return place
    raise _no_source(named, "there is no CMakeLists.txt beside an include/llama.h in it")


def _no_source(path: Path, reason: str) -> BadInput:
    return BadInput(
        f"{path} is no llama.cpp source that noa_lab can build: {reason}.",
        fix="Name an archive, a checkout or a folder of llama.cpp of June 2024 or later; programs go to `noa-lab install --from PATH`.",
        field="source_path",
        value=str(path),
    )


def _shape(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the source's age asks for, and which of the wanted programs it has."""
    text = "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for pattern in ("tools/*/CMakeLists.txt", "examples/*/CMakeLists.txt")
        for path in sorted(folder.glob(pattern))
    )
    targets = set(re.findall(r"(?:set\s*\(\s*TARGET|add_executable\s*\()\s*(llama-[\w-]+)", text))
    # Until May 2025 the programs were among the examples.
    old = not (folder / "tools" / "server").is_dir()
    return (("-DLLAMA_BUILD_EXAMPLES=ON",) if old else ()), tuple(name for name in PROGRAMS if name in targets)


def _identity(path: Path, folder: Path, digest: str) -> Pin:
    """Tag and commit, by what git says, else by the names of archive and folder."""
    if digest == PIN.sha256:
        return PIN
    unknown = replace(PIN, distribution="", version="", sha256="", tag="b0", commit="unknown")
    if (folder / ".git").exists():
        return _from_git(folder, unknown)
    for name in (path.name, folder.name):
        tag = re.search(r"\b(b\d{3,6})\b", name)
        commit = re.search(r"(?:^|[-_.])([0-9a-f]{40})(?:[-_.]|$)", name)
        if tag or commit:
            return replace(unknown, tag=tag[1] if tag else "b0", commit=commit[1][:9] if commit else "unknown")
    return unknown


def _from_git(folder: Path, unknown: Pin) -> Pin:
    commit = _git(folder, "rev-parse", "--short=9", "HEAD")
    shallow = _git(folder, "rev-parse", "--is-shallow-repository") != "false"
    count = "" if shallow else _git(folder, "rev-list", "--count", "HEAD")
    tags = [tag for tag in _git(folder, "tag", "--points-at", "HEAD").split() if re.fullmatch(r"b\d+", tag)]
    number = tags[0].removeprefix("b") if tags else count if count.isdigit() else "0"
    return replace(unknown, tag=f"b{number}", commit=commit if re.fullmatch(r"[0-9a-f]{7,40}", commit) else "unknown")


def _git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    git = which("git")
    if git is None:
        return ""
    command = [git, *_GIT, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tree_digest(folder: Path) -> str:
    """Changes when a file of the source does: names, sizes and times, not contents (100 MB)."""
    digest = hashlib.sha256()
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            path = Path(top, name)
            found = path.lstat()
            digest.update(f"{path.relative_to(folder)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
