"""Unpacking what a stranger packed: nothing outside the folder, no crash, and what is good comes out whole."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noa_lab.errors import ArchiveUnsafe, Cancelled, DiskFull, DownloadFailed, SetupError
from noa_lab.events import CancelToken, Progress
from noa_lab.runtime import Runtime
from noa_lab.runtime._archive import find_programs, unpack
from noa_lab.runtime._archive_names import Refused, Tree
from noa_lab.testing import pack_release

BAIT = "bait.txt"


def tar(path: Path, *members: tuple[str, object] | tuple[str, object, dict[str, object]]) -> Path:
    """A tar.gz of members: name, content (None: none), and fields of its TarInfo."""
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, content, *rest in members:
            info = tarfile.TarInfo(str(name))
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            for field, value in (rest[0] if rest else {}).items():  # type: ignore[attr-defined]
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data) if isinstance(content, bytes) else None)
    return path


def link(name: str, aim: str) -> tuple[str, None, dict[str, object]]:
    return name, None, {"type": tarfile.SYMTYPE, "linkname": aim}


def hard(name: str, aim: str) -> tuple[str, None, dict[str, object]]:
    return name, None, {"type": tarfile.LNKTYPE, "linkname": aim}


def folder(name: str) -> tuple[str, None, dict[str, object]]:
    return name, None, {"type": tarfile.DIRTYPE}


def zipped(path: Path, *members: tuple[str, bytes] | tuple[str, bytes, int]) -> Path:
    """A zip of members: name, content, and the mode that Unix would have."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *mode in members:
            info = zipfile.ZipInfo("x")
            # The constructor cleans names up; a stranger's program does not.
            info.filename = info.orig_filename = name
            info.create_system = 3 if mode else 0
            info.external_attr = (mode[0] << 16) if mode else 0
            info.compress_type = zipfile.ZIP_DEFLATED
            with warnings.catch_warnings():
                # About names that come twice, on purpose.
                warnings.simplefilter("ignore", UserWarning)
                archive.writestr(info, content)
    return path


def everything(root: Path) -> dict[str, bytes | str]:
    """All that lies below a folder: content of files, aims of links."""
    found: dict[str, bytes | str] = {}
    for where, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(where) / name
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path)
            elif path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


# ---- what is good


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


@pytest.mark.real
@pytest.mark.parametrize("layout", ["tar.gz", "flat zip", "build/bin zip"])
def test_the_real_build_comes_out_byte_for_byte(runtime: Runtime, tmp_path: Path, layout: str) -> None:
    archive = pack_release(runtime.folder, tmp_path / "archive", layout)  # type: ignore[arg-type]
    unpack(archive, tmp_path / "out")
    found = find_programs(tmp_path / "out")
    for path in runtime.folder.iterdir():
        if path.name != "manifest.json":
            assert (found / path.name).read_bytes() == path.read_bytes()
            assert layout != "tar.gz" or (found / path.name).is_symlink() == path.is_symlink()
            assert os.access(found / path.name, os.X_OK) or ".so" in path.name


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


# ---- what is hostile


def bomb(path: Path) -> Path:
    """300 MB of zeros in 300 KB."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        info = tarfile.TarInfo("zeros")
        info.size = 300_000_000
        file.write(info.tobuf())
        block = bytes(1_000_000)
        for _ in range(300):
            file.write(block)
        file.write(bytes(1024))
    return path


def header_bomb(path: Path) -> Path:
    """An extended header of 200 MB, which `tarfile` reads into memory before anybody is asked."""
    with gzip.open(path, "wb") as file:
        info = tarfile.TarInfo("././@PaxHeader")
        info.type, info.size = tarfile.XHDTYPE, 200_000_000
        file.write(info.tobuf())
        for _ in range(200):
            file.write(bytes(1_000_000))
    return path


def header_chain(path: Path) -> Path:
    """2,000 extended headers, each for the next: `tarfile` calls itself for each."""
    with gzip.open(path, "wb") as file:
        for _ in range(2000):
            info = tarfile.TarInfo("././@PaxHeader")
            info.type, info.size = tarfile.XHDTYPE, 8
            file.write(info.tobuf() + b"8 a=bcd\n".ljust(512, b"\0"))
    return path


def padding_bomb(path: Path) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(tarfile.TarInfo("x").tobuf())
        for _ in range(40):
            file.write(bytes(1_000_000))
    return path


def zip_bomb(path: Path) -> Path:
    return zipped(path, *((f"zeros{number}", bytes(30_000_000)) for number in range(6)))


def overlapping_zip(path: Path) -> Path:
    """Many names for one member's bytes."""
    zipped(path, ("a", os.urandom(4000)))
    raw = path.read_bytes()
    start, directory = raw.index(b"PK\x01\x02"), raw[raw.index(b"PK\x01\x02") : raw.index(b"PK\x05\x06")]
    more = directory * 50
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 50, 50, len(more), start, 0)
    path.write_bytes(raw[:start] + more + end)
    return path


def lying_zip(path: Path) -> Path:
    """A member that says it has 10 bytes and has 30 million."""
    zipped(path, ("a", bytes(30_000_000)))
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", 30_000_000), struct.pack("<L", 10)))
    return path


def packed_otherwise(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", bytes(10_000_000))
    return path


def encrypted(path: Path) -> Path:
    zipped(path, ("secret", b"x" * 50))
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    path.write_bytes(bytes(raw))
    return path


def named(*names: str) -> Callable[[Path], Path]:
    """The same names as a tar and as a zip would be two kinds; each is tried as both."""
    return lambda path: (tar if path.suffix == ".gz" else zipped)(path, *((name, b"evil") for name in names))


def of_tar(*members: object) -> Callable[[Path], Path]:
    return lambda path: tar(path, *members)  # type: ignore[arg-type]


HOSTILE: dict[str, Callable[[Path], Path]] = {
    **{
        f"{label}.{kind}": named(*names)
        for kind in ("tar.gz", "zip")
        for label, names in {
            "slip": (f"../{BAIT}",),
            "slip deeper": (f"a/b/../../../{BAIT}",),
            "slip inside": ("a/../b",),
            "absolute": (f"/tmp/noa-lab-{BAIT}",),
            "backslash slip": (f"..\\{BAIT}",),
            "backslash": ("a\\b",),
            "drive": (f"C:\\{BAIT}",),
            "drive relative": (f"C:{BAIT}",),
            "stream": ("llama-server:evil",),
            "share": ("\\\\host\\share\\x",),
            "device name": ("lib/NUL",),
            "device name with suffix": ("con.so.1",),
            "trailing dot": ("llama-server.",),
            "trailing space": ("llama-server ",),
            "trailing dot folder": ("bin./x",),
            "case clash": ("lib/Libx.so", "lib/libx.so"),
            "case clash of folders": ("Bin/a", "bin/b"),
            "unicode clash": ("caf\u00e9", "cafe\u0301"),
            "twice": ("a", "a"),
            "file and folder": ("a", "a/b"),
            "folder and file": ("a/b", "a"),
            "deep": ("/".join("d" * 60),),
            "long": ("n" * 300,),
            "control": ("a\x1bb",),
            "wildcard": ("a*b",),
        }.items()
    },
    "zero byte.zip": lambda path: zipped(path, ("good\0/../../evil", b"x")),
    "link outside.tar.gz": of_tar(link("a", f"../{BAIT}")),
    "link absolute.tar.gz": of_tar(link("a", "/etc/passwd")),
    "link with drive.tar.gz": of_tar(link("a", "C:\\x")),
    "link with backslash.tar.gz": of_tar(folder("d"), link("d/a", "..\\..\\x")),
    "link empty.tar.gz": of_tar(link("a", "")),
    "write through a link.tar.gz": of_tar(link("a", ".."), (f"a/{BAIT}", b"evil")),
    "write through a link inside.tar.gz": of_tar(folder("d"), link("a", "d"), ("a/x", b"evil")),
    "write onto a link.tar.gz": of_tar(link("a", f"../{BAIT}"), ("a", b"evil")),
    "link to a link outside.tar.gz": of_tar(folder("d"), link("d/up", ".."), link("out", "d/up/../x")),
    "links that climb.tar.gz": of_tar(link("a", "."), link("b", "a/.."), link("c", "b/../.."), (BAIT, b"x")),
    "links that climb by case.tar.gz": of_tar(folder("p/q"), link("p/q/a", "../.."), link("p/q/b", "A/../x")),
    "link to itself.tar.gz": of_tar(link("a", "a")),
    "links in a circle.tar.gz": of_tar(link("a", "b"), link("b", "c"), link("c", "a")),
    "hard link outside.tar.gz": of_tar(hard("a", f"../{BAIT}")),
    "hard link absolute.tar.gz": of_tar(hard("a", "/etc/passwd")),
    "hard link to a link.tar.gz": of_tar(link("s", "x"), ("x", b"x"), hard("a", "s")),
    "hard link to nothing.tar.gz": of_tar(hard("a", "b")),
    "hard link to itself.tar.gz": of_tar(hard("a", "a")),
    "fifo.tar.gz": of_tar(("a", None, {"type": tarfile.FIFOTYPE})),
    "character device.tar.gz": of_tar(("a", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
    "block device.tar.gz": of_tar(("a", None, {"type": tarfile.BLKTYPE, "devmajor": 8})),
    "unknown type.tar.gz": of_tar(("a", None, {"type": b"Z"})),
    "too many.tar.gz": of_tar(*((f"f{number}", b"") for number in range(600))),
    "too many.zip": lambda path: zipped(path, *((f"f{number}", b"") for number in range(600))),
    "many empty folders.tar.gz": of_tar(*(folder(f"d{number}") for number in range(600))),
    "bomb.tar.gz": bomb,
    "header bomb.tar.gz": header_bomb,
    "padding bomb.tar.gz": padding_bomb,
    "bomb.zip": zip_bomb,
    "overlapping.zip": overlapping_zip,
    "lzma.zip": packed_otherwise,
    "encrypted.zip": encrypted,
    "zip link outside.zip": lambda path: zipped(path, ("a", f"../{BAIT}".encode(), stat.S_IFLNK | 0o777)),
    "zip link of a megabyte.zip": lambda path: zipped(path, ("a", b"x" * 1_000_000, stat.S_IFLNK | 0o777)),
    "zip device.zip": lambda path: zipped(path, ("a", b"", stat.S_IFCHR | 0o666)),
    "zip fifo.zip": lambda path: zipped(path, ("a", b"", stat.S_IFIFO | 0o666)),
}
DAMAGED: dict[str, Callable[[Path], Path]] = {
    "header chain.tar.gz": header_chain,
    "lying.zip": lying_zip,
    "empty": lambda path: holding(path, b""),
    "text": lambda path: holding(path, b"<html>log in</html>"),
    "cut.tar.gz": lambda path: cut(tar(path, ("a", os.urandom(50_000)))),
    "cut.zip": lambda path: cut(zipped(path, ("a", os.urandom(50_000)))),
    "header damaged in the middle.tar.gz": lambda path: damage_header(path),  # noqa: PLW0108 - defined below
    "checksum.tar.gz": lambda path: flip(tar(path, ("a", b"x" * 5000)), -6),
    "checksum.zip": lambda path: flip(zipped(path, ("a", os.urandom(5000))), 100),
}


def holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def flip(path: Path, where: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[where] ^= 0xFF
    path.write_bytes(bytes(raw))
    return path


def damage_header(path: Path) -> Path:
    """`tarfile` takes this for the end of the archive, and says nothing."""
    raw = bytearray(gzip.decompress(tar(path, ("a", b"x" * 512), ("b", b"y" * 512)).read_bytes()))
    raw[1024 + 150] ^= 0xFF
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def check_nothing_came_out(tmp_path: Path, archive: Path) -> None:
    inside = tmp_path / "work"
    assert list(inside.iterdir()) == [archive] if archive.parent == inside else list(inside.iterdir()) == []
    assert (tmp_path / BAIT).read_bytes() == b"untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"work", BAIT, archive.relative_to(tmp_path).parts[0]}
    )
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
    import tracemalloc

    archive = header_bomb(tmp_path / "bomb.tar.gz")
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveUnsafe):
            unpack(archive, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


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


# ---- fuzz

PART = st.sampled_from(["a", "A", "b", "lib", "..", ".", "", "c:", "nul", "x.", "\u00e9", "e\u0301", "\\", "d e"])
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
KIND = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
