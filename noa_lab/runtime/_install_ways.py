"""The ways to a llama.cpp, and what comes next when one fails; only under the lock of the installation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from noa_lab.errors import (
    BuildFailed,
    DownloadFailed,
    NoaLabError,
    RuntimeMissing,
    RuntimeRejected,
    SetupError,
    ToolMissing,
)
from noa_lab.paths import Home
from noa_lab.runtime._backends import choose_backend
from noa_lab.runtime._bindings import own_libraries
from noa_lab.runtime._install_embedded import ensure_embedded, try_embedded, without_bindings
from noa_lab.runtime._install_found import install_path, install_system, use_found
from noa_lab.runtime._install_source import install_source
from noa_lab.runtime._job import Job
from noa_lab.runtime._pins import BACKENDS
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import current, runtimes, switch
from noa_lab.runtime._system import find_conda
from noa_lab.runtime._toolchain import find_toolkit
from noa_lab.runtime._wish import Wish

__all__ = ["follow", "installed_backend"]

_STEP = "Choose llama.cpp"


def follow(job: Job, wish: Wish) -> Runtime:
    """Do what was asked for; see `install`."""
    if wish.plain:
        return _auto(job)
    return _asked(job, wish, _install_backend if wish.way == "auto" else _WAYS[wish.way])


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
    if here is not None:
        # conda's bindings bring their libraries.
        if not own_libraries():
            try_embedded(job, here)
        return here
    try:
        pinned = ensure_embedded(job)
    except (ToolMissing, BuildFailed) as error:
        release = _without_compiler(job, error)
        without_bindings(job, error)
        return release
    return switch(job.home, _with_gpu(job, pinned) or pinned)


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


def installed_backend(home: Home, wish: Wish) -> Runtime | None:
    """The runtime with this backend that is here already, the current one first."""
    return next((runtime for runtime in runtimes(home) if runtime.backend == wish.backend), None)


def _install_backend(job: Job, wish: Wish) -> Runtime:
    """A backend by name, whichever way: one that is here, a release, a build."""
    wanted = wish.backend
    there = installed_backend(job.home, wish)
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
