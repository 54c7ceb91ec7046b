"""The plan of each way, made with the very functions that decide in the installation itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from noa_lab.errors import RuntimeMissing
from noa_lab.paths import Home
from noa_lab.runtime._backends import choose_backend
from noa_lab.runtime._bindings import bindings_ready, is_pinned, own_libraries
from noa_lab.runtime._install import ready
from noa_lab.runtime._install_release import installed_release
from noa_lab.runtime._install_source import asked_recipe, compilable, possible_recipes
from noa_lab.runtime._install_ways import installed_backend
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import BACKENDS, PIN, architecture
from noa_lab.runtime._plan import TRY, InstallPlan, Obstacle
from noa_lab.runtime._plan_build import build_plan, lacking
from noa_lab.runtime._release import GITHUB_API
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import current, embedded
from noa_lab.runtime._system import find_conda, find_system
from noa_lab.runtime._toolchain import find_toolchain, find_toolkit
from noa_lab.runtime._wish import Wish

__all__ = ["plan"]

_LINK = "Link its libraries into llama-cpp-python, and try those too"


def plan(home: Home, wish: Wish) -> InstallPlan:
    """The plan for a wish.

    Raises:
        BadInput: When there is no recipe for what was asked for.
    """
    there = ready(home) if wish.plain else None
    if there is not None:
        return InstallPlan(wish.way, (f"Nothing: {there.id} is here, was tried, and is in use",), ready=True)
    if wish.plain:
        return _auto(home)
    found = (_backend if wish.way == "auto" else _WAYS[wish.way])(home, wish)
    if TRY not in found.steps:
        return found
    here = _pointed(current, home)
    last = f"the one in use stays, {here.id}" if here else "the build from the bindings' own source"
    return replace(found, steps=(*found.steps, *_bindings(home)), otherwise=(*found.otherwise, last))


def _pointed(pointer: Callable[[Home], Runtime], home: Home) -> Runtime | None:
    try:
        return pointer(home)
    except RuntimeMissing:
        return None


def _switch(home: Home, name: str = "") -> str:
    here = _pointed(current, home)
    if here is None:
        return "Make it the llama.cpp that servers use"
    if here.id == name:
        return "Servers go on using it"
    return f"Switch servers to it; a rollback leads back to {here.id}"


def _bindings(home: Home) -> tuple[str, ...]:
    """What is left to do for the bindings after an installation that was asked for."""
    if bindings_ready(home):
        return ()
    if _pointed(embedded, home) is not None:
        return ("Link the libraries of the embedded build into llama-cpp-python",)
    return (
        "Give llama-cpp-python libraries of its own commit: compiled from its source, unless a release has brought them",
    )


def _auto(home: Home) -> InstallPlan:
    here, conda, pinned = _pointed(current, home), find_conda(), _pointed(embedded, home)
    first: tuple[str, ...] = ()
    if here is not None:
        first = (f"Keep {here.id}, which servers use",)
    elif conda is not None:
        first = (f"Use the llama.cpp of the conda environment where it is: {conda.folder}", TRY, _switch(home))
    if first and own_libraries():
        return InstallPlan("auto", first, ("a build from source",) if here is None else ())
    if pinned is not None and is_pinned(pinned):
        return InstallPlan("auto", (*first, f"Use {pinned.id}, which is here already", _LINK))
    if not first and (missing := lacking(find_toolchain)):
        release = _release(home, Wish("release"))
        return replace(release, way="auto", obstacles=(Obstacle.of(missing),))
    built, _ = build_plan(home, possible_recipes(), Wish("source"))
    last = () if first else (_gpu_release() or _switch(home),)
    return replace(built, way="auto", steps=(*first, *built.steps, _LINK, *last))


def _gpu_release() -> str:
    """The step that looks for a release for this machine's GPU; "" without one."""
    choice = choose_backend()
    if choice.backend in {"cpu", "metal"}:
        return ""
    return (
        f"Ask {_host(GITHUB_API)} for release {PIN.tag} for {choice.why}: if it passes the same trial, servers use it"
    )


def _backend(home: Home, wish: Wish) -> InstallPlan:
    """A backend by name, whichever way."""
    there = installed_backend(home, wish)
    if there is not None:
        return InstallPlan("auto", (f"Use {there.id}, which is here already", _switch(home, there.id)))
    if wish.backend == "cpu":
        found, name = build_plan(home, possible_recipes(), Wish("source"))
        return replace(found, way="auto", steps=(*found.steps, _switch(home, name)))
    found = _release(home, replace(wish, way="release"))
    if wish.backend in BACKENDS and lacking(find_toolkit, wish.backend) is None:
        built = f"where the release cannot be had, a build from source for {wish.backend}"
        return replace(found, way="auto", otherwise=(*found.otherwise, built))
    return replace(found, way="auto")


def _source(home: Home, wish: Wish) -> InstallPlan:
    backend, choice, missing = (wish.backend, None, None) if wish.backend else compilable()
    asked = asked_recipe(wish, str(backend))
    ladder = (asked, *(recipe for recipe in possible_recipes() if recipe.flags != asked.flags))
    found, name = build_plan(home, ladder, wish)
    first = (f"Compile for the CPU alone, although this machine has more ({choice.why})",) if choice and missing else ()
    obstacles = (Obstacle.of(missing),) if missing else ()
    steps = (*first, *found.steps, _switch(home, name))
    return replace(found, steps=steps, obstacles=(*obstacles, *found.obstacles))


def _release(home: Home, wish: Wish) -> InstallPlan:
    there = installed_release(home, wish)
    if there is not None:
        return InstallPlan("release", (f"Use {there.id}, which is here already", _switch(home, there.id)))
    choice = choose_backend()
    backend = wish.backend or choice.backend
    why = "" if wish.backend else f" ({choice.why})"
    asking = f"Ask {_host(wish.mirror or GITHUB_API)} which files release {wish.tag or PIN.tag} has"
    belief = (
        "noa_lab's own table, where it lists the file (what a mirror says about its files proves nothing)"
        if wish.mirror
        else "GitHub's, where it has one (since June 2025)"
    )
    steps = (
        f"{asking}, and choose {backend} for {machine().system} on {architecture()}{why}",
        f"Download that file, continuing where an earlier try stopped, and hold its sha256 against {belief}",
        "Unpack it, refusing what would be written elsewhere or fill the disk",
        TRY,
        _switch(home),
    )
    return InstallPlan("release", steps, () if backend == "cpu" else ("the release's build for the CPU",))


def _system(home: Home, wish: Wish) -> InstallPlan:
    del wish
    try:
        found = find_system(home)
    except RuntimeMissing as error:
        return InstallPlan("system", (), obstacles=(Obstacle.of(error),))
    taking = f"Take the llama-server of {found.manager} in {found.folder}, where it is; nothing of it is changed"
    return InstallPlan("system", (taking, TRY, _switch(home)))


def _path(home: Home, wish: Wish) -> InstallPlan:
    assert wish.path is not None, "this way has a path"
    taking = (
        f"Copy the programs in {wish.path} and the libraries that belong to them"
        if wish.path.is_dir()
        else f"Unpack {wish.path}, refusing what would be written elsewhere or fill the disk"
    )
    return InstallPlan("path", (taking, TRY, _switch(home)))


_WAYS = {"release": _release, "source": _source, "system": _system, "path": _path}


def _host(url: str) -> str:
    return url.removeprefix("https://").removeprefix("http://").split("/")[0]
