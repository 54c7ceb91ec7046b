"""Compiling llama.cpp: CMake, Ninja, live progress, and what matters of the output when it fails."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from noa_lab.download import check_disk
from noa_lab.errors import BuildFailed, DiskFull
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.paths import Home
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PROGRAMS, Pin, Recipe
from noa_lab.runtime._process import Finished, clean_environment, describe_exit, run
from noa_lab.runtime._toolchain import Toolchain
from noa_lab.runtime._vulkan import check_vulkan_headers

__all__ = ["CONFIGURED", "build", "jobs_for", "output_folder"]

CONFIGURED = "configured.txt"
"""Name of the file in a build folder that says how it was configured, once it is."""

_BYTES_PER_JOB = 1_200_000_000
"""Memory that one compiler process needs for llama.cpp's largest files, measured with GCC 12 at -O3, rounded up."""

_NINJA_STEP = re.compile(r"^\[(\d+)/(\d+)\] (.*)")
_EXCERPT_LINES = 40
_LACKING = {
    "CUDA::cublas": "The CUDA toolkit here has no cuBLAS: install it whole (on Debian and Ubuntu `libcublas-dev-<version>`).",
    "Could NOT find Vulkan": "Install Vulkan's headers and loader (on Debian and Ubuntu `libvulkan-dev`).",
    "SPIRV-Headers": "Install the SPIR-V headers (on Debian and Ubuntu `spirv-headers`).",
    "default HIP architecture": "No AMD GPU was seen to compile for: see what `rocminfo` lists, or set GPU_TARGETS (gfx1100, for example).",
    "hip-config.cmake": "Install ROCm's development files (on Debian and Ubuntu `rocm-hip-sdk`).",
    "hipblas": "Install ROCm's libraries with their development files (on Debian and Ubuntu `rocm-hip-sdk`).",
    "unsupported GNU version": "The CUDA compiler wants an older C++ compiler: set CUDAHOSTCXX to one, then start it again.",
}
"""What CMake or a compiler says when a part of a backend's toolkit is missing, and what to do then."""


def jobs_for(cores: int, memory_bytes: int) -> int:
    """How many compilers to run at once: one per core, fewer where memory is short.

    Args:
        cores: Cores that this process may use.
        memory_bytes: Memory that is free.
    """
    return max(1, min(cores, memory_bytes // _BYTES_PER_JOB))


def build(
    source: Path,
    folder: Path,
    recipe: Recipe,
    pin: Pin,
    tools: Toolchain,
    home: Home,
    *,
    programs: tuple[str, ...] = PROGRAMS,
    variables: Mapping[str, str] | None = None,
    report: Report,
    cancel: CancelToken | None,
) -> Path:
    """Compile.

    Args:
        source: llama.cpp's source.
        folder: Build folder of this recipe and no other: a CMake cache of other flags would decide. One that an interrupted build left
            is continued, if it was configured to its end, in the same way.
        recipe: How to compile.
        pin: What is compiled; the source has no git history to tell.
        tools: What compiles.
        home: Where the log goes.
        programs: CMake targets to build.
        variables: Environment variables that the backend's toolkit needs.
        report: Told about the progress.
        cancel: Ends the compiler and everything it started.

    Returns:
        The folder with the programs and libraries.

    Raises:
        BuildFailed: With the compiler's own words and the path of the whole log.
        ToolMissing: When the Vulkan headers are too old.
        DiskFull: When there is no space for the build.
        Cancelled: When `cancel` was.
    """
    check_disk(folder.parent, pin.build_bytes * recipe.bulk)
    log = home.logs / f"{folder.name}.log"
    log.unlink(missing_ok=True)
    environment = _configure(source, folder, recipe, pin, tools, dict(variables or {}), log, report, cancel)
    here = machine()
    jobs = jobs_for(here.cores, here.memory_available_bytes)
    compile_: list[str | Path] = [
        tools.cmake,
        "--build",
        folder,
        "--config",
        "Release",
        "-j",
        str(jobs),
        "--target",
        *programs,
    ]
    _step("Build llama.cpp", compile_, environment, log, report, cancel)
    return output_folder(folder)


def _configure(
    source: Path,
    folder: Path,
    recipe: Recipe,
    pin: Pin,
    tools: Toolchain,
    variables: dict[str, str],
    log: Path,
    report: Report,
    cancel: CancelToken | None,
) -> dict[str, str]:
    """Let CMake look at the machine; returns the environment to compile in."""
    command: list[str | Path] = [
        tools.cmake,
        *("-S", str(source), "-B", str(folder)),
        *recipe.flags,
        # Source of before 2025 leaves libraries where they were compiled, in a dozen folders.
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={folder / 'bin'}",
        f"-DLLAMA_BUILD_NUMBER={pin.build_number}",
        f"-DLLAMA_BUILD_COMMIT={pin.commit}",
    ]
    if tools.ninja is not None:
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}"]
    compilers = {name: os.environ.get(name, "") for name in ("CC", "CXX")}
    how = "\n".join(map(str, (*command, sorted((compilers | variables).items()))))
    mark = folder / CONFIGURED
    if not mark.is_file() or mark.read_text(encoding="utf-8") != how:
        # CMake remembers what it has found: a compiler that did not work, or was another one, would stay.
        shutil.rmtree(folder, ignore_errors=True)
    private = folder / "private"
    private.mkdir(parents=True, exist_ok=True)
    environment = clean_environment(private, GIT_CEILING_DIRECTORIES=str(source.parent), NINJA_STATUS="[%f/%t] ")
    environment |= variables
    _step("Configure llama.cpp", command, environment, log, report, cancel)
    if recipe.backend == "vulkan":
        check_vulkan_headers(source, folder)  # before the mark: with other headers CMake has to look again
    mark.write_text(how, encoding="utf-8")
    return environment


def output_folder(folder: Path) -> Path:
    """Where a build folder has its programs: Visual Studio adds a folder for the configuration."""
    release = folder / "bin" / "Release"
    return release if release.is_dir() else folder / "bin"


def _step(
    step: str,
    command: list[str | Path],
    environment: dict[str, str],
    log: Path,
    report: Report,
    cancel: CancelToken | None,
) -> None:
    report(Progress(step))

    def watch(line: str) -> None:
        match = _NINJA_STEP.match(line)
        if match:
            what = match[3].rsplit("/", 1)[-1].removesuffix(".o")
            report(Progress(step, what, done=int(match[1]), total=int(match[2]), unit="files"))

    done = run([str(part) for part in command], env=environment, log=log, on_line=watch, cancel=cancel)
    if done.returncode != 0:
        raise _failure(step, done, log)
    report(Progress(step, finished=True))


def _failure(step: str, done: Finished, log: Path) -> Exception:
    excerpt = compiler_excerpt(done.tail)
    if "No space left on device" in excerpt:
        free = shutil.disk_usage(log.parent).free
        return DiskFull(
            f"{step}: the disk became full.",
            fix="Free some space, then start it again: the build continues where it stopped.",
            path=str(log.parent),
            needed_bytes=None,
            free_bytes=free,
        )
    starved = any(
        word in excerpt for word in ("Killed signal terminated program", "out of memory", "virtual memory exhausted")
    )
    lacking = next((fix for sign, fix in _LACKING.items() if sign in excerpt), None)
    fix = (
        "The compiler ran out of memory: close other programs, then start it again."
        if starved
        else lacking or f"Read the compiler's words above; the whole log is {log}."
    )
    return BuildFailed(
        f"{step} failed ({describe_exit(done.returncode)}):\n{excerpt}",
        fix=fix,
        step=step,
        log=str(log),
        excerpt=excerpt,
    )


def compiler_excerpt(lines: tuple[str, ...]) -> str:
    """The lines of a failed build that say why: from the first error on, without Ninja's command lines and CMake's status.

    Args:
        lines: The end of the output.

    Returns:
        At most 40 lines of at most 300 characters.
    """
    wrong = re.compile(r"\berror\b|^FAILED:|CMake Error|Killed|No space left|undefined reference", re.IGNORECASE)
    useful = [line for line in lines if line.strip() and not _is_command(line) and not line.startswith("-- ")]
    first = next(
        (index for index, line in enumerate(useful) if wrong.search(line)), max(0, len(useful) - _EXCERPT_LINES)
    )
    kept = [line if len(line) <= 300 else f"{line[:297]}..." for line in useful[first : first + _EXCERPT_LINES]]
    return os.linesep.join(kept).replace("\r\n", "\n")


def _is_command(line: str) -> bool:
    return _NINJA_STEP.match(line) is not None or (len(line) > 200 and " -o " in line) or line.startswith(": &&")
