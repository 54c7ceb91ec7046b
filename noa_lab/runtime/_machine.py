"""What this machine is, as far as running models goes. Reads files and asks psutil; starts nothing heavy."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noa_lab.runtime._free_memory import free_memory
from noa_lab.runtime._pins import architecture

__all__ = ["Machine", "machine"]

_NETWORK_TYPES = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "afpfs", "9p", "webdav", "ceph", "glusterfs"),
        *("lustre", "gpfs", "beegfs", "pvfs2", "orangefs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"),
    }
)
_FEATURES = {
    "sse4_2": "sse42",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi2": "bmi2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine.

    Attributes:
        system: "Linux", "Darwin" or "Windows".
        architecture: "x86_64", "arm64", ...
        cpu: The processor's own name.
        cores: Logical cores that this process may use.
        physical_cores: Physical cores of the machine.
        memory_bytes: Memory of the machine, or of the container that this process is in.
        memory_available_bytes: What of it a new process could use.
        features: Instruction sets that decide how fast models run, as far as the operating system lets programs use them. A virtual
            machine may still advertise some (AMX) that die when used, which is why every build is tried in a child process.
        gpus: Graphics processors that programs could use, by what was seen of them; empty when none was.
    """

    system: str
    architecture: str
    cpu: str
    cores: int
    physical_cores: int
    memory_bytes: int
    memory_available_bytes: int
    features: tuple[str, ...]
    gpus: tuple[str, ...]

    def network_filesystem(self, path: Path) -> str | None:
        """Type of the network file system that `path` is on, where SQLite's write-ahead log is not safe; None on a local disk."""
        return _network_type(path)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def machine() -> Machine:
    """Look at this machine; takes a few milliseconds."""
    import psutil

    memory = free_memory()
    name, flags = _cpu()
    return Machine(
        system=platform.system(),
        architecture=architecture(),
        cpu=name,
        cores=_usable_cores(),
        physical_cores=psutil.cpu_count(logical=False) or _usable_cores(),
        memory_bytes=memory.total_bytes,
        memory_available_bytes=memory.free_bytes,
        features=flags,
        gpus=_gpus(),
    )


def _usable_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return max(1, cores)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@functools.cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    if platform.system() == "Linux":
        return _linux_cpu(_read(Path("/proc/cpuinfo")))
    if platform.system() == "Darwin":
        return _mac_cpu()
    return platform.processor() or platform.machine(), _windows_features()


def _linux_cpu(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    facts: dict[str, str] = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip().lower()] = value.strip()
    name = facts.get("model name") or facts.get("cpu part") or platform.machine()
    present = set((facts.get("flags") or facts.get("features") or "").split())
    if not _tiles_allowed():
        present = {flag for flag in present if not flag.startswith("amx")}
    return name, tuple(ours for theirs, ours in _FEATURES.items() if theirs in present)


def _tiles_allowed() -> bool:
    """Whether Linux lets a program have AMX's tile registers; it lists the CPU's flags even where its own build cannot save them.

    arch_prctl(ARCH_GET_XCOMP_SUPP) tells what the kernel supports and changes nothing (Linux, Documentation/arch/x86/xstate.rst).
    """
    if sys.platform != "linux" or architecture() != "x86_64":
        return False
    import ctypes

    arch_prctl, get_supported, tile_data = 158, 0x1021, 1 << 18
    found = ctypes.c_ulong(0)
    try:
        answer = ctypes.CDLL(None).syscall(arch_prctl, get_supported, ctypes.byref(found))
    except (OSError, AttributeError):
        return False
    return answer == 0 and bool(found.value & tile_data)


_WINDOWS_FEATURES = {38: "sse42", 39: "avx", 40: "avx2", 41: "avx512f", 19: "neon", 43: "dotprod"}
"""Numbers of IsProcessorFeaturePresent (winnt.h), which says what Windows lets programs use."""


def _windows_features() -> tuple[str, ...]:
    import ctypes

    kernel = getattr(ctypes, "windll", None)
    if kernel is None:
        return ()
    present = [name for number, name in _WINDOWS_FEATURES.items() if kernel.kernel32.IsProcessorFeaturePresent(number)]
    # It has no numbers for these three; every CPU with AVX2 has them.
    return (*present, "fma", "f16c", "bmi2") if "avx2" in present else tuple(present)


def _mac_cpu() -> tuple[str, tuple[str, ...]]:
    import subprocess

    def sysctl(name: str) -> str:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    name = sysctl("machdep.cpu.brand_string")
    if architecture() == "arm64":
        optional = {"hw.optional.arm.FEAT_DotProd": "dotprod", "hw.optional.arm.FEAT_I8MM": "i8mm"}
        return name, ("neon", *(ours for theirs, ours in optional.items() if sysctl(theirs) == "1"))
    # Under hw.optional macOS lists what programs may use; AVX-512 for example not before they ask for it.
    optional = {
        "hw.optional.sse4_2": "sse42",
        "hw.optional.avx1_0": "avx",
        "hw.optional.avx2_0": "avx2",
        "hw.optional.fma": "fma",
        "hw.optional.f16c": "f16c",
        "hw.optional.bmi2": "bmi2",
        "hw.optional.avx512f": "avx512f",
    }
    return name, tuple(ours for theirs, ours in optional.items() if sysctl(theirs) == "1")


def _gpus() -> tuple[str, ...]:
    seen = []
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        seen.append("NVIDIA (driver found)")
    if Path("/dev/kfd").exists():
        seen.append("AMD (ROCm device found)")
    if sys.platform == "darwin" and architecture() == "arm64":
        seen.append("Apple (Metal)")
    return tuple(seen)


def _network_type(path: Path) -> str | None:
    if sys.platform == "win32":
        return "network share" if str(path.absolute()).startswith("\\\\") else None
    import psutil

    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    existing = existing.resolve()
    longest, kind = -1, ""
    for partition in psutil.disk_partitions(all=True):
        # Of several mounts on one place the last is the visible one.
        if existing.is_relative_to(partition.mountpoint) and len(partition.mountpoint) >= longest:
            longest, kind = len(partition.mountpoint), partition.fstype
    return kind if kind.lower() in _NETWORK_TYPES else None
