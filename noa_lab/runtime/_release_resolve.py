"""Which file of a release is for this machine: chosen among the files that the release lists, never from a made-up name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from noa_lab.errors import SetupError, UnknownName
from noa_lab.runtime._backends import CUDA_FLOORS
from noa_lab.runtime._release_names import Asset, Program, parse_companion, parse_program, version_of

__all__ = ["BACKENDS", "ReleaseBuild", "resolve"]

BACKENDS = ("cpu", "cuda", "vulkan", "metal", "rocm", "sycl", "openvino", "opencl", "blas", "kompute")
"""Families of backends that upstream has published programs for; "hip" means rocm, "openblas" means blas."""

_ALIASES = {"hip": "rocm", "openblas": "blas", "hip-radeon": "rocm", "": "cpu"}
_CPU_VARIANTS = ("noavx", "avx", "avx2", "avx512", "llvm", "msvc")
_SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "macos": "Darwin", "windows": "Windows", "win32": "Windows"}
_ARCHITECTURES = {"x64": "x86_64", "amd64": "x86_64", "aarch64": "arm64"}
_DRIVER_FLOORS = {**dict(CUDA_FLOORS), 11: 450}
"""Major version of CUDA: the NVIDIA driver that it needs at least; releases of before 2025 had builds for CUDA 11, too."""
_CUDA_13_OLDEST = 7.5
"""CUDA 13 has no code for older graphics processors (compute capability), whatever the driver."""


@dataclass(frozen=True, slots=True)
class ReleaseBuild:
    """What to fetch for one machine.

    Attributes:
        tag: Release tag, "b11312".
        backend: "cpu", "cuda", "metal", ...
        asset: The archive with the programs.
        companions: Further archives whose libraries belong beside them (CUDA's own).
        variant: The exact build where the release has several of the backend: "cuda-12.8", "avx2", ...
        says: Why this one, in one line.
    """

    tag: str
    backend: str
    asset: Asset
    companions: tuple[Asset, ...] = ()
    variant: str = ""
    says: str = ""


def resolve(
    assets: Sequence[Asset],
    *,
    tag: str,
    system: str,
    architecture: str,
    backend: str,
    driver: str | None = None,
    compute_capability: float | None = None,
    features: Sequence[str] = (),
) -> ReleaseBuild:
    """Choose among the listed files.

    Args:
        assets: What the release lists, in any order, with files of any kind.
        tag: The release's tag.
        system: "Linux", "Darwin" or "Windows", as `Machine.system` has it.
        architecture: "x86_64", "arm64", ..., as `Machine.architecture` has it.
        backend: A family ("cpu", "cuda", "vulkan", "metal", "rocm", ...), or one exact build of it as the error lists them:
            "cuda-12.2.0", "cuda-12" (any 12.x), "avx512", "sycl-fp16", "rocm-gfx1030".
        driver: Version of the NVIDIA driver ("580.65"); decides among toolkits. Without it the oldest toolkit is taken.
        compute_capability: Of the NVIDIA graphics processor, 8.6 for example; below 7.5 no CUDA 13 is taken.
        features: Instruction sets of the CPU, as `Machine.features` has them; empty when they are not known.

    Raises:
        UnknownName: For a backend that neither exists nor is listed.
        SetupError: When the release has nothing that fits; it lists what there is for this machine.
    """
    system, architecture = _SYSTEMS.get(system.lower(), system), _ARCHITECTURES.get(architecture.lower(), architecture)
    listed = [(asset, program) for asset in assets if (program := parse_program(asset.name)) and program.tag == tag]
    here = [(a, p) for a, p in listed if (p.system, p.architecture) == (system, architecture)]
    wanted = _ALIASES.get(backend.lower(), backend.lower())
    _check_backend(wanted, backend, listed)
    fitting = [(asset, program) for asset, program in here if _is(program, wanted)]
    if not fitting and wanted == "cpu":
        # One archive for both: with no layers on the graphics processor it is the CPU build.
        fitting = [(asset, program) for asset, program in here if program.backend == "metal"]
    if not fitting:
        raise _nothing(tag, system, architecture, backend, listed)
    (asset, program), why = _best(fitting, wanted, driver, compute_capability, features, tag)
    companions, note = _companions(assets, program)
    return ReleaseBuild(tag, program.backend, asset, companions, program.label, f"{asset.name}: {why}{note}")


def _check_backend(wanted: str, asked: str, listed: Sequence[tuple[Asset, Program]]) -> None:
    known = {*BACKENDS, *_CPU_VARIANTS, *(program.label for _, program in listed)}
    family = wanted.split("-", 1)[0]
    if wanted not in known and _ALIASES.get(family, family) not in known:
        raise UnknownName.among("backend", asked, known)


def _is(program: Program, wanted: str) -> bool:
    """Whether a listed build is what was asked for: its family, its exact label, its spelling in the name, or a version's beginning."""
    if wanted in (program.backend, program.label, program.variant):
        return True
    family, _, rest = wanted.partition("-")
    if _ALIASES.get(family, family) != program.backend:
        return False
    version = version_of(rest.removeprefix("cu"))
    return (bool(version) and program.version[: len(version)] == version) or (bool(rest) and rest == program.target)


def _best(
    fitting: Sequence[tuple[Asset, Program]],
    wanted: str,
    driver: str | None,
    compute_capability: float | None,
    features: Sequence[str],
    tag: str,
) -> tuple[tuple[Asset, Program], str]:
    """One of several that fit, and why."""
    # For a while upstream published both; only the tar archive keeps links between libraries.
    ordered = sorted(fitting, key=lambda each: (each[1].version, each[1].variant, each[1].kind != "tar.gz"))
    if ordered[0][1].backend == "cuda":
        return _best_cuda(ordered, driver, compute_capability, tag)
    programs = {program.variant: (asset, program) for asset, program in reversed(ordered)}
    if ordered[0][1].backend == "cpu" and len(programs) > 1:
        return _best_cpu(programs, features)
    targets = sorted({program.target for _, program in ordered if program.target})
    if len(targets) > 1:
        choices = ", ".join(f"{ordered[0][1].backend}-{target}" for target in targets)
        raise SetupError(
            f"Release {tag} has one {ordered[0][1].backend} build for each graphics processor, and which is here is not known.",
            fix=f"Ask for one of them: {choices}.",
            tag=tag,
            available=[program.label for _, program in ordered],
        )
    if len(programs) > 1 and "fp16" in "".join(programs) and "fp32" in "".join(programs):
        name = next(name for name in programs if "fp32" in name)
        return programs[name], f"of {_list(programs)} the more exact one; ask for {wanted}-fp16 to get the other"
    newest = max(program.version for _, program in ordered)
    found = next(each for each in ordered if each[1].version == newest)
    return found, _plain_reason(found[1], wanted)


def _plain_reason(program: Program, wanted: str) -> str:
    if program.backend == "metal" and wanted == "cpu":
        return (
            "the one build for this machine has Metal too; without layers on the graphics processor it runs on the CPU"
        )
    return f"the {program.backend} build for {program.system} on {program.architecture}"


def _best_cuda(
    ordered: Sequence[tuple[Asset, Program]], driver: str | None, compute_capability: float | None, tag: str
) -> tuple[tuple[Asset, Program], str]:
    usable = [
        each
        for each in ordered
        if compute_capability is None or compute_capability >= _CUDA_13_OLDEST or each[1].version[:1] < (13,)
    ]
    number = version_of(driver or "")
    if number:
        usable = [each for each in usable if _floor(each[1]) <= number[0]]
    if not usable:
        needs = min(_floor(program) for _, program in ordered)
        raise SetupError(
            f"No CUDA build of release {tag} runs here: this machine has driver {driver or 'of an unknown version'}"
            f"{f', compute capability {compute_capability}' if compute_capability else ''}, "
            f"and the release has {_list(program.label for _, program in ordered)}.",
            fix=f"Install an NVIDIA driver of version {needs} or newer, or ask for the vulkan or cpu backend.",
            tag=tag,
            driver=driver,
            available=[program.label for _, program in ordered],
        )
    if number:
        # The last of a version is the newest; the first of equals is the tar archive.
        found = next(each for each in usable if each[1].version == usable[-1][1].version)
        return found, f"CUDA {_dotted(found[1])} is the newest that driver {driver} runs"
    found = usable[0]
    why = "the only CUDA build" if len(usable) == 1 else "the oldest CUDA, because the driver's version is not known"
    return found, f"{why} ({_dotted(found[1])})"


def _floor(program: Program) -> int:
    major = program.version[0] if program.version else 0
    newest = max(_DRIVER_FLOORS)
    return _DRIVER_FLOORS.get(major, _DRIVER_FLOORS[newest] if major > newest else 0)


def _best_cpu(programs: dict[str, tuple[Asset, Program]], features: Sequence[str]) -> tuple[tuple[Asset, Program], str]:
    """Among a build for each instruction set, or each compiler."""
    if "" in programs or "cpu" in programs:
        return programs["cpu" if "cpu" in programs else ""], "it chooses the best kernels for the CPU by itself"
    if "llvm" in programs:
        return programs["llvm"], "of clang's and Microsoft's build the faster one"
    ladder = (("avx2", {"avx2", "fma", "f16c"}), ("avx", {"avx"}), ("noavx", set[str]()))
    for name, needs in ladder:
        if name in programs and (not features or needs <= set(features)):
            why = (
                "the usual choice since 2013" if not features else f"the most of {_list(programs)} that this CPU can do"
            )
            return programs[name], why
    name = min(programs)
    return programs[name], f"of {_list(programs)} the first"


def _companions(assets: Sequence[Asset], program: Program) -> tuple[tuple[Asset, ...], str]:
    if program.backend != "cuda":
        return (), ""
    found = [
        asset
        for asset in assets
        if (companion := parse_companion(asset.name))
        and companion.tag in ("", program.tag)
        and (companion.system, companion.architecture) == (program.system, program.architecture)
        and companion.version == program.version
    ]
    # With and without a tag in the name they are the same libraries.
    found.sort(key=lambda asset: ("-b" not in asset.name.removesuffix(".zip").split("-bin-")[0], asset.name))
    if not found:
        return (), f"; the release has no CUDA libraries for it, so CUDA {_dotted(program)} must be installed"
    return (found[0],), f", with CUDA's own libraries from {found[0].name}"


def _nothing(
    tag: str, system: str, architecture: str, backend: str, listed: Sequence[tuple[Asset, Program]]
) -> SetupError:
    here = sorted({p.label for _, p in listed if (p.system, p.architecture) == (system, architecture)})
    elsewhere = sorted(
        {f"{p.system} on {p.architecture}" for _, p in listed if p.label == backend or p.backend == backend}
    )
    machine = f"{system} on {architecture}"
    if here:
        there_is = f"For this machine it has: {', '.join(here)}."
        fix = f"Ask for one of them ({', '.join(here)}), or build from source."
    else:
        platforms = ", ".join(sorted({f"{p.system} on {p.architecture}" for _, p in listed})) or "none at all"
        there_is = f"It has programs for: {platforms}."
        fix = "Ask for another release, or build from source: `noa-lab install --from source`."
    return SetupError(
        f"Release {tag} has no {backend} build for {machine}. {there_is}",
        fix=fix,
        tag=tag,
        system=system,
        architecture=architecture,
        backend=backend,
        available=here,
        elsewhere=elsewhere,
    )


def _dotted(program: Program) -> str:
    return ".".join(map(str, program.version)) or "of an unknown version"


def _list(names: Iterable[str]) -> str:
    return ", ".join(name or "plain" for name in names)
