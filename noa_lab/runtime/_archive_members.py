"""The members of a tar.gz or zip archive, one after the other, read in small bites.

`tarfile` and `zipfile` trust an archive in ways that a hostile one can use: they read a header of any size in one go, end quietly at a
damaged member, and cut names at a zero byte. This module is what stands between.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from noa_lab.runtime._archive_names import Refused

__all__ = ["Member", "members"]

_MOST_AT_ONCE = 4 * 2**20
"""Largest piece that `tarfile` or `zipfile` may ask for; both read headers and directories whole."""
_MOST_PADDING = 16 * 2**20
_MOST_AIM = 1024
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others are unpacked without any bound on memory."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: As the archive spells it.
        kind: "file", "folder", "link" or "copy" (a hard link).
        size: Bytes that it says it has.
        runnable: Whether it may be run; None where the archive does not say.
        aim: What a link or a copy points to.
        open: Opens its content; None where there is none.
    """

    name: str
    kind: str
    size: int = 0
    runnable: bool | None = False
    aim: str = ""
    open: Callable[[], IO[bytes]] | None = None


class _Bites:
    """A file that hands out no more than a bounded piece at once."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file
        self.last = b""
        self.tell, self.seek, self.seekable = file.tell, file.seek, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_AT_ONCE:
            raise Refused(f"it asks for {size:,} bytes of header at once")
        # Nothing that is read to its end is longer than a bite, or it is refused.
        data = self._file.read(_MOST_AT_ONCE + 1 if size < 0 else size)
        if len(data) > _MOST_AT_ONCE:
            raise Refused("it holds a header of more than 4 MiB")
        self.last = data
        return data


def members(file: IO[bytes]) -> Iterator[Member]:
    """Every member; the content of one must be read before the next is asked for.

    Args:
        file: The archive, opened for reading at its start. What it is, is told by its first bytes and not by its name.

    Raises:
        Refused: For a member that no archive of programs has, or a device.
        tarfile.TarError: When it is damaged; so do the other errors of `tarfile`, `zipfile`, `gzip` and `zlib`.
    """
    start = file.read(4)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        yield from _tar(file)
    elif start in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip(file)
    else:
        raise tarfile.ReadError("it is neither a tar.gz nor a zip archive")


def _tar(file: IO[bytes]) -> Iterator[Member]:
    with gzip.GzipFile(fileobj=file) as unzipped:
        bites = _Bites(unzipped)
        with tarfile.open(fileobj=bites, mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                yield _tar_member(archive, member)
        _check_end(bites)


def _tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Member:
    name = member.name
    if member.isdir():
        return Member(name, "folder")
    if member.issym():
        return Member(name, "link", aim=member.linkname)
    if member.islnk():
        return Member(name, "copy", aim=member.linkname)
    if not member.isreg() or member.issparse():
        raise Refused(f"{name!r} is a device or something else that is no file, folder or link")

    def content() -> IO[bytes]:
        source = archive.extractfile(member)
        assert source is not None, "only links and devices have no content"
        return source

    return Member(name, "file", member.size, runnable=bool(member.mode & 0o111), open=content)


def _check_end(bites: _Bites) -> None:
    """Read to the very end: `tarfile` takes a damaged header for the end, and does not reach the checksum of gzip."""
    seen = 0
    block = bites.last
    while block:
        if block.count(0) != len(block):
            raise tarfile.ReadError("a header in it is damaged")
        seen += len(block)
        if seen > _MOST_PADDING:
            raise Refused("it ends in more than 16 MiB of nothing")
        block = bites.read(io.DEFAULT_BUFFER_SIZE)


def _zip(file: IO[bytes]) -> Iterator[Member]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with zipfile.ZipFile(_Bites(file)) as archive:
        infos = archive.infolist()
        if sum(info.compress_size for info in infos) > size:
            raise Refused("its members share their bytes, as those of a bomb do")
        for info in infos:
            yield _zip_member(archive, info)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    # `filename` is what is left of the name after a zero byte and, on Windows, backslashes were taken care of.
    name = info.orig_filename
    if info.flag_bits & 0x1:
        raise Refused(f"{name!r} is encrypted")
    if info.compress_type not in _ZIP_METHODS:
        raise Refused(f"{name!r} is compressed in an unusual way")
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        if info.file_size > _MOST_AIM:
            raise Refused(f"{name!r} is a link with a target of {info.file_size:,} bytes")
        with archive.open(info) as content:
            return Member(name, "link", aim=content.read(_MOST_AIM + 1).decode())
    if name.endswith("/") or kind == stat.S_IFDIR:
        return Member(name, "folder")
    if kind not in (0, stat.S_IFREG):
        raise Refused(f"{name!r} is a device or something else that is no file, folder or link")
    runnable = bool(mode & 0o111) if mode else None
    return Member(name, "file", info.file_size, runnable, open=lambda: archive.open(info))
