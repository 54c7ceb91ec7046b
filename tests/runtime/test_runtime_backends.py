"""Which backend is chosen on which machine: imitated machines, since this one has no GPU."""

from __future__ import annotations

import ctypes
import fnmatch
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from noa_lab.runtime import _machine, choose_backend
from noa_lab.runtime._backends import Probe, find_gpus, which

SMI = "--query-gpu=name,driver_version"
ROCMINFO = """
*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X
  Marketing Name:          AMD Ryzen 9 7950X
*******
Agent 2
*******
  Name:                    gfx1100
  Marketing Name:          Radeon RX 7900 XTX
"""


def machine_with(
    system: str = "Linux",
    architecture: str = "x86_64",
    programs: dict[str, str] | None = None,
    files: dict[str, str] | None = None,
) -> Probe:
    """A machine of these programs (with what they print, by a word of their command line) and files."""
    programs, files = programs or {}, files or {}

    def run(command: list[str]) -> str:
        for key, text in programs.items():
            name, _, word = key.partition(" ")
            if command[0].rsplit("/", 1)[-1] == name and (not word or word in command):
                return text
        return ""

    present = {key.split(" ")[0] for key in programs}
    return Probe(
        system=system,
        architecture=architecture,
        which=lambda name: f"/usr/bin/{name}" if name in present else None,
        run=run,
        read=lambda path: files.get(path, ""),
        glob=lambda pattern: sorted(name for name in files if fnmatch.fnmatch(name, pattern)),
    )


def nvidia(driver: str, name: str = "NVIDIA GeForce RTX 4090", capability: str = "8.9", **more: str) -> dict[str, str]:
    return {f"nvidia-smi {SMI}": f"{name}, {driver}\n", "nvidia-smi --query-gpu=compute_cap": f"{capability}\n", **more}


MACHINES = {
    "nothing": (machine_with(), "cpu", "no GPU that llama.cpp can use was seen"),
    "new NVIDIA driver": (
        machine_with(programs=nvidia("580.65.06")),
        "cuda",
        "RTX 4090 (driver 580.65.06 runs CUDA 13)",
    ),
    "NVIDIA driver of 2023": (machine_with(programs=nvidia("535.183.01")), "cuda", "driver 535.183.01 runs CUDA 12"),
    "the very floor": (machine_with(programs=nvidia("525.60")), "cuda", "runs CUDA 12"),
    "NVIDIA driver too old": (
        machine_with(programs=nvidia("470.256.02")),
        "cpu",
        "driver 470.256.02 is too old for CUDA 12",
    ),
    "too old, but Vulkan works": (
        machine_with(programs=nvidia("470.256.02", vulkaninfo="deviceName = NVIDIA GeForce GTX 1080\n")),
        "vulkan",
        "GTX 1080",
    ),
    "NVIDIA on Windows": (machine_with("Windows", programs=nvidia("566.36")), "cuda", "runs CUDA 12"),
    "NVIDIA without its program": (
        machine_with(
            files={"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu"}
        ),
        "cuda",
        "driver 550.54.14",
    ),
    "open NVIDIA module": (
        machine_with(
            files={
                "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  R"
            }
        ),
        "cuda",
        "CUDA 13",
    ),
    "WSL": (
        replace(
            machine_with(files={"/usr/lib/wsl/lib/nvidia-smi": ""}), run=machine_with(programs=nvidia("581.1")).run
        ),
        "cuda",
        "driver 581.1",
    ),
    "nvidia-smi without a driver": (machine_with(programs={"nvidia-smi": ""}), "cpu", "no GPU"),
    "nvidia-smi prints an error": (machine_with(programs={"nvidia-smi": "No devices were found\n"}), "cpu", "no GPU"),
    "AMD with ROCm": (machine_with(programs={"rocminfo": ROCMINFO}), "rocm", "Radeon RX 7900 XTX (ROCm sees gfx1100)"),
    "AMD by the kernel": (
        machine_with(
            files={
                "/sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 16\ngfx_target_version 0\n",
                "/sys/class/kfd/kfd/topology/nodes/1/properties": "simd_count 4\ngfx_target_version 90010\n",
            }
        ),
        "rocm",
        "gfx90a",
    ),
    "AMD kernel driver, CPU node alone": (
        machine_with(files={"/sys/class/kfd/kfd/topology/nodes/0/properties": "gfx_target_version 0\n"}),
        "cpu",
        "no GPU",
    ),
    "Apple silicon": (machine_with("Darwin", "arm64", {"sysctl": "Apple M4 Pro\n"}), "metal", "Apple M4 Pro"),
    "Apple with an Intel CPU": (
        machine_with("Darwin", "x86_64", {"vulkaninfo": "deviceName = AMD\n"}),
        "cpu",
        "no GPU",
    ),
    "Intel GPU by vulkaninfo": (
        machine_with(programs={"vulkaninfo --summary": "GPU0:\n  deviceName         = Intel(R) Arc(tm) A770\n"}),
        "vulkan",
        "Intel(R) Arc(tm) A770",
    ),
    "Vulkan in software alone": (
        machine_with(
            programs={"vulkaninfo --summary": "\tdeviceName = llvmpipe (LLVM 15.0.6, 256 bits)\n"},
            files={"/dev/dri/renderD128": "", "/usr/share/vulkan/icd.d/intel_icd.x86_64.json": "{}"},
        ),
        "cpu",
        "no GPU",
    ),
    "Vulkan driver files": (
        machine_with(files={"/dev/dri/renderD128": "", "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json": "{}"}),
        "vulkan",
        "a Vulkan driver is installed: radeon_icd",
    ),
    "Vulkan driver files without a device": (
        machine_with(files={"/etc/vulkan/icd.d/radeon_icd.json": "{}"}),
        "cpu",
        "no GPU",
    ),
    "software driver files": (
        machine_with(files={"/dev/dri/renderD128": "", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json": "{}"}),
        "cpu",
        "no GPU",
    ),
    "Vulkan on Windows": (
        machine_with("Windows", programs={"vulkaninfo": "deviceName = AMD Radeon 780M\n"}),
        "vulkan",
        "780M",
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_choice_is_explained_in_one_line(name: str) -> None:
    probe, backend, words = MACHINES[name]
    choice = choose_backend(probe)
    assert choice.backend == backend
    assert words in choice.why
    assert "\n" not in choice.why
    assert choice.why.startswith(f"{backend}: ")
    assert (choice.gpu is None) == (backend == "cpu")


def test_what_the_resolver_wants_to_know_is_found() -> None:
    two = nvidia("580.65", capability="8.9\n6.1")
    (gpu,) = find_gpus(machine_with(programs=two))
    assert (gpu.driver, gpu.compute_capability) == ("580.65", 6.1)
    (gpu,) = find_gpus(machine_with(programs={f"nvidia-smi {SMI}": "Tesla K80, 470.1\n"}))
    assert gpu.compute_capability is None
    (gpu,) = find_gpus(machine_with(programs={"rocminfo": ROCMINFO}))
    assert gpu.targets == ("gfx1100",)


def test_several_kinds_are_all_listed_the_best_first() -> None:
    probe = machine_with(programs=nvidia("580.65", vulkaninfo="deviceName = NVIDIA GeForce RTX 4090\n"))
    assert [gpu.backend for gpu in choose_backend(probe).gpus] == ["cuda", "vulkan"]


def test_this_machine_can_be_looked_at() -> None:
    assert choose_backend().backend in {"cpu", "cuda", "rocm", "metal", "vulkan"}


def test_a_program_of_the_current_folder_is_never_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in ("", ".", f"{os.pathsep}", f".{os.pathsep}relative"):
        monkeypatch.setenv("PATH", path)
        assert which("nvidia-smi") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert which("nvidia-smi") == str(program)


# ---- what of the CPU the operating system allows


def test_tile_registers_that_the_kernel_does_not_save_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = "model name : X\nflags : avx2 amx_tile amx_int8\n\n"
    monkeypatch.setattr(_machine, "_tiles_allowed", lambda: True)
    assert _machine._linux_cpu(cpuinfo)[1] == ("avx2", "amx_tile", "amx_int8")
    monkeypatch.setattr(_machine, "_tiles_allowed", lambda: False)
    assert _machine._linux_cpu(cpuinfo)[1] == ("avx2",)


def test_windows_says_what_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(*allowed: int) -> SimpleNamespace:
        return SimpleNamespace(kernel32=SimpleNamespace(IsProcessorFeaturePresent=lambda number: number in allowed))

    monkeypatch.setattr(ctypes, "windll", windows(38, 39, 40), raising=False)
    assert _machine._windows_features() == ("sse42", "avx", "avx2", "fma", "f16c", "bmi2")
    monkeypatch.setattr(ctypes, "windll", windows(38, 39), raising=False)
    assert _machine._windows_features() == ("sse42", "avx")
    monkeypatch.setattr(ctypes, "windll", windows(19, 43), raising=False)
    assert _machine._windows_features() == ("neon", "dotprod")


@pytest.mark.parametrize(
    ("architecture", "told", "expected"),
    [
        ("arm64", {"hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "0"}, ("neon", "dotprod")),
        (
            "x86_64",
            {"hw.optional.avx1_0": "1", "hw.optional.avx2_0": "1", "hw.optional.fma": "1"},
            ("avx", "avx2", "fma"),
        ),
        ("x86_64", {}, ()),
    ],
)
def test_macos_says_what_it_allows(
    architecture: str, told: dict[str, str], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    told = told | {"machdep.cpu.brand_string": "A CPU"}
    monkeypatch.setattr(_machine, "architecture", lambda: architecture)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: SimpleNamespace(stdout=told.get(command[-1], "") + "\n")
    )
    assert _machine._mac_cpu() == ("A CPU", expected)
