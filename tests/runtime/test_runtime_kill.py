"""Installations and switches killed at random moments: the old one or the new one is in place and whole, the embedded one untouched."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from runtime_fakes import fake_programs

from noa_lab import runtime as room
from noa_lab.errors import RuntimeMissing
from noa_lab.paths import Home
from noa_lab.runtime import _store

CHILD = Path(__file__).with_name("install_child.py")
KILL = (signal.SIGKILL,)
MIXED = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def start(home: Home, package: Path, *options: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHILD), str(home.root), str(package), *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def processes_of(home: Home) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home.root) in line]


def await_silence(home: Home) -> None:
    """Wait until nothing that an installation started is left; that must not take long."""
    until = time.monotonic() + 6
    while processes_of(home):
        assert time.monotonic() < until, processes_of(home)
        time.sleep(0.05)


def prepare(tmp_path: Path) -> tuple[Home, Path, float]:
    """A home with its first installation, and how long that took."""
    home, package = Home(tmp_path / "home"), tmp_path / "llama_cpp" / "lib"
    home.root.mkdir()
    package.parent.mkdir()
    started = time.monotonic()
    with start(home, package) as whole:
        assert whole.wait() == 0
    return home, package, time.monotonic() - started


def check_first_installations(tmp_path: Path, count: int, seed: int, signals: Sequence[signal.Signals]) -> None:
    """Kill installations that repair a damaged home."""
    chance = random.Random(seed)
    home, package, usual = prepare(tmp_path)
    for _ in range(count):
        for each in room.runtimes(home):
            (each.folder / "llama-server").unlink()
        with start(home, package) as child:
            time.sleep(chance.uniform(0.2, usual))
            child.send_signal(chance.choice(signals))
        for pointed in (room.current, room.embedded):
            try:
                found = pointed(home)
            except RuntimeMissing:
                continue
            assert _store.hash_files(found.folder) == found.files
        await_silence(home)
    with start(home, package) as last:
        assert last.wait() == 0
    assert room.current(home) == room.embedded(home)
    assert [path.name for path in home.runtimes.iterdir() if path.is_dir()] == [room.current(home).id]
    assert list(home.downloads.iterdir()) == []
    assert (package / "libllama.so").exists()


def check_switches(tmp_path: Path, count: int, seed: int, signals: Sequence[signal.Signals]) -> None:
    """Kill installations of other runtimes, of ones that are there already, and rollbacks: there is a whole current one at any time."""
    chance = random.Random(seed)
    home, package, _ = prepare(tmp_path)
    fake_programs(tmp_path / "one" / "llama-b20001", build=20001)
    archive = shutil.make_archive(str(tmp_path / "one"), "gztar", tmp_path / "one", "llama-b20001")
    sources = [
        archive,
        fake_programs(tmp_path / "two", build=20002),
        fake_programs(tmp_path / "three", "illegal instruction"),
    ]
    took: dict[str, float] = {}
    for what in ("rollback", *map(str, sources)):
        started = time.monotonic()
        with start(home, package, what) as child:
            child.wait()
        took[what] = time.monotonic() - started
    pinned = room.embedded(home)
    embedded = {path: path.lstat().st_mtime_ns for path in pinned.folder.iterdir()}
    for _ in range(count):
        what = chance.choice(["rollback", *map(str, sources)])
        for each in room.runtimes(home):
            if not each.marks and chance.random() < 0.7:
                # Gone, so that the next one has to place it anew.
                shutil.rmtree(each.folder)
        before = room.current(home)
        with start(home, package, what) as child:
            # Most of a short command is Python's own start.
            time.sleep(chance.uniform(0.15, took[what]))
            child.send_signal(chance.choice(signals))
        found = room.current(home)
        assert _store.hash_files(found.folder) == found.files
        assert found.id == before.id or found.build_number in {11312, 20001, 20002}
        assert room.embedded(home) == pinned
        assert {path: path.lstat().st_mtime_ns for path in pinned.folder.iterdir()} == embedded
        await_silence(home)
    with start(home, package, str(sources[1])) as last:
        assert last.wait() == 0
    assert room.current(home).build_number == 20002
    assert not [path for path in home.runtimes.iterdir() if path.name.startswith((".staging", ".old", ".unpack"))]
    assert list(home.downloads.iterdir()) == []


def test_a_few_kills_of_a_first_installation(tmp_path: Path) -> None:
    check_first_installations(tmp_path, 6, seed=3, signals=MIXED)


def test_a_few_kills_of_switches(tmp_path: Path) -> None:
    check_switches(tmp_path, 14, seed=5, signals=MIXED)


@pytest.mark.full
def test_many_kills_of_a_first_installation(tmp_path: Path) -> None:
    check_first_installations(tmp_path, 60, seed=4, signals=KILL)


@pytest.mark.full
@pytest.mark.parametrize("seed", [6, 7])
def test_many_kills_of_switches(tmp_path: Path, seed: int) -> None:
    check_switches(tmp_path, 70, seed=seed, signals=KILL)
