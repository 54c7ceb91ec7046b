"""Getting llama.cpp onto this machine: fetch, compile, try, and only then put in place."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from noa_lab.errors import RuntimeMissing, RuntimeRejected, SetupError
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.paths import Home
from noa_lab.runtime._bindings import bindings_linked, link_bindings, unlink_bindings
from noa_lab.runtime._build import build
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PIN, PROGRAMS, Pin, Recipe, build_id, recipes
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._smoke import fastest_threads, smoke_test, try_bindings
from noa_lab.runtime._source import source_folder
from noa_lab.runtime._store import current, embedded, hash_files, place, point, stage
from noa_lab.runtime._toolchain import find_toolchain

__all__ = ["install"]

_TEST = "Test llama.cpp"


def install(home: Home, *, model: Path, report: Report = silent, cancel: CancelToken | None = None) -> Runtime:
    """Make sure that a llama.cpp that works is here, and that this Python's bindings have its libraries.

    The first call compiles it (about 6 minutes on 2 cores); with everything in place a call takes a few milliseconds and starts no
    process. It may be interrupted at any moment and started again: nothing half-done is ever in place.

    Args:
        home: Where it goes.
        model: A small GGUF file that it is tried with.
        report: Told about the progress.
        cancel: Stops it within a second.

    Returns:
        The current runtime.

    Raises:
        ToolMissing: When there is no compiler.
        DiskFull: When it does not fit.
        DownloadFailed: When PyPI cannot be reached.
        BuildFailed: When the compiler fails.
        RuntimeRejected: When no build works on this machine.
        SetupError: When llama-cpp-python is missing in this Python.
        Cancelled: When `cancel` was.
    """
    ready = _ready(home)
    if ready is not None:
        return ready
    with _locked(home, report, cancel):
        runtime = _embedded_or_none(home) or _install_embedded(home, model, report, cancel)
        point(home, "embedded", runtime)
        _link(runtime, model, report, cancel)
        try:
            return current(home)
        except RuntimeMissing:
            point(home, "current", runtime)
            return current(home)


def _ready(home: Home) -> Runtime | None:
    """The current runtime when there is nothing left to do."""
    try:
        pinned = embedded(home)
        return current(home) if _is_pinned(pinned) and bindings_linked(pinned) else None
    except RuntimeMissing:
        return None


def _embedded_or_none(home: Home) -> Runtime | None:
    try:
        found = embedded(home)
    except RuntimeMissing:
        return None
    return found if _is_pinned(found) else None


def _is_pinned(runtime: Runtime) -> bool:
    return (runtime.tag, runtime.commit) == (PIN.tag, PIN.commit)


class _locked:  # noqa: N801 - reads as a statement
    """One installation at a time in a home; the wait is reported and can be cancelled. A dead holder's lock is free."""

    def __init__(self, home: Home, report: Report, cancel: CancelToken | None) -> None:
        from filelock import FileLock

        self._lock = FileLock(home.runtimes / ".install.lock")
        self._report, self._cancel = report, cancel

    def __enter__(self) -> None:
        from filelock import Timeout

        told = False
        while True:
            try:
                self._lock.acquire(timeout=0.2)
            except Timeout:
                if self._cancel is not None:
                    self._cancel.check("The installation")
                if not told:
                    self._report(Progress("Wait", "another process is installing llama.cpp"))
                    told = True
                continue
            return

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _install_embedded(home: Home, model: Path, report: Report, cancel: CancelToken | None) -> Runtime:
    """Go down the ladder of recipes until one works here."""
    _sweep(home)
    ladder = recipes()
    for step, recipe in enumerate(ladder):
        try:
            runtime = _install_recipe(home, recipe, PIN, model, report, cancel)
        except RuntimeRejected as error:
            if step + 1 == len(ladder):
                raise
            safer = ladder[step + 1]
            report(Progress(_TEST, f"{error.fields['reason']}. The safer build is next: {safer.says}."))
            continue
        _clean_up(home)
        return runtime
    raise SetupError(
        "There is no recipe for this machine.", fix="Tell us what machine it is.", arch=machine().architecture
    )


def _install_recipe(
    home: Home, recipe: Recipe, pin: Pin, model: Path, report: Report, cancel: CancelToken | None
) -> Runtime:
    name = build_id(pin, recipe)
    tools = find_toolchain()
    source = source_folder(pin, home, report=report, cancel=cancel)
    report(Progress("Build llama.cpp", f"{pin.tag}, {recipe.says}"))
    programs = build(source, home.downloads / f"build-{name}", recipe, pin, tools, home, report=report, cancel=cancel)
    staging = stage(programs, home, PROGRAMS)
    try:
        report(Progress(_TEST, "a server, a model, 8 tokens"))
        found = smoke_test(staging, model, cancel=cancel)
        if (found.build_number, found.commit) != (pin.build_number, pin.commit):
            reason = f"it calls itself build {found.build_number}, commit {found.commit}, and not {pin.build_number}, {pin.commit}"
            raise RuntimeRejected(
                f"The llama.cpp in {staging} is not what was built: {reason}.",
                fix="Remove the downloads folder of noa_lab's home and start again.",
                reason=reason,
                signal="",
                path=str(staging),
            )
        report(Progress(_TEST, "which thread count is fastest"))
        threads = fastest_threads(staging, model, machine().cores, cancel=cancel)
        runtime = Runtime(
            id=name,
            folder=staging,
            source="sdist",
            tag=pin.tag,
            build_number=found.build_number,
            commit=found.commit,
            backend=recipe.backend,
            flags=recipe.flags,
            compiler=found.compiler,
            threads=threads,
            tools=PROGRAMS,
            files=hash_files(staging),
            server_flags=found.server_flags,
        )
        placed = place(staging, runtime, home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    report(Progress(_TEST, f"it works; {threads} threads are fastest", finished=True))
    return placed


def _link(runtime: Runtime, model: Path, report: Report, cancel: CancelToken | None) -> None:
    step = "Link llama-cpp-python"
    if not link_bindings(runtime):
        return
    report(Progress(step, "import, model, one token"))
    try:
        try_bindings(Path(sys.executable), model, cancel=cancel)
    except BaseException:
        # Untried libraries would kill the next process that imports them.
        unlink_bindings()
        raise
    report(Progress(step, finished=True))


def _sweep(home: Home) -> None:
    """Remove what an interrupted installation left beside the runtimes; only called under the lock."""
    for pattern in (".staging-*", ".old-*"):
        for path in home.runtimes.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for pattern in (".unpack-*", ".pip-*"):
        for path in home.downloads.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _clean_up(home: Home) -> None:
    """Remove source and build trees: 300 MB that nothing needs any more."""
    for pattern in ("llama.cpp-*", "build-*"):
        for path in home.downloads.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
