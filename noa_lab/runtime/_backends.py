"""What this machine could compute with, and what is chosen, in one line.

Only files are read and small programs asked (`nvidia-smi`, `rocminfo`, `vulkaninfo`), all through a `Probe`, so that any machine can be
imitated. What is found here is a hint: whether a build really works is for the smoke test to say.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from noa_lab.runtime._pins import architecture

__all__ = ["CUDA_FLOORS", "Choice", "Gpu", "Probe", "choose_backend", "find_gpus"]

CUDA_FLOORS = ((13, 580), (12, 525))
"""Major version of CUDA, and the oldest driver (major version) whose release builds of it run; NVIDIA's minor-version compatibility."""

_ASK_SECONDS = 10.0
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|swiftshader|software", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor, or another device to compute with, as far as it can be seen without using it.

    Attributes:
        backend: llama.cpp's backend for it: "cuda", "rocm", "metal", "vulkan".
        name: Its name; several are joined by ", ".
        driver: Version of its driver; "" where it is not known.
        targets: What a compiler calls it: "gfx1100" (AMD), "89" (NVIDIA: compute capability 8.9).
        usable: Whether a release build can be expected to run on it.
        why: In words, what decides that; a part of a sentence.
        compute_capability: NVIDIA's number for what the GPU can do, the lowest of several; None where it is not known.
    """

    backend: str
    name: str
    driver: str = ""
    targets: tuple[str, ...] = ()
    usable: bool = True
    why: str = ""
    compute_capability: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend for this machine.

    Attributes:
        backend: "cuda", "rocm", "metal", "vulkan" or "cpu".
        why: One line that explains it.
        gpus: What was found.
    """

    backend: str
    why: str
    gpus: tuple[Gpu, ...] = ()

    @property
    def gpu(self) -> Gpu | None:
        """The device that decided; None for the CPU."""
        return next((gpu for gpu in self.gpus if gpu.backend == self.backend and gpu.usable), None)


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            [*command], capture_output=True, stdin=subprocess.DEVNULL, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _glob(pattern: str) -> list[str]:
    found = Path(pattern)
    return sorted(str(path) for path in Path(found.anchor).glob(str(found.relative_to(found.anchor))))


def which(name: str, folders: Iterable[str] | None = None) -> str | None:
    """A program on PATH, or in other folders; never one of the current folder, which on Windows `shutil.which` would take first."""
    for folder in os.environ.get("PATH", "").split(os.pathsep) if folders is None else folders:
        # With a folder in the name it looks there and nowhere else.
        found = shutil.which(str(Path(folder) / name)) if Path(folder).is_absolute() else None
        if found:
            return found
    return None


@dataclass(frozen=True, slots=True)
class Probe:
    """The way to look at a machine; another one imitates it.

    Attributes:
        system: `platform.system()`.
        architecture: "x86_64", "arm64", ...
        which: Path of a program, or None.
        run: Standard output of a command; "" when it fails.
        read: Text of a file; "" when it cannot be read.
        glob: Files by an absolute pattern.
    """

    system: str = platform.system()
    architecture: str = architecture()
    which: Callable[[str], str | None] = which
    run: Callable[[Sequence[str]], str] = _run
    read: Callable[[str], str] = _read
    glob: Callable[[str], list[str]] = _glob


def find_gpus(probe: Probe | None = None) -> tuple[Gpu, ...]:
    """What can be seen to compute with beside the CPU; the first usable one is the best."""
    probe = probe or Probe()
    found = (_apple(probe), _nvidia(probe), _amd(probe), _vulkan(probe))
    return tuple(gpu for gpu in found if gpu is not None)


def choose_backend(probe: Probe | None = None) -> Choice:
    """The backend for this machine, and why, in one line."""
    gpus = find_gpus(probe)
    for gpu in gpus:
        if gpu.usable:
            return Choice(gpu.backend, f"{gpu.backend}: {gpu.name}{f' ({gpu.why})' if gpu.why else ''}", gpus)
    reasons = "; ".join(f"{gpu.name}: {gpu.why}" for gpu in gpus)
    return Choice("cpu", f"cpu: {reasons or 'no GPU that llama.cpp can use was seen'}", gpus)


def _apple(probe: Probe) -> Gpu | None:
    if probe.system != "Darwin" or probe.architecture != "arm64":
        return None
    name = probe.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple silicon"
    return Gpu("metal", name, why="Apple silicon shares its memory with the GPU")


def _nvidia(probe: Probe) -> Gpu | None:
    names, driver, capabilities = _nvidia_smi(probe)
    if not driver:
        found = re.search(
            r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", probe.read("/proc/driver/nvidia/version")
        )
        driver = found[1] if found else ""
    if not driver:
        return None
    name = names or "NVIDIA GPU"
    major = int(driver.partition(".")[0])
    fitting = next((cuda for cuda, floor in CUDA_FLOORS if major >= floor), None)
    if fitting is None:
        cuda, floor = CUDA_FLOORS[-1]
        return Gpu(
            "cuda", name, driver, usable=False, why=f"driver {driver} is too old for CUDA {cuda}, which needs {floor}"
        )
    return Gpu(
        "cuda",
        name,
        driver,
        targets=tuple(f"{capability:.1f}".replace(".", "") for capability in capabilities),
        why=f"driver {driver} runs CUDA {fitting}",
        compute_capability=min(capabilities, default=None),
    )


def _nvidia_smi(probe: Probe) -> tuple[str, str, list[float]]:
    program = probe.which("nvidia-smi")
    if program is None and probe.system == "Linux":
        program = next(iter(probe.glob("/usr/lib/wsl/lib/nvidia-smi")), None)
    if program is None:
        return "", "", []
    text = probe.run([program, "--query-gpu=name,driver_version", "--format=csv,noheader"])
    rows = [line.split(",") for line in text.splitlines() if re.search(r",\s*\d+\.\d+", line)]
    if not rows:
        return "", "", []
    # Older programs do not know this column, and then answer nothing at all: hence a question of its own.
    told = probe.run([program, "--query-gpu=compute_cap", "--format=csv,noheader"])
    capabilities = sorted({float(number) for number in re.findall(r"(?m)^\s*(\d+\.\d+)\s*$", told)})
    return ", ".join(dict.fromkeys(row[0].strip() for row in rows)), rows[0][1].strip(), capabilities


def _amd(probe: Probe) -> Gpu | None:
    if probe.system == "Darwin":
        return None
    targets: list[str] = []
    names: list[str] = []
    program = probe.which("rocminfo")
    for agent in re.split(r"\n\*+\s*\n\s*Agent \d+", probe.run([program])) if program else ():
        target = re.search(r"^\s*Name:\s+(gfx\w+)", agent, re.MULTILINE)
        if target:
            targets.append(target[1])
            called = re.search(r"^\s*Marketing Name:\s+(\S.*?)\s*$", agent, re.MULTILINE)
            names.append(called[1] if called else target[1])
    for path in [] if targets else probe.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        version = re.search(r"^gfx_target_version (\d+)", probe.read(path), re.MULTILINE)
        if version and int(version[1]):
            # 90010 is gfx90a, 110003 is gfx1103: major, minor, stepping in two decimal digits each, the last two written in hexadecimal.
            major, minor, step = int(version[1]) // 10000, int(version[1]) // 100 % 100, int(version[1]) % 100
            targets.append(f"gfx{major}{minor:x}{step:x}")
            names.append("AMD GPU")
    if not targets:
        return None
    name = ", ".join(dict.fromkeys(names))
    unique = tuple(dict.fromkeys(targets))
    return Gpu("rocm", name, targets=unique, why=f"ROCm sees {', '.join(unique)}")


def _vulkan(probe: Probe) -> Gpu | None:
    if probe.system == "Darwin":
        return None
    program = probe.which("vulkaninfo")
    if program is not None:
        names = re.findall(r"^\s*deviceName\s*=\s*(\S.*?)\s*$", probe.run([program, "--summary"]), re.MULTILINE)
        real = [name for name in dict.fromkeys(names) if not _SOFTWARE.search(name)]
        if names:
            return Gpu("vulkan", ", ".join(real), why="vulkaninfo lists it") if real else None
    if probe.system != "Linux" or not probe.glob("/dev/dri/renderD*"):
        return None
    drivers = [
        Path(path).name.removesuffix(".json").split(".")[0]
        for folder in ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
        for path in probe.glob(f"{folder}/*.json")
    ]
    usable = [name for name in drivers if not name.startswith(("lvp", "swiftshader", "gfxstream", "virtio"))]
    if not usable:
        return None
    return Gpu("vulkan", "GPU", why=f"a Vulkan driver is installed: {', '.join(dict.fromkeys(usable))}")
