"""Getting llama.cpp onto this machine: find the way, try what it brings, and only then switch to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from noa_lab.errors import RuntimeMissing
from noa_lab.events import CancelToken, Report, silent
from noa_lab.paths import Home
from noa_lab.runtime._bindings import bindings_ready
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._options import InstallOptions, spelled_out
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import current
from noa_lab.runtime._wish import read_wish

__all__ = ["install", "ready"]


@spelled_out
def install(
    home: Home,
    *,
    model: Path,
    report: Report = silent,
    cancel: CancelToken | None = None,
    **options: Unpack[InstallOptions],
) -> Runtime:
    """Make sure that a llama.cpp that works is here, and that this Python's bindings have its libraries.

    Without arguments ("auto") the current runtime stays if there is one, and the call takes a few milliseconds. On a fresh machine it
    is, in this order: the llama.cpp of the active conda environment; where a GPU was seen, the pinned release for it; else the build
    that the bindings need anyway, compiled from the source inside their sdist (about 6 minutes on 2 cores; needs no network but PyPI).
    Each step is reported, and what cannot be reached is passed over at once.

    Everything is tried with a real model in a child process before it is put in place. What fails its trial is rejected by name, and
    the next safer thing is tried: what was asked for; the portable build; the one without AVX; at last what is here already. The
    `notes` of the result say so. It may be interrupted at any moment and started again: the old runtime or the new one is in place,
    nothing half-done ever is. The *embedded* runtime, which the bindings load, is pinned to their commit whatever servers use.

    Args:
        home: Where it goes.
        model: A small GGUF file that it is tried with.
        report: Told about the progress.
        cancel: Stops it within a second.
        options: Which one: see `InstallOptions`. `plan_install` says beforehand what they would lead to.

    Returns:
        The current runtime.

    Raises:
        BadInput: When the arguments contradict each other, or name what does not exist.
        ToolMissing: When there is no compiler, or not the one of the backend.
        DiskFull: When it does not fit.
        DownloadFailed: When what was asked for cannot be fetched; ChecksumMismatch when its bytes are wrong.
        BuildFailed: When the compiler fails.
        RuntimeMissing: When the system has no llama.cpp to use.
        RuntimeRejected: When no build works on this machine.
        SetupError: When llama-cpp-python is missing in this Python, or a release has nothing for this machine.
        Cancelled: When `cancel` was.
    """
    wish = read_wish(options)
    there = ready(home) if wish.plain else None
    if there is not None:
        return there
    # What compiles and fetches is loaded when there is something to compile or to fetch.
    from noa_lab.runtime._install_ways import follow
    from noa_lab.runtime._job import Job

    with exclusive(home.runtimes / ".install.lock", "Install llama.cpp", report=report, cancel=cancel):
        job = Job(home, model, report, cancel)
        job.sweep()
        return replace(follow(job, wish), notes=tuple(job.notes))


def ready(home: Home) -> Runtime | None:
    """The current runtime when an installation without options has nothing left to do."""
    try:
        return current(home) if bindings_ready(home) else None
    except RuntimeMissing:
        return None
