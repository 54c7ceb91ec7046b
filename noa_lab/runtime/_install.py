"""Getting llama.cpp onto this machine: fetch, compile, try, and only then put in place."""

from __future__ import annotations

import shutil
from pathlib import Path

from noa_lab.errors import RuntimeMissing, RuntimeRejected
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.paths import Home
from noa_lab.runtime._bindings import bindings_linked, link_bindings
from noa_lab.runtime._build import build
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PIN, PROGRAMS, Pin, Recipe, build_id, recipes
from noa_lab.runtime._rejection import rejected
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._smoke import smoke_test
from noa_lab.runtime._source import source_folder
from noa_lab.runtime._store import current, embedded, hash_files, place, point, stage
from noa_lab.runtime._threads import fastest_threads
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
    with exclusive(home.runtimes / ".install.lock", "Install llama.cpp", report=report, cancel=cancel):
        runtime = _embedded_or_none(home) or _install_embedded(home, model, report, cancel)
        point(home, "embedded", runtime)
        report(Progress("Link llama-cpp-python", "import, model, one token"))
        link_bindings(runtime, model, cancel=cancel)
        report(Progress("Link llama-cpp-python", finished=True))
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


def _install_embedded(home: Home, model: Path, report: Report, cancel: CancelToken | None) -> Runtime:
    """Go down the ladder of recipes until one works here."""
    work = home.downloads / "runtime"
    _sweep(home, work)
    ladder = _ladder(report)
    for step, recipe in enumerate(ladder):
        try:
            runtime = _install_recipe(home, work, recipe, PIN, model, report, cancel)
        except RuntimeRejected as error:
            if step + 1 == len(ladder) or error.fields.get("kind") == "model":
                raise
            safer = ladder[step + 1]
            report(Progress(_TEST, f"{error.fields['reason']}. The safer build is next: {safer.says}."))
            continue
        # Source and build trees: 300 MB that nothing needs any more.
        shutil.rmtree(work, ignore_errors=True)
        return runtime
    raise AssertionError("every machine has a recipe")


def _ladder(report: Report) -> tuple[Recipe, ...]:
    """The recipes for this machine, without those whose instructions its CPU does not even claim to have."""
    features = machine().features
    possible = tuple(recipe for recipe in recipes() if not features or set(recipe.needs) <= set(features))
    for recipe in recipes():
        if recipe not in possible:
            missing = ", ".join(sorted(set(recipe.needs) - set(features)))
            report(Progress("Build llama.cpp", f"this CPU has no {missing}: not the build for {recipe.says}"))
    return possible


def _install_recipe(
    home: Home, work: Path, recipe: Recipe, pin: Pin, model: Path, report: Report, cancel: CancelToken | None
) -> Runtime:
    name = build_id(pin, recipe)
    tools = find_toolchain()
    source = source_folder(pin, work, report=report, cancel=cancel)
    report(Progress("Build llama.cpp", f"{pin.tag}, {recipe.says}"))
    programs = build(source, work / f"build-{name}", recipe, pin, tools, home, report=report, cancel=cancel)
    staging = stage(programs, home, PROGRAMS)
    try:
        report(Progress(_TEST, "a server, a model, 8 tokens"))
        found = smoke_test(staging, model, cancel=cancel)
        if (found.build_number, found.commit) != (pin.build_number, pin.commit):
            claim = f"build {found.build_number}, commit {found.commit}"
            raise rejected(
                staging, f"it calls itself {claim}, and not {pin.build_number}, {pin.commit}", "foreign version"
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


def _sweep(home: Home, work: Path) -> None:
    """Remove what an interrupted installation left half-done; only called under the lock."""
    work.mkdir(exist_ok=True)
    leftovers = [
        *home.runtimes.glob(".staging-*"),
        *home.runtimes.glob(".old-*"),
        *work.glob(".unpack-*"),
        *work.glob(".pip-*"),
    ]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
