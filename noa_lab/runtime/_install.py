"""Getting llama.cpp onto this machine: find the way, try what it brings, and only then switch to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from noa_lab.errors import (
    BuildFailed,
    DownloadFailed,
    NoaLabError,
    RuntimeMissing,
    RuntimeRejected,
    SetupError,
    ToolMissing,
)
from noa_lab.events import CancelToken, Report, silent
from noa_lab.paths import Home
from noa_lab.runtime._backends import choose_backend
from noa_lab.runtime._bindings import own_libraries
from noa_lab.runtime._install_embedded import bindings_ready, ensure_embedded, try_embedded, without_bindings
from noa_lab.runtime._install_found import install_path, install_system, use_found
from noa_lab.runtime._install_source import install_source
from noa_lab.runtime._job import Job
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._pins import BACKENDS
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import current, runtimes, switch
from noa_lab.runtime._system import find_conda
from noa_lab.runtime._toolchain import find_toolkit
from noa_lab.runtime._wish import Wish, read_wish

__all__ = ["install"]

_STEP = "Choose llama.cpp"


def install(
    home: Home,
    *,
    model: Path,
    source: str | Path = "auto",
    tag: str | None = None,
    backend: str | None = None,
    native: bool = False,
    mirror: str | None = None,
    source_path: str | Path | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
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
        source: "auto"; "release" (prebuilt); "source" (compiled here); "system" (conda's, Homebrew's or the one on PATH, used where it
            is); or the path of an archive or a folder of programs, which are copied.
        tag: Release tag: "b11312", "latest-stable" or "latest-nightly"; default: the pinned one. Implies "release".
        backend: "cpu", "cuda", "vulkan", "rocm", "metal", or one exact build of a release ("cuda-12.4"); default: what this machine has.
        native: Compile for this very CPU: faster, and dies on CPUs that advertise what they must not use. Implies "source".
        mirror: Address of a copy of the releases. Implies "release".
        source_path: An archive, a checkout or a folder of llama.cpp's source; default: the pinned source. Implies "source".
        report: Told about the progress.
        cancel: Stops it within a second.

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
    wish = read_wish(source, tag=tag, backend=backend, native=native, mirror=mirror, source_path=source_path)
    ready = _ready(home) if wish.plain else None
    if ready is not None:
        return ready
    with exclusive(home.runtimes / ".install.lock", "Install llama.cpp", report=report, cancel=cancel):
        job = Job(home, model, report, cancel)
        job.sweep()
        if wish.plain:
            found = _auto(job)
        elif wish.way == "auto":
            found = _asked(job, wish, _install_backend)
        else:
            found = _asked(job, wish, _WAYS[wish.way])
        return replace(found, notes=tuple(job.notes))


def _ready(home: Home) -> Runtime | None:
    """The current runtime when there is nothing left to do."""
    try:
        return current(home) if bindings_ready(home) else None
    except RuntimeMissing:
        return None


def _current_or_none(home: Home) -> Runtime | None:
    try:
        return current(home)
    except RuntimeMissing:
        return None


def _auto(job: Job) -> Runtime:
    """What is best without a word from the user; see `install`."""
    here = _current_or_none(job.home)
    conda = find_conda() if here is None else None
    if conda is not None:
        try:
            here = switch(job.home, use_found(job, conda))
        except RuntimeRejected as error:
            if error.fields.get("kind") == "model":
                raise
            job.give_up(f"The llama.cpp of the conda environment in {conda.folder}", error, "the build from source")
    if here is not None and own_libraries():
        # conda's bindings bring their libraries.
        return here
    try:
        pinned = ensure_embedded(job)
    except (ToolMissing, BuildFailed) as error:
        here = here or _without_compiler(job, error)
        without_bindings(job, error)
        return here
    return here or switch(job.home, _with_gpu(job, pinned) or pinned)


def _without_compiler(job: Job, error: NoaLabError) -> Runtime:
    """The pinned release, where nothing can be compiled; when that fails too, it is the compiler that is missing."""
    job.tell(_STEP, f"{error.message.splitlines()[0]} A prebuilt one is looked for.")
    try:
        return switch(job.home, _install_release(job, Wish("release")))
    except (DownloadFailed, SetupError) as other:
        job.tell(_STEP, other.message.splitlines()[0])
        raise error from None


def _with_gpu(job: Job, pinned: Runtime) -> Runtime | None:
    """The pinned release for the GPU of this machine; None where there is no GPU, or no such release to be had."""
    choice = choose_backend()
    if choice.backend in {"cpu", pinned.backend}:
        job.tell(_STEP, f"{choice.why}: servers use the build that the bindings have", finished=True)
        return None
    job.tell(_STEP, f"{choice.why}: the pinned release for it is looked for")
    try:
        return _install_release(job, Wish("release", backend=choice.backend))
    except (DownloadFailed, SetupError) as error:
        if isinstance(error, RuntimeRejected) and error.fields.get("kind") == "model":
            raise
        job.give_up(
            f"The release for {choice.backend}",
            error,
            f"the CPU build; `noa-lab install --from source --backend {choice.backend}` compiles one for {choice.backend}",
        )
        return None


def _asked(job: Job, wish: Wish, way: Callable[[Job, Wish], Runtime]) -> Runtime:
    """What the user asked for; the old runtime stays the current one until the new one has passed its trial."""
    old = _current_or_none(job.home)
    try:
        fresh = way(job, wish)
    except RuntimeRejected as error:
        if error.fields.get("kind") == "model":
            raise
        stays = f"the one in use stays: {old.id}" if old else "the build from the bindings' own source"
        job.give_up("What was asked for", error, stays)
        return old or switch(job.home, ensure_embedded(job))
    switched = switch(job.home, fresh)
    job.tidy()
    try_embedded(job, switched)
    return switched


def _install_release(job: Job, wish: Wish) -> Runtime:
    # What fetches is loaded when something is to be fetched.
    from noa_lab.runtime._install_release import install_release

    return install_release(job, wish)


def _install_backend(job: Job, wish: Wish) -> Runtime:
    """A backend by name, whichever way: one that is here, a release, a build."""
    wanted = {"hip": "rocm"}.get(wish.backend or "", wish.backend)
    there = next((runtime for runtime in runtimes(job.home) if runtime.backend == wanted), None)
    if there is not None:
        job.tell(_STEP, f"{there.id} is here already", finished=True)
        return there
    if wanted == "cpu":
        return ensure_embedded(job)
    try:
        return _install_release(job, replace(wish, way="release"))
    except (DownloadFailed, SetupError) as error:
        # One exact build of a release cannot be compiled here.
        if isinstance(error, RuntimeRejected) or wanted not in BACKENDS:
            raise
        try:
            find_toolkit(str(wanted))
        except ToolMissing:
            raise error from None
        job.give_up(f"The release for {wanted}", error, "a build from source")
        return install_source(job, replace(wish, way="source", backend=wanted))


_WAYS = {"release": _install_release, "source": install_source, "system": install_system, "path": install_path}
