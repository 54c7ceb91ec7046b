"""Unpacking what a stranger packed: nothing outside the folder, no crash, and a name for what is wrong with it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from archive_makers import BAIT
from hostile_archives import DAMAGED, HOSTILE, header_bomb

from noa_lab.errors import ArchiveUnsafe, DownloadFailed
from noa_lab.runtime._archive import unpack


def check_nothing_came_out(tmp_path: Path, archive: Path) -> None:
    assert list((tmp_path / "work").iterdir()) == []
    assert (tmp_path / BAIT).read_bytes() == b"untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"work", BAIT, archive.name})
    assert not Path(f"/tmp/noa-lab-{BAIT}").exists()


def test_there_are_kinds_enough() -> None:
    assert len(HOSTILE) >= 12


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_hostile_archive_comes_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / BAIT).write_bytes(b"untouched")
    archive = HOSTILE[name](tmp_path / name)
    with pytest.raises(ArchiveUnsafe) as caught:
        unpack(archive, tmp_path / "work" / "out", most_files=500)
    assert caught.value.fields["kind"] == "unsafe archive"
    assert caught.value.fix
    check_nothing_came_out(tmp_path, archive)


@pytest.mark.parametrize("name", DAMAGED)
def test_nothing_of_a_damaged_archive_comes_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / BAIT).write_bytes(b"untouched")
    archive = DAMAGED[name](tmp_path / name)
    with pytest.raises(DownloadFailed) as caught:
        unpack(archive, tmp_path / "work" / "out")
    assert not isinstance(caught.value, ArchiveUnsafe)
    assert caught.value.fields["kind"] == "damaged archive"
    check_nothing_came_out(tmp_path, archive)


def test_a_bomb_does_not_cost_memory_or_disk(tmp_path: Path) -> None:
    archive = header_bomb(tmp_path / "bomb.tar.gz")
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveUnsafe):
            unpack(archive, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
