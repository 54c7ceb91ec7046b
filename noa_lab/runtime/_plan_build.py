"""The plan of a build from source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from noa_lab.download import check_disk
from noa_lab.errors import SetupError
from noa_lab.paths import Home
from noa_lab.runtime._build import CONFIGURED, jobs_for
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PIN, Recipe, build_id
from noa_lab.runtime._plan import TRY, InstallPlan, Obstacle
from noa_lab.runtime._store import complete, load
from noa_lab.runtime._toolchain import find_toolchain, find_toolkit
from noa_lab.runtime._wish import Wish

__all__ = ["build_plan", "lacking"]


def build_plan(home: Home, ladder: Sequence[Recipe], wish: Wish) -> tuple[InstallPlan, str]:
    """The steps up to the trial, what comes next when it does not work here, and the name that the build would have.

    Args:
        home: The home.
        ladder: The recipes, each safer than the one before it.
        wish: What was asked for; its path is the user's own source.
    """
    recipe, safer = ladder[0], tuple(f"a build for {each.says}" for each in ladder[1:])
    name = build_id(PIN, recipe) if wish.path is None else ""
    there = load(home.runtimes / name) if name else None
    if there is not None and complete(there):
        return InstallPlan("source", (f"Use {name}, which is here already",)), name
    problems = (
        lacking(find_toolchain),
        lacking(find_toolkit, recipe.backend),
        lacking(check_disk, home.root, PIN.source_bytes + PIN.build_bytes * recipe.bulk),
    )
    obstacles = tuple(Obstacle.of(problem) for problem in problems if problem is not None)
    return InstallPlan("source", (_source(home, wish), _compiling(home, recipe, name), TRY), safer, obstacles), name


def _source(home: Home, wish: Wish) -> str:
    if wish.path is not None:
        return f"Look at the source in {wish.path}"
    if (home.downloads / "runtime" / f"llama.cpp-{PIN.tag}-{PIN.commit}").is_dir():
        return f"Use the source of llama.cpp {PIN.tag} that is unpacked already"
    return (
        f"Download the source of llama.cpp {PIN.tag} from PyPI (inside {PIN.distribution} {PIN.version}, "
        f"{PIN.sdist_bytes / 1e6:.0f} MB) and check its sha256"
    )


def _compiling(home: Home, recipe: Recipe, name: str) -> str:
    here = machine()
    jobs = jobs_for(here.cores, here.memory_available_bytes)
    begun = name and (home.downloads / "runtime" / f"build-{name}" / CONFIGURED).is_file()
    minutes = max(1, round(recipe.core_minutes / jobs))
    return (
        f"{'Go on compiling' if begun else 'Compile'} for {recipe.says}: {jobs} compilers at a time, about {minutes} minutes on idle "
        f"cores, up to {PIN.build_bytes * recipe.bulk / 1e6:,.0f} MB of disk meanwhile"
    )


def lacking(look: Callable[..., object], *arguments: object) -> SetupError | None:
    """What the machine lacks, as the installation itself would find it out."""
    try:
        look(*arguments)
    except SetupError as error:
        return error
    return None
