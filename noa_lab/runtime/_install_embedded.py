"""The embedded runtime: built from the pinned source, at the very commit that this Python's bindings were made for."""

from __future__ import annotations

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
from noa_lab.runtime._bindings import bindings_ready, is_pinned, link_bindings
from noa_lab.runtime._install_source import build_down, safe_recipes
from noa_lab.runtime._job import Job
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import embedded, point

__all__ = ["ensure_embedded", "try_embedded", "without_bindings"]

_STEP = "Link llama-cpp-python"


def ensure_embedded(job: Job) -> Runtime:
    """The embedded runtime, built if it is not here, and linked into the bindings.

    Raises:
        ToolMissing, DiskFull, DownloadFailed, BuildFailed, RuntimeRejected, SetupError, Cancelled: As `install` has them.
    """
    runtime = _embedded_or_none(job.home)
    if runtime is None:
        runtime = build_down(job, safe_recipes(job))
        job.tidy()
    _link(job, runtime)
    return runtime


def try_embedded(job: Job, fresh: Runtime) -> None:
    """Where servers have their llama.cpp: the bindings' libraries too, but their lack is no failure of the installation.

    Args:
        job: The installation.
        fresh: What servers use. A prebuilt llama.cpp of the bindings' own commit serves them as well, if they can load it; then
            nothing has to be compiled.
    """
    if bindings_ready(job.home):
        return
    same = is_pinned(fresh) and fresh.source == "release" and fresh.backend in {"cpu", "metal"}
    if same and _embedded_or_none(job.home) is None:
        try:
            _link(job, fresh)
            return
        except RuntimeRejected as error:
            job.tell(_STEP, f"the release's libraries do not serve: {error.fields['reason']}; they are compiled")
    try:
        ensure_embedded(job)
    except (ToolMissing, BuildFailed, DownloadFailed, RuntimeRejected, SetupError) as error:
        without_bindings(job, error)


def without_bindings(job: Job, error: NoaLabError) -> None:
    """Note that servers work, and the engine in this Python's own process does not."""
    reason = error.message.splitlines()[0].rstrip(".")
    note = f"llama-cpp-python has no libraries, so EmbeddedEngine does not work; servers do: {reason}. {error.fix}"
    job.notes.append(note)
    job.tell(_STEP, note)


def _embedded_or_none(home: Home) -> Runtime | None:
    try:
        found = embedded(home)
    except RuntimeMissing:
        return None
    return found if is_pinned(found) else None


def _link(job: Job, runtime: Runtime) -> None:
    job.tell(_STEP, "import, model, one token")
    link_bindings(runtime, job.model, cancel=job.cancel)
    point(job.home, runtime)
    job.tell(_STEP, finished=True)
