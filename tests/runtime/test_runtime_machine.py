"""What is said about the machine."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from noa_lab.runtime import _machine, machine

INTEL = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2 avx512f amx_tile\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm sve\nCPU part\t: 0xd40\n\n"


def test_this_machine() -> None:
    here = machine()
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.physical_cores >= 1
    assert 0 < here.memory_available_bytes <= here.memory_bytes
    assert here.cpu
    assert here.architecture in {"x86_64", "arm64"}
    assert set(here.as_dict()) == {
        *("system", "architecture", "cpu", "cores", "physical_cores"),
        *("memory_bytes", "memory_available_bytes", "features", "gpus"),
    }


def test_cpu_features_by_their_common_names(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ("sse42", "avx", "avx2", "fma", "f16c", "bmi2", "avx512f")
    for allowed in (True, False):
        # The kernel of the machine that the test runs on has no say.
        monkeypatch.setattr(_machine, "_tiles_allowed", lambda allowed=allowed: allowed)
        assert _machine._linux_cpu(INTEL) == ("Some CPU @ 2GHz", (*usual, "amx_tile") if allowed else usual)
    assert _machine._linux_cpu(ARM) == ("0xd40", ("neon", "dotprod", "i8mm", "sve"))
    assert _machine._linux_cpu("")[1] == ()


def test_a_containers_share_of_cores_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "_read", lambda path: "100000 100000")
    assert _machine._usable_cores() == 1


def test_network_file_systems_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = [("/", "ext4"), (str(tmp_path.parent), "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "local"), "xfs")]
    partitions = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: partitions)  # noqa: A006
    here = machine()
    assert here.network_filesystem(tmp_path / "not" / "there" / "yet") == "nfs4"
    assert here.network_filesystem(tmp_path / "local") == "nfs4"
    (tmp_path / "local").mkdir()
    assert here.network_filesystem(tmp_path / "local" / "home") is None
    assert here.network_filesystem(tmp_path.parent) is None
