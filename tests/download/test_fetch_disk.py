"""A disk that is full, for real (a small tmpfs): told beforehand, reserved, and where that cannot be, a pause and not a loss."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from download_rig import Rig

from noa_lab.download import _part
from noa_lab.errors import DiskFull
from noa_lab.testing import FileServer

SIZE = 8 * 2**20
CONTENT = random.Random(9).randbytes(SIZE)
DISK = 16 * 2**20
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a tmpfs, on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def rig(disk: Path) -> Iterator[Rig]:
    with FileServer() as server:
        made = Rig(server, disk / "models", content=CONTENT)
        server.put(made.path, CONTENT)
        yield made


def fill(disk: Path, leave: int) -> Path:
    """Take all space but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(disk).free - leave, 1))
    return filler


def cannot_reserve(file: BinaryIO, size: int) -> None:
    """What `reserve` does on a file system that cannot."""
    file.truncate(size)


def test_too_little_space_is_told_beforehand(rig: Rig, disk: Path) -> None:
    filler = fill(disk, SIZE - 10 * PAGE)
    with pytest.raises(DiskFull) as caught:
        rig.fetch()
    assert caught.value.fields["needed_bytes"] == SIZE
    assert caught.value.fields["free_bytes"] < SIZE
    assert rig.left() == []
    filler.unlink()
    assert rig.fetch().sha256 == rig.sha256


def test_too_little_for_the_reservation_leaves_nothing(rig: Rig, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The space was there a moment ago."""
    filler = fill(disk, SIZE // 2)
    monkeypatch.setattr("noa_lab.download._transfer.check_disk", lambda *_, **__: None)
    with pytest.raises(DiskFull, match="still to come"):
        rig.fetch()
    assert rig.left() == []
    filler.unlink()
    assert rig.fetch().sha256 == rig.sha256


def test_what_is_reserved_nobody_else_can_take(rig: Rig, disk: Path) -> None:
    rig.server.valve.limit(SIZE // 3)

    def take_the_rest() -> None:
        rig.wait_for(SIZE // 3)
        fill(disk, PAGE)
        rig.server.valve.limit(None)

    other = threading.Thread(target=take_the_rest)
    other.start()
    assert rig.fetch(sha256=rig.sha256, stall_seconds=20).sha256 == rig.sha256
    other.join()
    assert rig.left() == ["model.gguf"]


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.full] if number >= 4 else []) for number in range(20)]
)
def test_a_disk_that_fills_up_at_a_random_byte(
    rig: Rig, disk: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    chance = random.Random(number)
    point = chance.randrange(1, SIZE - 2**20)
    leave = chance.randrange(0, 2**18)
    monkeypatch.setattr(_part, "reserve", cannot_reserve)
    rig.server.valve.limit(point)

    def take_the_rest() -> None:
        rig.wait_for(point)
        fill(disk, leave)
        rig.server.valve.limit(None)

    other = threading.Thread(target=take_the_rest)
    other.start()
    with pytest.raises(DiskFull, match="continues where it stopped") as caught:
        rig.fetch(sha256=rig.sha256, stall_seconds=20)
    other.join()
    assert 0 < caught.value.fields["needed_bytes"] <= SIZE
    assert rig.left() == ["model.gguf.part", "model.gguf.part.journal"]
    here = rig.here()
    # As long as it is full, it is refused at once, and nothing is lost.
    with pytest.raises(DiskFull) as caught:
        rig.fetch(sha256=rig.sha256)
    assert rig.here() == here
    needed = caught.value.fields["needed_bytes"]
    assert needed <= SIZE - here + 4 * PAGE
    # As soon as there is as much as was said, it goes on.
    (disk / "filler").unlink()
    fill(disk, needed + 16 * PAGE)
    before = rig.server.asked(rig.path)
    found = rig.fetch(sha256=rig.sha256)
    assert (found.sha256, found.continued_bytes) == (rig.sha256, here)
    assert rig.server.asked(rig.path) - before == SIZE - here
    assert rig.left() == ["model.gguf"]
