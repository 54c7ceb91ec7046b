"""Installations killed at random moments: what is in place works, or nothing is; the next one finishes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from noa_lab import runtime as room
from noa_lab.errors import RuntimeMissing
from noa_lab.paths import Home
from noa_lab.runtime import _store

CHILD = Path(__file__).with_name("install_child.py")


def start(home: Home, package: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHILD), str(home.root), str(package), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def processes_of(home: Home) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home.root) in line]


def check_kills(tmp_path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    home, package = Home(tmp_path / "home"), tmp_path / "llama_cpp" / "lib"
    home.root.mkdir()
    package.parent.mkdir()
    started = time.monotonic()
    with start(home, package) as whole:
        assert whole.wait() == 0
    usual = time.monotonic() - started
    for _ in range(count):
        if chance.random() < 0.5:
            # Damage makes the next one install again; without it there is nothing to kill.
            (home.runtimes / "embedded.json").unlink(missing_ok=True)
        else:
            for each in room.runtimes(home):
                (each.folder / "llama-server").unlink()
        with start(home, package) as child:
            time.sleep(chance.uniform(0.2, usual))
            child.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
        for pointed in (room.current, room.embedded):
            try:
                found = pointed(home)
            except RuntimeMissing:
                continue
            assert _store.hash_files(found.folder) == found.files
        until = time.monotonic() + 6
        while processes_of(home):
            assert time.monotonic() < until, processes_of(home)
            time.sleep(0.05)
    with start(home, package) as last:
        assert last.wait() == 0
    assert room.current(home) == room.embedded(home)
    assert [path.name for path in home.runtimes.iterdir() if path.is_dir()] == [room.current(home).id]
    assert list(home.downloads.iterdir()) == []
    assert (package / "libllama.so").exists()


def test_a_few_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, 6, seed=3)


@pytest.mark.full
def test_many_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, 60, seed=4)
