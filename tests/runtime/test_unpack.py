"""Unpacking: what is good comes out whole, or nothing does."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from archive_makers import everything, folder, hard, link, tar, zipped

from noa_lab.errors import ArchiveUnsafe, Cancelled, DiskFull, SetupError
from noa_lab.events import CancelToken, Progress
from noa_lab.runtime._archive import find_programs, unpack


def test_a_tar_keeps_links_and_what_may_be_run(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a.tar.gz",
        folder("llama-b1/"),
        link("llama-b1/libx.so", "libx.so.1"),
        link("llama-b1/libx.so.1", "libx.so.1.2"),
        ("llama-b1/libx.so.1.2", b"library", {"mode": 0o644}),
        ("./llama-b1/llama-server", b"program", {"mode": 0o6777}),
        hard("llama-b1/again", "llama-b1/llama-server"),
        link("lib", "llama-b1"),
    )
    seen: list[Progress] = []
    unpack(archive, tmp_path / "out", report=seen.append)
    out = tmp_path / "out" / "llama-b1"
    assert os.readlink(out / "libx.so") == "libx.so.1"
    assert (out / "libx.so").read_bytes() == b"library"
    assert stat.S_IMODE((out / "llama-server").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "libx.so.1.2").stat().st_mode) == 0o644
    assert (out / "again").read_bytes() == b"program"
    assert os.readlink(tmp_path / "out" / "lib") == "llama-b1"
    assert seen[-1].finished
    assert find_programs(tmp_path / "out") == out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]


def test_a_zip_keeps_what_it_has(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "a.zip",
        ("build/bin/llama-server", b"\x7fELF program"),
        ("build/bin/run", b"program", 0o100755),
        ("build/bin/data", b"text", 0o100644),
        ("build/bin/libx.so", b"data", stat.S_IFLNK | 0o777),
        ("build/empty/", b""),
    )
    unpack(archive, tmp_path / "out")
    out = tmp_path / "out" / "build" / "bin"
    assert os.access(out / "llama-server", os.X_OK), "a zip without modes: told by its first bytes"
    assert os.access(out / "run", os.X_OK)
    assert not os.access(out / "data", os.X_OK)
    assert os.readlink(out / "libx.so") == "data"
    assert (tmp_path / "out" / "build" / "empty").is_dir()
    assert find_programs(tmp_path / "out") == out


def test_of_several_programs_the_one_nearest_to_the_top(tmp_path: Path) -> None:
    for where in ("z", "a/b/c", "a/b"):
        (tmp_path / where).mkdir(parents=True, exist_ok=True)
        (tmp_path / where / "llama-server").write_bytes(b"")
    assert find_programs(tmp_path) == tmp_path / "z"
    with pytest.raises(SetupError, match="no llama-server"):
        find_programs(tmp_path / "a" / "b" / "c" / "none")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(SetupError, match="is there already"):
        unpack(tar(tmp_path / "a.tar.gz", ("x", b"x")), tmp_path / "out")
    assert everything(tmp_path / "out") == {"mine": b"mine"}


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    token = CancelToken()
    archive = tar(tmp_path / "a.tar.gz", ("x", random.Random(1).randbytes(3_000_000)), ("y", b"y"))
    with pytest.raises(Cancelled):
        unpack(archive, tmp_path / "out", report=lambda progress: token.cancel(), cancel=token)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(DiskFull):
        unpack(tar(tmp_path / "a.tar.gz", ("x", b"x")), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_size_limits_are_what_the_caller_says(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar.gz", ("x", os.urandom(100_000)))
    unpack(archive, tmp_path / "good", most_bytes=100_000)
    with pytest.raises(ArchiveUnsafe):
        unpack(archive, tmp_path / "bad", most_bytes=99_999)
    assert not (tmp_path / "bad").exists()


def test_on_windows_links_become_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from noa_lab.runtime import _archive

    archive = tar(tmp_path / "a.tar.gz", link("b", "c"), link("c", "d/x"), ("d/x", b"content"))
    broken = tar(tmp_path / "b.tar.gz", link("b", "nothing"))
    with monkeypatch.context() as patch:
        patch.setattr(_archive, "os", type("nt", (), {"name": "nt"}))
        unpack(archive, tmp_path / "out")
        with pytest.raises(ArchiveUnsafe):
            unpack(broken, tmp_path / "broken")
    assert everything(tmp_path / "out") == {"b": b"content", "c": b"content", "d/x": b"content"}
