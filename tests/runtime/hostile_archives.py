"""Archives that a stranger packed to do harm, one for each way that is known, and archives that are damaged; each by its name.

Each entry makes its archive at a path and returns it. The end of the name says of which kind it is.
"""

from __future__ import annotations

import gzip
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from archive_makers import BAIT, folder, hard, link, tar, zipped


def bomb(path: Path) -> Path:
    """150 MB of zeros in 150 KB."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        info = tarfile.TarInfo("zeros")
        info.size = 150_000_000
        file.write(info.tobuf())
        block = bytes(1_000_000)
        for _ in range(150):
            file.write(block)
        file.write(bytes(1024))
    return path


def header_bomb(path: Path) -> Path:
    """An extended header of 60 MB, which `tarfile` reads into memory before anybody is asked."""
    with gzip.open(path, "wb") as file:
        info = tarfile.TarInfo("././@PaxHeader")
        info.type, info.size = tarfile.XHDTYPE, 60_000_000
        file.write(info.tobuf())
        for _ in range(60):
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
    return zipped(path, *((f"zeros{number}", bytes(30_000_000)) for number in range(4)))


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
    "header damaged in the middle.tar.gz": damage_header,
    "checksum.tar.gz": lambda path: flip(tar(path, ("a", b"x" * 5000)), -6),
    "checksum.zip": lambda path: flip(zipped(path, ("a", os.urandom(5000))), 100),
}
