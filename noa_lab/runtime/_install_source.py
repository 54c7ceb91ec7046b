"""Compiling llama.cpp and putting it in place: from the pinned source, or from source that the user has."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from noa_lab.errors import RuntimeRejected, ToolMissing
from noa_lab.runtime._backends import Choice, choose_backend
from noa_lab.runtime._build import build
from noa_lab.runtime._job import Job
from noa_lab.runtime._local_source import LocalSource, open_source
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PIN, PROGRAMS, Recipe, build_id, recipe_for, recipes
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._source import source_folder
from noa_lab.runtime._store import complete, hash_files, load, stage
from noa_lab.runtime._toolchain import find_toolchain, find_toolkit
from noa_lab.runtime._trial import put_in_place, try_out
from noa_lab.runtime._wish import Wish

__all__ = ["asked_recipe", "build_down", "compilable", "install_source", "possible_recipes", "safe_recipes"]

_STEP = "Build llama.cpp"
_TARGETS = {"cuda": "CUDAARCHS", "rocm": "GPU_TARGETS"}
"""Where the GPUs to compile for are named on a machine that has none: CMake's own variable, and llama.cpp's name for its option."""


def install_source(job: Job, wish: Wish) -> Runtime:
    """Compile what was asked for; when it does not work here, the portable build, and at last the one without AVX.

    Raises:
        ToolMissing: When the compiler of the backend is missing.
        RuntimeRejected: When none of them works.
        BuildFailed, DownloadFailed, DiskFull, BadInput, Cancelled: As they say.
    """
    backend = wish.backend or _compilable(job)
    asked = asked_recipe(wish, backend)
    find_toolkit(backend)
    source = open_source(wish.path, job.work, report=job.report, cancel=job.cancel) if wish.path is not None else None
    safer = tuple(recipe for recipe in safe_recipes(job) if recipe.flags != asked.flags)
    return build_down(job, (asked, *safer), source, origin=str(wish.path or ""))


def asked_recipe(wish: Wish, backend: str) -> Recipe:
    """How to compile for a backend: for the GPUs that are here, else for those that an environment variable names."""
    targets = next((gpu.targets for gpu in choose_backend().gpus if gpu.backend == backend), ())
    named = os.environ.get(_TARGETS.get(backend, ""), "")
    targets = targets or tuple(each for each in re.split(r"[;,\s]+", named) if each)
    return recipe_for(backend, native=wish.native, gpu_targets=targets)


def compilable() -> tuple[str, Choice, ToolMissing | None]:
    """The backend to compile for, what was seen of this machine, and what is missing where that is not the backend of this machine."""
    choice = choose_backend()
    try:
        find_toolkit(choice.backend)
    except ToolMissing as error:
        return "cpu", choice, error
    return choice.backend, choice, None


def _compilable(job: Job) -> str:
    backend, choice, missing = compilable()
    if missing is not None:
        job.give_up(choice.why, missing, "a build for the CPU")
    else:
        job.tell(_STEP, choice.why)
    return backend


def possible_recipes() -> tuple[Recipe, ...]:
    """The recipes for this machine, without those whose instructions its CPU does not even claim to have."""
    features = machine().features
    return tuple(recipe for recipe in recipes() if not features or set(recipe.needs) <= set(features))


def safe_recipes(job: Job) -> tuple[Recipe, ...]:
    """The `possible_recipes`, with a word about the others."""
    possible = possible_recipes()
    for recipe in recipes():
        if recipe not in possible:
            missing = ", ".join(sorted(set(recipe.needs) - set(machine().features)))
            job.tell(_STEP, f"this CPU has no {missing}: not the build for {recipe.says}")
    return possible


def build_down(job: Job, ladder: tuple[Recipe, ...], source: LocalSource | None = None, *, origin: str = "") -> Runtime:
    """Go down a ladder of recipes until one works here.

    Args:
        job: The installation.
        ladder: The recipes, each safer than the one before it.
        source: The user's source; None for the pinned one.
        origin: Where the user's source came from.

    Raises:
        RuntimeRejected: When none of them works.
    """
    for recipe, safer in zip(ladder, (*ladder[1:], None), strict=True):
        try:
            return _build_one(job, recipe, source, origin)
        except RuntimeRejected as error:
            if error.fields.get("kind") == "model":
                raise
            if safer is None:
                job.tidy()
                raise
            job.give_up(f"The build for {recipe.says}", error, f"the safer build, {safer.says}")
    raise AssertionError("every machine has a recipe")


def _build_one(job: Job, recipe: Recipe, source: LocalSource | None, origin: str) -> Runtime:
    pin = source.pin if source else PIN
    if source is not None:
        recipe = replace(recipe, flags=(*recipe.flags, *source.flags))
    pinned = source is None or pin == PIN
    name = build_id(pin, recipe) if source is None else f"{build_id(pin, recipe)}-{source.digest[:8]}"
    there = load(job.home.runtimes / name)
    if there is not None and complete(there) and hash_files(there.folder, there.files) == there.files:
        job.tell(_STEP, f"{name} is here already", finished=True)
        return there
    if name in job.rejected:
        raise job.rejected[name]
    wanted = source.programs if source else PROGRAMS
    staging = stage(_compile(job, recipe, source, name), job.home, wanted)
    try:
        draft = Runtime(
            id=name,
            folder=staging,
            source="sdist" if pinned else "source",
            tag=pin.tag if pin.build_number else "",
            build_number=pin.build_number,
            commit=pin.commit,
            backend=recipe.backend,
            flags=recipe.flags,
            tools=wanted,
            url=origin,
        )
        # Source of another age takes its number from elsewhere.
        expected = (pin.build_number, pin.commit) if pinned else None
        return put_in_place(job, try_out(job, draft, expected=expected))
    except RuntimeRejected as error:
        job.rejected[name] = error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _compile(job: Job, recipe: Recipe, source: LocalSource | None, name: str) -> Path:
    """Compile under a name; returns the folder with the programs."""
    tools, variables = find_toolchain(), find_toolkit(recipe.backend)
    pin = source.pin if source else PIN
    folder = source.folder if source else source_folder(pin, job.work, report=job.report, cancel=job.cancel)
    job.tell(_STEP, f"{pin.tag if pin.build_number else 'source'}, {recipe.says}")
    return build(
        folder,
        job.work / f"build-{name}",
        recipe,
        pin,
        tools,
        job.home,
        programs=source.programs if source else PROGRAMS,
        variables=variables,
        report=job.report,
        cancel=job.cancel,
    )
