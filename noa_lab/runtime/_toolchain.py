"""What compiling needs: CMake and Ninja (from PyPI, beside this Python), and the machine's C++ compiler."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import ToolMissing
from noa_lab.runtime._backends import which
from noa_lab.runtime._vulkan import SDK_ADDRESS

__all__ = ["Toolchain", "find_toolchain", "find_toolkit"]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs that compile.

    Attributes:
        cmake: The CMake program.
        ninja: The Ninja program; None lets CMake use Visual Studio's own build.
        compiler: The C++ compiler; None when CMake finds it itself (Visual Studio).
    """

    cmake: Path
    ninja: Path | None
    compiler: Path | None


def find_toolchain() -> Toolchain:
    """Find the tools, those beside this Python first.

    Raises:
        ToolMissing: With the one command that installs what is missing.
    """
    cmake = _program("cmake")
    if cmake is None:
        raise ToolMissing("CMake is missing.", fix=f"Run `{sys.executable} -m pip install cmake ninja`.", tool="cmake")
    compiler = _compiler()
    if compiler is None:
        visual_studio = _visual_studio()
        if visual_studio:
            return Toolchain(cmake, None, None)
        raise ToolMissing("There is no C++ compiler on this machine.", fix=_compiler_fix(), tool="c++")
    ninja = _program("ninja")
    if ninja is None:
        raise ToolMissing("Ninja is missing.", fix=f"Run `{sys.executable} -m pip install ninja`.", tool="ninja")
    return Toolchain(cmake, ninja, compiler)


def find_toolkit(backend: str) -> dict[str, str]:
    """Make sure that what a backend is compiled with is here.

    Args:
        backend: "cpu", "cuda", "vulkan", "rocm" or "metal".

    Returns:
        Environment variables that the build needs to find it.

    Raises:
        ToolMissing: With the program that is missing, and where to get it.
    """
    if backend == "cuda":
        roots = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda", "/opt/cuda"]
        compiler = _toolkit_program("nvcc", roots, os.environ.get("CUDACXX"))
        if compiler is None:
            raise _no_toolkit(
                "nvcc", "NVIDIA's CUDA compiler", "CUDA toolkit", "https://developer.nvidia.com/cuda-downloads"
            )
        return {"CUDACXX": str(compiler)}
    if backend == "vulkan":
        compiler = _toolkit_program("glslc", [os.environ.get("VULKAN_SDK", "")], None)
        if compiler is None:
            packages = "libvulkan-dev glslc spirv-headers" if shutil.which("apt-get") else "the Vulkan SDK"
            raise _no_toolkit("glslc", "the Vulkan shader compiler", packages, SDK_ADDRESS)
        return {}
    if backend == "rocm":
        roots = [os.environ.get("ROCM_PATH", ""), os.environ.get("HIP_PATH", ""), "/opt/rocm"]
        compiler = _toolkit_program("hipcc", roots, None)
        if compiler is None:
            raise _no_toolkit("hipcc", "AMD's HIP compiler", "ROCm", "https://rocm.docs.amd.com")
        # Where CUDA is installed too, hipconfig would take its compiler.
        return {"HIP_PLATFORM": "amd", "HIP_PATH": str(compiler.resolve().parent.parent), **_hip_clang(compiler)}
    if backend == "metal" and sys.platform != "darwin":
        raise ToolMissing(
            "Metal exists only on macOS.", fix="Choose another backend: cpu, cuda, vulkan or rocm.", tool="metal"
        )
    return {}


def _hip_clang(compiler: Path) -> dict[str, str]:
    """The Clang that belongs to hipcc: ROCm's own, or the distribution's newest; {} where CMake has to find it."""
    root = compiler.resolve().parent.parent
    numbered = sorted(compiler.parent.glob("clang-[0-9][0-9]"))[-1:]
    places = (root / "llvm" / "bin" / "clang", root / "lib" / "llvm" / "bin" / "clang", *numbered)
    return next(({"HIPCXX": str(path)} for path in places if path.is_file()), {})


def _toolkit_program(name: str, roots: list[str], named: str | None) -> Path | None:
    places = [str(Path(root) / "bin") for root in roots if root]
    found = (shutil.which(named) if named else None) or which(name) or which(name, places)
    return Path(found).absolute() if found else None


def _no_toolkit(tool: str, what: str, package: str, address: str) -> ToolMissing:
    fix = f"Install {package} ({address}), or get a prebuilt llama.cpp: `noa-lab install --from release`."
    return ToolMissing(f"{tool}, {what}, is not on this machine.", fix=fix, tool=tool)


def _program(name: str) -> Path | None:
    found = which(name, [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]) or which(name)
    return Path(found).absolute() if found else None


def _compiler() -> Path | None:
    named = os.environ.get("CXX", "").split()
    candidates = named[:1] or (["cl", "clang++", "g++"] if os.name == "nt" else ["c++", "g++", "clang++"])
    for name in candidates:
        found = which(name) if Path(name).name == name else shutil.which(name)
        if found and (sys.platform != "darwin" or _xcode_ready()):
            return Path(found)
    return None


def _xcode_ready() -> bool:
    # macOS has /usr/bin/c++ without a compiler behind it; running that opens a dialog.
    import subprocess

    return subprocess.run(["xcode-select", "-p"], capture_output=True, check=False).returncode == 0


def _visual_studio() -> bool:
    if os.name != "nt":
        return False
    import subprocess

    programs = os.environ.get("ProgramFiles(x86)", r"C:\Program Files (x86)")  # noqa: SIM112 - its name has this case
    vswhere = Path(programs) / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
    if not vswhere.is_file():
        return False
    needs = "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"
    asked = [str(vswhere), "-latest", "-products", "*", "-requires", needs, "-property", "installationPath"]
    return bool(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip())


def _compiler_fix() -> str:
    if sys.platform == "darwin":
        return "Run `xcode-select --install`, then start it again."
    if os.name == "nt":
        tools = "Microsoft.VisualStudio.2022.BuildTools"
        workload = "--add Microsoft.VisualStudio.Workload.VCTools --includeRecommended --passive --wait"
        return f'Run `winget install {tools} --override "{workload}"`, then start it again.'
    root = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    commands = {
        "apt-get": "apt-get install -y g++",
        "dnf": "dnf install -y gcc-c++",
        "zypper": "zypper install -y gcc-c++",
        "pacman": "pacman -S --noconfirm gcc",
        "apk": "apk add g++ linux-headers",
    }
    for manager, command in commands.items():
        if shutil.which(manager):
            return f"Run `{root}{command}`, then start it again."
    return "Install g++ or clang++ with the system's package manager, then start it again."
