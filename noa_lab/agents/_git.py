"""The files of a repository by git's own word, asked so that nothing in the repository can run.

A repository's settings are written by whoever made it, and git runs programs that they name. What `ls-files` could run, and what
stops it here:

    core.fsmonitor                          switched off on the command line, which stands above every file
    hooks                                   core.hooksPath is the null device
    a lazy fetch of missing objects         (partial clones with a sparse index: ext::, core.sshCommand, uploadpack) no protocol
                                            is allowed, lazy fetching is off
    a pager, an askpass program             none; standard input and output are not terminals
    submodules with settings of their own   not entered
    core.worktree, core.excludesFile        replaced: a repository cannot point the listing at other folders
    the caller's GIT_* variables            removed
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from noa_lab.events import CancelToken

__all__ = ["GitRefused", "git_names", "repository_root"]

_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.untrackedCache": "false",
    "core.excludesFile": os.devnull,
    "core.attributesFile": os.devnull,
    "core.sshCommand": "false",
    "core.pager": "",
    "submodule.recurse": "false",
    "protocol.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024
_TIMEOUT_S = 30.0


class GitRefused(Exception):
    """git cannot list this folder; the text says why."""


@dataclass(slots=True)
class _Watch:
    """Kills the child at the deadline or when cancelled; `reason` says which."""

    child: subprocess.Popen[bytes]
    cancel: CancelToken
    deadline: float
    reason: str = ""

    def run(self, finished: threading.Event) -> None:
        while not finished.wait(0.05):
            if self.cancel.cancelled:
                self.reason = "cancelled"
            elif time.monotonic() > self.deadline:
                self.reason = f"git did not answer within {_TIMEOUT_S:.0f} s"
            if self.reason:
                self.child.kill()
                return


def repository_root(folder: Path) -> Path | None:
    """The nearest folder upward from `folder` (which is absolute) that holds `.git`, or None outside of any repository."""
    return next((place for place in (folder, *folder.parents) if os.path.exists(place / ".git")), None)  # noqa: PTH110 - False where it may not look


def git_names(folder: Path, root: Path, cancel: CancelToken) -> list[str]:
    """Tracked files, and untracked ones that are not ignored, under `folder`.

    Args:
        folder: The folder to list, absolute and without symbolic links.
        root: The repository's top folder, from `repository_root`.
        cancel: Ends the child process; after 30 s it is given up anyway.

    Returns:
        Names relative to `folder`, with `/`, each once; undecodable bytes as lone surrogates. Not checked: a hostile index can hold
        any name.

    Raises:
        GitRefused: git is missing, failed, took too long or said too much.
        Cancelled: `cancel` was called.
    """
    command = [_program(root), "--no-pager", "--no-optional-locks", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    for key, value in _SETTINGS.items():
        command += ["-c", f"{key}={value}"]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = _run(command, folder, cancel)
    return [os.fsdecode(name) for name in dict.fromkeys(output.split(b"\0")) if name]


def _program(root: Path) -> str:
    found = shutil.which("git")
    if found is None:
        raise GitRefused("git is not installed")
    # Windows looks for programs in the current folder first; a repository must not bring its own git.
    if Path(found).resolve().is_relative_to(root.resolve()):
        raise GitRefused("the only git found lies inside the repository itself")
    return found


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "C",
    }


def _run(command: list[str], folder: Path, cancel: CancelToken) -> bytes:
    finished = threading.Event()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        watch = _Watch(child, cancel, time.monotonic() + _TIMEOUT_S)
        thread = threading.Thread(target=watch.run, args=(finished,), name="noa-lab-git", daemon=True)
        thread.start()
        try:
            assert child.stdout is not None
            output = child.stdout.read(_MAX_OUTPUT_BYTES + 1)
            if len(output) > _MAX_OUTPUT_BYTES:
                child.kill()
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            finished.set()
            thread.join()
    cancel.check("Listing the files")
    if len(output) > _MAX_OUTPUT_BYTES:
        raise GitRefused(f"git listed more than {_MAX_OUTPUT_BYTES >> 20} MiB of names")
    if watch.reason or code:
        raise GitRefused(watch.reason or f"git ls-files ended with exit code {code}")
    return output
