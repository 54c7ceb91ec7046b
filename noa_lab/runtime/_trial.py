"""From a folder of programs that nobody has tried to a runtime that may be used: the trial, and what is written down about it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from noa_lab.errors import RuntimeRejected
from noa_lab.runtime._advisories import advice_for
from noa_lab.runtime._job import TEST, Job
from noa_lab.runtime._libraries import is_library
from noa_lab.runtime._machine import machine
from noa_lab.runtime._rejection import rejected
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._smoke import SmokeResult, smoke_test
from noa_lab.runtime._store import hash_files, place, stamps
from noa_lab.runtime._threads import fastest_threads

__all__ = ["backend_of", "put_in_place", "tool_names", "try_out"]

_TOOL = re.compile(r"(?:llama(?:-[a-z0-9-]+)?|ggml-rpc-server|rpc-server|main|server|quantize|perplexity|imatrix)")
_BACKEND_OF_LIBRARY = {
    "cuda": "cuda",
    "hip": "rocm",
    "vulkan": "vulkan",
    "metal": "metal",
    "sycl": "sycl",
    "openvino": "openvino",
}
_BACKEND_OF_DEVICE = {
    "CUDA": "cuda",
    "ROCm": "rocm",
    "Vulkan": "vulkan",
    "Metal": "metal",
    "MTL": "metal",
    "SYCL": "sycl",
}


def tool_names(folder: Path) -> tuple[str, ...]:
    """Names of llama.cpp's programs in a folder, without ".exe"."""
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".exe")
        runs = path.suffix == ".exe" if os.name == "nt" else os.access(path, os.X_OK)
        if _TOOL.fullmatch(name) and path.is_file() and runs and not is_library(path):
            found.append(name)
    return tuple(found)


def backend_of(folder: Path, devices: tuple[str, ...]) -> str:
    """The backend of programs that came without a word about it: by the devices they see, else by their libraries."""
    for device in devices:
        for start, backend in _BACKEND_OF_DEVICE.items():
            if device.startswith(start):
                return backend
    names = " ".join(path.name for path in folder.iterdir() if is_library(path))
    return next((backend for word, backend in _BACKEND_OF_LIBRARY.items() if f"ggml-{word}" in names), "cpu")


def try_out(job: Job, draft: Runtime, *, expected: tuple[int, str] | None = None) -> Runtime:
    """Try programs, and fill in what only they can tell.

    Args:
        job: The installation.
        draft: What is known beforehand; an empty backend or an empty list of programs is found out.
        expected: Build number and commit that it must report; "" for any commit.

    Raises:
        RuntimeRejected: When it does not work, is not what it should be, or was made for a GPU and sees none.
        Cancelled: When the job was.
    """
    job.tell(TEST, "a server, a model, 8 tokens")
    found = smoke_test(draft.folder, job.model, cancel=job.cancel)
    _check_identity(draft.folder, found, expected)
    backend = draft.backend or backend_of(draft.folder, found.devices)
    if backend not in {"cpu", "blas", "metal"} and "--list-devices" in found.server_flags and not found.devices:
        raise rejected(draft.folder, f"it is built for {backend} and sees no such device here", "no device")
    tools = draft.tools or tool_names(draft.folder)
    # 0 and 1 are what a build without a history says of itself; its source may have known more.
    number = found.build_number if found.build_number > 1 else draft.build_number or found.build_number
    runtime = replace(
        draft,
        build_number=number,
        commit=draft.commit if draft.commit and found.commit == "unknown" else found.commit,
        tag=draft.tag or (f"b{number}" if number > 1 else ""),
        backend=backend,
        compiler=found.compiler,
        threads=_threads(job, draft.folder, tools),
        tools=tools,
        server_flags=found.server_flags,
        server_switches=found.server_switches,
        devices=found.devices,
    )
    for advice in advice_for(runtime.build_number):
        job.tell(TEST, str(advice))
        if advice.action == "refuse":
            raise rejected(draft.folder, f"{advice.id}: {advice.text} {advice.because}", "advisory")
    return runtime


def _check_identity(folder: Path, found: SmokeResult, expected: tuple[int, str] | None) -> None:
    if expected is None:
        return
    number, commit = expected
    if found.build_number == number and commit in {"", found.commit}:
        return
    claim = f"build {found.build_number}, commit {found.commit}"
    wanted = f"{number}, {commit}" if commit else f"{number}"
    raise rejected(folder, f"it calls itself {claim}, and not {wanted}", "foreign version")


def _threads(job: Job, folder: Path, tools: tuple[str, ...]) -> int:
    if "llama-bench" in tools:
        job.tell(TEST, "which thread count is fastest")
        try:
            return fastest_threads(folder, job.model, machine().cores, cancel=job.cancel)
        except RuntimeRejected as error:
            job.tell(TEST, f"llama-bench could not tell: {error.fields['reason']}")
    here = machine()
    return max(1, min(here.cores, here.physical_cores))


def put_in_place(job: Job, tried: Runtime) -> Runtime:
    """Hash its files and give the staged folder its name.

    Args:
        job: The installation.
        tried: What `try_out` returned; its folder is a staging folder, which is gone afterwards.
    """
    try:
        placed = place(tried.folder, replace(tried, files=hash_files(tried.folder)), job.home)
    finally:
        shutil.rmtree(tried.folder, ignore_errors=True)
    job.tell(TEST, f"it works; {placed.threads} threads are used", finished=True)
    return placed


def note_in_place(job: Job, tried: Runtime, staging: Path) -> Runtime:
    """The same for programs that stay where they are: only the manifest is kept in the home."""
    beside = tried.folder.parent / "lib"
    libraries = (
        [path for path in beside.iterdir() if "llama" in path.name or "ggml" in path.name] if beside.is_dir() else []
    )
    extension = ".exe" if os.name == "nt" else ""
    names = [f"{tool}{extension}" for tool in tried.tools]
    names += [f"../lib/{path.name}" for path in libraries if path.is_file()]
    files = hash_files(tried.folder, names)
    placed = place(staging, replace(tried, files=files, stamps=stamps(tried.folder, files)), job.home)
    job.tell(TEST, f"it works; {placed.threads} threads are used", finished=True)
    return placed
