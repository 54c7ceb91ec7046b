"""The llama.cpp that noa_lab ships with: which one, and how it is compiled."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from dataclasses import dataclass

from noa_lab.errors import BadInput, UnknownName

__all__ = [
    "BACKENDS",
    "PIN",
    "PROGRAMS",
    "Pin",
    "Recipe",
    "architecture",
    "build_id",
    "known_backend",
    "recipe_for",
    "recipes",
]


@dataclass(frozen=True, slots=True)
class Pin:
    """One release of the bindings and the llama.cpp source inside its sdist.

    Attributes:
        distribution: Name on PyPI.
        version: Version of the bindings.
        sha256: Hash of the sdist.
        tag: llama.cpp's release tag at that commit.
        commit: llama.cpp's commit, short.
        sdist_bytes: Size of the sdist.
        source_bytes: Disk space that the sdist and the unpacked source take.
        build_bytes: Disk space that the build takes at its largest.
    """

    distribution: str
    version: str
    sha256: str
    tag: str
    commit: str
    sdist_bytes: int
    source_bytes: int
    build_bytes: int

    @property
    def build_number(self) -> int:
        """The number in the tag."""
        return int(self.tag.removeprefix("b"))

    @property
    def requirement(self) -> str:
        """The line of a requirements file that names the sdist by hash."""
        return f"{self.distribution}=={self.version} --hash=sha256:{self.sha256}\n"


PIN = Pin(
    distribution="llama-cpp-python",
    version="0.3.36",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    tag="b11312",
    commit="0c1e57098",
    sdist_bytes=76_589_250,
    source_bytes=300_000_000,
    build_bytes=200_000_000,
)

PROGRAMS = ("llama-server", "llama-cli", "llama-completion", "llama-quantize", "llama-bench", "llama-fit-params")
"""CMake targets that are built, and the names of the programs they make."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to compile llama.cpp.

    Attributes:
        name: "portable", "baseline", "native".
        says: What it is, in words.
        backend: One of `BACKENDS`.
        flags: CMake options.
        needs: Instruction sets that it uses, as `Machine.features` names them.
        bulk: How many times the disk space of a CPU build it takes; estimated, on the large side.
        core_minutes: How long one idle core compiles; measured where noa_lab is tested, so a hint.
    """

    name: str
    says: str
    backend: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    bulk: int = 1
    core_minutes: int = 12


BACKENDS = ("cpu", "cuda", "vulkan", "rocm", "metal")
"""What noa_lab can compile llama.cpp for; "hip" is another name for "rocm". Releases have more."""

_GPU_BUILDS: dict[str, tuple[str, tuple[str, ...], int]] = {
    # NCCL is for several machines, and its absence would be a warning in every log.
    "cuda": ("NVIDIA GPUs (CUDA)", ("-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF"), 15),
    "vulkan": ("GPUs with a Vulkan driver", ("-DGGML_VULKAN=ON",), 4),
    "rocm": ("AMD GPUs (HIP)", ("-DGGML_HIP=ON",), 15),
    "metal": ("Apple silicon with Metal", ("-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"), 1),
}

_COMMON = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # Without these two the build would fetch a web page from a model hub.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # noa_lab fetches models itself; a server that cannot speak TLS cannot fetch anything.
    "-DLLAMA_OPENSSL=OFF",
)
_NO_AVX = ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")

_AVX2_NEEDS = ("avx2", "fma", "f16c", "bmi2")


def _rpath(system: str) -> tuple[str, ...]:
    origin = {"linux": "$ORIGIN", "darwin": "@loader_path"}.get(system)
    if origin is None:
        return ()
    return (f"-DCMAKE_INSTALL_RPATH={origin}", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON")


def recipes(system: str = sys.platform, arch: str | None = None) -> tuple[Recipe, ...]:
    """The recipes for a machine, each safer than the one before it.

    Args:
        system: `sys.platform` of the machine.
        arch: Its architecture; default: this machine's.
    """
    arch = arch or architecture()
    common = (*_COMMON, *_rpath(system))
    if system == "darwin" and arch == "arm64":
        metal = (*common, "-DGGML_NATIVE=OFF", "-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON")
        cpu = (*common, "-DGGML_NATIVE=OFF", "-DGGML_METAL=OFF")
        return (
            Recipe("portable", "Apple silicon with Metal", "metal", metal),
            Recipe("baseline", "Apple silicon without Metal", "cpu", cpu),
        )
    metal_off = ("-DGGML_METAL=OFF",) if system == "darwin" else ()
    portable = (*common, *metal_off, "-DGGML_NATIVE=OFF")
    if arch != "x86_64":
        return (Recipe("portable", f"any {arch} CPU", "cpu", portable),)
    baseline = (*portable, *(f"-DGGML_{feature}=OFF" for feature in _NO_AVX))
    return (
        Recipe("portable", "any x86-64 CPU with AVX2 (2013 and later)", "cpu", portable, needs=_AVX2_NEEDS),
        Recipe("baseline", "any x86-64 CPU, without AVX", "cpu", baseline),
    )


def known_backend(name: str) -> str:
    """A backend by noa_lab's name for it.

    Raises:
        UnknownName: When there is no such backend.
    """
    plain = {"hip": "rocm"}.get(name.lower(), name.lower())
    if plain not in BACKENDS:
        raise UnknownName.among("backend", name, BACKENDS, where="the recipes")
    return plain


def recipe_for(
    backend: str,
    *,
    native: bool = False,
    gpu_targets: tuple[str, ...] = (),
    system: str = sys.platform,
    arch: str | None = None,
) -> Recipe:
    """The recipe for a backend.

    Args:
        backend: One of `BACKENDS`.
        native: Compile for this very CPU (and GPU): faster, runs nowhere else, and dies on a CPU that advertises what it must not use.
        gpu_targets: The GPUs to compile for, as their compiler calls them: "gfx1100" (AMD), "89" (NVIDIA); none lets llama.cpp choose,
            which then compiles for every GPU that it knows and takes several times as long.
        system: `sys.platform` of the machine.
        arch: Its architecture; default: this machine's.

    Raises:
        BadInput: When noa_lab has no recipe for it, or none for it on this system.
    """
    portable = next(each for each in recipes(system, arch) if each.name == "portable")
    others = tuple(flag for flag in portable.flags if not flag.startswith(("-DGGML_NATIVE=", "-DGGML_METAL")))
    cpu = f"-DGGML_NATIVE={'ON' if native else 'OFF'}"
    metal_off = ("-DGGML_METAL=OFF",) if system == "darwin" and backend != "metal" else ()
    name = "native" if native else "portable"
    if backend == "cpu":
        if not native and portable.backend == "cpu":
            return portable
        says = "this very CPU (native)" if native else "the CPU alone"
        return Recipe(name, says, "cpu", (*others, *metal_off, cpu), needs=() if native else portable.needs)
    if backend not in _GPU_BUILDS or (backend == "metal") != (system == "darwin"):
        wanted = [each for each in ("cpu", *_GPU_BUILDS) if (each == "metal") == (system == "darwin") or each == "cpu"]
        raise BadInput(
            f"noa_lab cannot compile llama.cpp for {backend!r} on this system.",
            fix=f"Choose one of {', '.join(wanted)}, or get a prebuilt one: `noa-lab install --from release`.",
            field="backend",
            value=backend,
        )
    says, flags, bulk = _GPU_BUILDS[backend]
    if backend == "cuda" and (gpu_targets or native):
        flags = (*flags, f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(gpu_targets) or 'native'}")
    if backend == "rocm" and gpu_targets:
        flags = (*flags, f"-DGPU_TARGETS={';'.join(gpu_targets)}")
    needs = () if native else portable.needs
    whose = f": {', '.join(gpu_targets)}" if gpu_targets else ""
    return Recipe(
        name,
        f"{says}{whose}{', this very CPU' if native else ''}",
        backend,
        (*others, *metal_off, cpu, *flags),
        needs,
        bulk,
    )


def architecture() -> str:
    """This machine's CPU architecture: "x86_64", "arm64", ..."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}.get(machine, re.sub(r"[^a-z0-9]+", "_", machine))


def build_id(pin: Pin, recipe: Recipe, arch: str | None = None) -> str:
    """Name of the folder of a build: two builds share it only when tag, commit, backend, flags and architecture are the same."""
    digest = hashlib.sha256("\n".join(recipe.flags).encode()).hexdigest()[:8]
    return f"{pin.tag}-{pin.commit}-{recipe.backend}-{recipe.name}-{digest}-{arch or architecture()}"
