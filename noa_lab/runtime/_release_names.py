"""What the names of a llama.cpp release's files say: for which system, processor and backend each was built.

Upstream has renamed its files many times; nothing here knows a whole name. A name is
`llama-<tag>-bin-<system>[-<variant>]-<architecture>[-<target>].<zip|tar.gz>`, in every era; only the variants differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Asset", "Companion", "Program", "parse_companion", "parse_program", "version_of"]

_PROGRAM = re.compile(
    r"llama-(?P<tag>b\d+)-bin-(?P<system>ubuntu|macos|win)(?:-(?P<variant>[a-z][a-z0-9.-]*?))??"
    r"-(?P<architecture>x64|arm64|s390x|x86)(?:-(?P<target>gfx[0-9a-f]+))?\.(?P<kind>tar\.gz|zip)"
)
_COMPANION = re.compile(
    r"cudart-llama(?:-(?P<tag>b\d+))?-bin-(?P<system>ubuntu|win)-(?:cuda-)?(?:cu)?(?P<version>\d[\d.]*\d)"
    r"-(?P<architecture>x64|arm64)\.(?P<kind>tar\.gz|zip)"
)
_SYSTEMS = {"ubuntu": "Linux", "macos": "Darwin", "win": "Windows"}
_ARCHITECTURES = {"x64": "x86_64", "arm64": "arm64", "s390x": "s390x", "x86": "x86"}
_CPU = frozenset({"cpu", "noavx", "avx", "avx2", "avx512", "llvm", "msvc"})
"""Variants that use no graphics processor; the first era had one for each instruction set, or compiler."""
_FAMILIES = {"hip": "rocm", "openblas": "blas"}
_KNOWN = frozenset({"cuda", "vulkan", "rocm", "sycl", "openvino", "opencl", "kompute", "blas", "rpc"})


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a release, as the release lists it.

    Attributes:
        name: Its name.
        url: Where it is.
        size_bytes: Its size; None where the listing does not say.
        sha256: The hash that it must have, from noa_lab's own table or from GitHub; None where neither has one.
        claimed_sha256: What a mirror says the hash is. It shows whether the bytes arrived whole, not whether they are the right ones.
    """

    name: str
    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    claimed_sha256: str | None = None


@dataclass(frozen=True)
class Program:
    """What the name of an archive of programs says.

    Attributes:
        tag: Release tag, "b11312".
        system: "Linux", "Darwin" or "Windows".
        architecture: "x86_64", "arm64", "s390x".
        variant: The backend as the name spells it: "", "cuda-cu12.2.0", "avx2", "sycl-fp16", ...
        target: Graphics processor that it was built for ("gfx1030"), in the one era that had an archive for each.
        kind: "zip" or "tar.gz".
    """

    tag: str
    system: str
    architecture: str
    variant: str
    target: str
    kind: str

    @cached_property
    def backend(self) -> str:
        """The backend's family: "cpu", "cuda", "vulkan", "metal", "rocm", ...; the variant itself for one never seen before."""
        if not self.variant:
            # Without a backend in the name it is the system's plain build: with Metal where every machine has it.
            return "metal" if (self.system, self.architecture) == ("Darwin", "arm64") else "cpu"
        if self.variant in _CPU:
            return "cpu"
        first = self.variant.split("-", 1)[0]
        family = _FAMILIES.get(first, first)
        return family if family in _KNOWN else self.variant

    @cached_property
    def version(self) -> tuple[int, ...]:
        """Version of the toolkit in the name, (12, 2, 0) for "cuda-cu12.2.0"; empty where there is none."""
        found = re.search(r"(?:^|-)(?:cu)?(\d+(?:\.\d+)+)$", self.variant)
        return version_of(found[1]) if found else ()

    @cached_property
    def label(self) -> str:
        """What to ask for to get exactly this one: "cuda-12.2.0", "avx2", "rocm-gfx1030", "cpu"."""
        if self.target:
            return f"{self.backend}-{self.target}"
        if self.version and self.backend in _KNOWN:
            return f"{self.backend}-{'.'.join(map(str, self.version))}"
        return self.variant or self.backend


@dataclass(frozen=True, slots=True)
class Companion:
    """What the name of an archive of CUDA libraries says.

    Attributes:
        tag: Release tag; empty where the name has none (Windows).
        system: "Linux" or "Windows".
        architecture: "x86_64" or "arm64".
        version: Version of CUDA.
    """

    tag: str
    system: str
    architecture: str
    version: tuple[int, ...]


def parse_program(name: str) -> Program | None:
    """What a name says; None for anything that is no archive of programs for one of the three systems."""
    found = _PROGRAM.fullmatch(name)
    if found is None:
        return None
    return Program(
        tag=found["tag"],
        system=_SYSTEMS[found["system"]],
        architecture=_ARCHITECTURES[found["architecture"]],
        variant=found["variant"] or "",
        target=found["target"] or "",
        kind=found["kind"],
    )


def parse_companion(name: str) -> Companion | None:
    """What a name says; None for anything that is no archive of CUDA libraries."""
    found = _COMPANION.fullmatch(name)
    if found is None:
        return None
    return Companion(
        tag=found["tag"] or "",
        system=_SYSTEMS[found["system"]],
        architecture=_ARCHITECTURES[found["architecture"]],
        version=version_of(found["version"]),
    )


def version_of(text: str) -> tuple[int, ...]:
    """A version's numbers: (12, 8) for "12.8"; empty for what is no version."""
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d+(\.\d+)*", text) else ()
