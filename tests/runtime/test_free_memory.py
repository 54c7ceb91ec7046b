"""Free memory: the narrowest of the machine and of every control group that a process is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from control_groups import JOIN, control_group

from noa_lab.runtime import FreeMemory, free_memory

MB = 10**6
V1 = "36 31 0:33 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "29 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def machine_of_16_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=10_000 * MB, total=16_000 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def tree(root: Path, mounts: str, groups: str, files: dict[str, object]) -> Path:
    facts = {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}
    for name, content in facts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if not str(content).endswith("\n") else str(content))
    return root


def v2(folder: str, limit: object, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"anon {used - cache}\nfile {cache}\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}\n"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}


def v1(folder: str, limit: int, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"cache {cache}\ntotal_inactive_file {cache}\ntotal_active_file 0\n"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return {f"{folder}/{name}": value for name, value in zip(names, (limit, used, stat), strict=True)}


def test_this_machine() -> None:
    found = free_memory()
    assert 0 < found.free_bytes <= found.total_bytes


@pytest.mark.usefixtures("machine_of_16_gb")
def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == FreeMemory(10_000 * MB, 16_000 * MB, "machine")


@pytest.mark.usefixtures("machine_of_16_gb")
def test_a_group_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, V2.format(mounted="/"), "0::/\n", v2("sys/fs/cgroup", "max", 1000 * MB))
    assert free_memory(root).limited_by == "machine"
    root = tree(
        tmp_path / "1", V1.format(mounted="/"), "4:memory:/\n", v1("sys/fs/cgroup/memory", 2**63 - 4096, 5 * MB)
    )
    assert free_memory(root).limited_by == "machine"


@pytest.mark.usefixtures("machine_of_16_gb")
def test_a_container_with_a_view_of_its_own(tmp_path: Path) -> None:
    root = tree(tmp_path, V2.format(mounted="/"), "0::/\n", v2("sys/fs/cgroup", 4000 * MB, 1000 * MB))
    assert free_memory(root) == FreeMemory(3000 * MB, 4000 * MB, "control group")


@pytest.mark.usefixtures("machine_of_16_gb")
def test_files_in_the_cache_count_as_free(tmp_path: Path) -> None:
    """A container that has just fetched a model is full of it, and can still run it."""
    root = tree(tmp_path, V2.format(mounted="/"), "0::/\n", v2("sys/fs/cgroup", 4000 * MB, 3990 * MB, cache=3500 * MB))
    assert free_memory(root).free_bytes == 3510 * MB


@pytest.mark.usefixtures("machine_of_16_gb")
def test_a_service_deep_in_the_tree_is_held_by_any_group_above(tmp_path: Path) -> None:
    files = {
        **v2("sys/fs/cgroup/user.slice", 3000 * MB, 1000 * MB),
        **v2("sys/fs/cgroup/user.slice/lab.service", "max", 500 * MB),
    }
    root = tree(tmp_path, V2.format(mounted="/"), "0::/user.slice/lab.service\n", files)
    assert free_memory(root) == FreeMemory(2000 * MB, 3000 * MB, "control group")


@pytest.mark.usefixtures("machine_of_16_gb")
@pytest.mark.parametrize("mounted", ["/docker/abc", "/"])
def test_version_1_in_a_container(tmp_path: Path, mounted: str) -> None:
    folder = "sys/fs/cgroup/memory" + ("" if mounted != "/" else "/docker/abc")
    root = tree(
        tmp_path,
        V1.format(mounted=mounted),
        "5:cpu:/docker/abc\n4:memory:/docker/abc\n",
        v1(folder, 2000 * MB, 1500 * MB, cache=400 * MB),
    )
    assert free_memory(root) == FreeMemory(900 * MB, 2000 * MB, "control group")


@pytest.mark.usefixtures("machine_of_16_gb")
def test_a_limit_wider_than_the_machine_is_none(tmp_path: Path) -> None:
    root = tree(tmp_path, V2.format(mounted="/"), "0::/\n", v2("sys/fs/cgroup", 64_000 * MB, 1000 * MB))
    assert free_memory(root) == FreeMemory(10_000 * MB, 16_000 * MB, "machine")


INSIDE = f"""{JOIN}
import json
from noa_lab.runtime import free_memory
first = free_memory()
held = b"x" * 100_000_000
second = free_memory()
with open(sys.argv[2], "rb") as file:
    while file.read(2**20): pass
third = free_memory()
print(json.dumps([first.free_bytes, second.free_bytes, third.free_bytes, first.total_bytes, first.limited_by]))
"""


def test_a_real_control_group(tmp_path: Path) -> None:
    file = tmp_path / "read"
    file.write_bytes(os.urandom(150_000_000))
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with control_group("free", 400 * MB) as group:
        command = [sys.executable, "-c", INSIDE, str(group), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, third, total, by = json.loads(done.stdout)
    assert by == "control group"
    assert total == pytest.approx(400 * MB, rel=0.01)
    assert 300 * MB < first <= 400 * MB
    assert first - second == pytest.approx(100 * MB, abs=10 * MB)
    assert second - third < 20 * MB, "what was only read can be given up"
