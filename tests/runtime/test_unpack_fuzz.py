"""Unpacking archives of random members, and of random damage: whatever comes of it is named, and inside."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from archive_makers import BAIT, hard, link, tar, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noa_lab.errors import DownloadFailed
from noa_lab.runtime._archive import unpack
from noa_lab.runtime._archive_names import Refused, Tree

PART = st.sampled_from(["a", "A", "b", "lib", "..", ".", "", "c:", "nul", "x.", "\u00e9", "e\u0301", "\\", "d e"])
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
KIND = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
QUICK = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def try_it(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Whatever comes of it: named, and inside."""
    root = tmp_path / "fuzz"
    shutil.rmtree(root, ignore_errors=True)
    (root / "work").mkdir(parents=True)
    (root / BAIT).write_bytes(b"untouched")
    make(root / "archive")
    try:
        unpack(root / "archive", root / "work" / "out", most_bytes=2**20, most_files=50)
    except DownloadFailed:
        assert list((root / "work").iterdir()) == []
    else:
        out = (root / "work" / "out").resolve()
        for where, folders, files in os.walk(out):
            for name in (*folders, *files):
                assert (Path(where) / name).resolve().is_relative_to(out)
        assert [path.name for path in (root / "work").iterdir()] == ["out"]
    assert (root / BAIT).read_bytes() == b"untouched"
    assert sorted(path.name for path in root.iterdir()) == ["archive", BAIT, "work"]


@QUICK
@given(members=st.lists(st.tuples(NAME, KIND, NAME), max_size=8))
def test_any_members_stay_inside(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    def make(path: Path) -> None:
        tar(
            path,
            *(
                (name, b"x" if kind == tarfile.REGTYPE else None, {"type": kind, "linkname": aim})
                for name, kind, aim in members
            ),
        )

    try_it(tmp_path, make)


@QUICK
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    data=st.sampled_from(["tar", "inner", "zip"]),
)
def test_any_damage_is_named(tmp_path: Path, places: list[tuple[float, int]], data: str) -> None:
    def spoil(raw: bytes) -> bytes:
        spoiled = bytearray(raw)
        for where, value in places:
            spoiled[min(len(spoiled) - 1, int(where * len(spoiled)))] = value
        return bytes(spoiled)

    def make(path: Path) -> None:
        if data == "zip":
            zipped(path, ("a/b", b"x" * 50), ("l", b"a/b", stat.S_IFLNK | 0o777), ("c", b"y" * 500, 0o100755))
            path.write_bytes(spoil(path.read_bytes()))
            return
        tar(path, ("a/b", b"x" * 50), link("l", "a/b"), hard("h", "a/b"), ("c", b"y" * 500))
        raw = path.read_bytes()
        path.write_bytes(spoil(raw) if data == "tar" else gzip.compress(spoil(gzip.decompress(raw)), 1))

    try_it(tmp_path, make)


@QUICK
@given(content=st.binary(max_size=400), start=st.sampled_from([b"", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"PK\x05\x06"]))
def test_any_bytes_are_named(tmp_path: Path, content: bytes, start: bytes) -> None:
    try_it(tmp_path, lambda path: path.write_bytes(start + content))


@QUICK
@given(names=st.lists(NAME, max_size=6), aims=st.lists(NAME, max_size=6))
def test_following_links_ends(names: list[str], aims: list[str]) -> None:
    tree = Tree()
    for name, aim in zip(names, aims, strict=False):
        try:
            tree.add(name, "link", aim)
        except Refused:
            continue
    for parts in tree.links:
        try:
            assert ".." not in tree.lands("/".join(parts))
        except Refused:
            continue
