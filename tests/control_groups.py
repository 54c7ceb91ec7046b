"""A real control group with little memory, for tests of what happens in a container; root only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

JOIN = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
"""
"""What a child does first to be in the group that is its first argument."""


@contextmanager
def control_group(name: str, memory_bytes: int) -> Iterator[Path]:
    """A group that holds a process and everything it starts to so much memory; the test is skipped where none can be made."""
    tries = (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    )
    for folder, limit in tries:
        group = folder / f"noa-lab-test-{name}-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(memory_bytes))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            yield group
        finally:
            _empty(group)
            group.rmdir()
        return
    pytest.skip("control groups cannot be made here")


def _empty(group: Path) -> None:
    """End what is left in the group, which the test has put there; a server takes a moment to end with its holder."""
    end = time.monotonic() + 20
    while (left := (group / "cgroup.procs").read_text().split()) and time.monotonic() < end:
        if time.monotonic() > end - 15:
            for pid in left:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.1)


def oom_kills(group: Path) -> int:
    """How many processes of the group were killed for lack of memory."""
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).exists():
            facts = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(facts.get("oom_kill", 0))
    return 0
