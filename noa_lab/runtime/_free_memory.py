"""How much memory a new process could use, with the limits of the control groups (containers, services) that this one is in.

Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. A group's use counts the files that were read in it; those are
given up when memory is wanted, so they count as free, as the machine's own page cache does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["FreeMemory", "free_memory"]

_NO_LIMIT = 2**60
"""Version 1 writes "no limit" as a number near 2**63."""


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """What a new process could use.

    Attributes:
        free_bytes: Free now, caches that would be given up included.
        total_bytes: What there would be if nothing else ran.
        limited_by: "machine", or "control group" where a container's or service's limit is the narrower one.
    """

    free_bytes: int
    total_bytes: int
    limited_by: str = "machine"


def free_memory(root: Path = Path("/")) -> FreeMemory:
    """Look at the machine and at this process's control groups; takes about a millisecond.

    Args:
        root: Where `proc` and `sys` are; for tests.
    """
    import psutil

    memory = psutil.virtual_memory()
    narrowest = FreeMemory(memory.available, memory.total)
    for limit, used, cache in _groups(root):
        group = FreeMemory(max(0, min(limit, limit - used + cache)), min(limit, memory.total), "control group")
        if group.free_bytes < narrowest.free_bytes:
            narrowest = group
    return narrowest


def _groups(root: Path) -> Iterator[tuple[int, int, int]]:
    """Limit, use, and files of it that can be given up, of every group that this process is in and that has a limit."""
    for version, folder, top in _places(root):
        here = folder
        while True:
            found = _of_group(here, version)
            if found is not None:
                yield found
            if here == top or top not in here.parents:
                break
            here = here.parent


def _places(root: Path) -> Iterator[tuple[int, Path, Path]]:
    """Version, this process's folder, and the top folder of each hierarchy that counts memory."""
    own = dict(_own_paths(_read(root / "proc/self/cgroup")))
    for line in _read(root / "proc/self/mountinfo").splitlines():
        # 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3 or not after[0].startswith("cgroup"):
            continue
        version = 2 if after[0] == "cgroup2" else 1
        if version == 1 and "memory" not in after[2].split(","):
            continue
        top = root / before[4].lstrip("/")
        path = own.get(version)
        if path is not None:
            yield version, top / _below(path, before[3]), top


def _own_paths(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "memory" in controllers.split(","):
            yield 1, path


def _below(path: str, mounted: str) -> PurePosixPath:
    """A group's path seen from the mount: a container may see only the tree below its own group."""
    try:
        return PurePosixPath(path).relative_to(mounted)
    except ValueError:
        return PurePosixPath()


def _of_group(folder: Path, version: int) -> tuple[int, int, int] | None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_read(folder / name).strip() for name in names)
    if not (limit.isdigit() and used.isdigit()) or int(limit) >= _NO_LIMIT:
        return None
    prefix = "" if version == 2 else "total_"
    facts = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    cache = sum(int(facts.get(f"{prefix}{name}", "0")) for name in ("inactive_file", "active_file"))
    return int(limit), int(used), cache


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
