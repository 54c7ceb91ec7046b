"""Disk space: asked for before it is needed, and taken in one go where the file system can."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from noa_lab.errors import DiskFull

__all__ = ["SPARE_BYTES", "check_disk", "named_disk_errors", "reserve"]

SPARE_BYTES = 50_000_000
"""Disk space that a download leaves free."""
_ELSEWHERE = "set NOA_LAB_HOME to a folder on another disk"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_disk(folder: Path, needed_bytes: int, *, elsewhere: str = "") -> None:
    """Make sure that there is space.

    Args:
        folder: Where it is needed.
        needed_bytes: How much.
        elsewhere: How to have it on another disk, as the end of a sentence; default: in the home.

    Raises:
        DiskFull: With the bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DiskFull(
            f"{needed_bytes / 1e6:,.0f} MB are needed in {folder}, {free / 1e6:,.0f} MB are free.",
            fix=f"Free {(needed_bytes - free) / 1e6:,.0f} MB, or {elsewhere or _ELSEWHERE}.",
            path=str(folder),
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


@contextmanager
def named_disk_errors(path: Path, missing_bytes: int) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into `DiskFull`.

    Args:
        path: The file that grows.
        missing_bytes: How much it still lacks.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFull) or error.errno not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        short = max(missing_bytes - free, 1)
        raise DiskFull(
            f"The disk is full: {missing_bytes:,} bytes are still to come in {path.parent}, {free:,} are free.",
            fix=f"Free {short:,} bytes ({short / 1e6:,.1f} MB), then start it again: it continues where it stopped.",
            path=str(path.parent),
            needed_bytes=missing_bytes,
            free_bytes=free,
        ) from None


def reserve(file: BinaryIO, size_bytes: int) -> None:
    """Give a file its final size, with the disk space for it where the file system can promise that.

    Python's `os.posix_fallocate` is not used: where the file system cannot, the C library writes a byte into every block, which takes
    minutes on a network drive.

    Raises:
        OSError: With ENOSPC or EDQUOT when there is not enough.
    """
    if sys.platform.startswith("linux"):
        _reserve_linux(file.fileno(), size_bytes)
    elif sys.platform == "darwin":
        _reserve_macos(file.fileno(), size_bytes)
    # Windows allocates on this call; elsewhere it only sets the length.
    file.truncate(size_bytes)


def _reserve_linux(descriptor: int, size_bytes: int) -> None:
    """fallocate(2), mode 0."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while size_bytes and fallocate(descriptor, 0, 0, size_bytes):
        number = ctypes.get_errno()
        if number in _FULL:
            raise OSError(number, os.strerror(number))
        if number != errno.EINTR:
            return


def _reserve_macos(descriptor: int, size_bytes: int) -> None:
    """fcntl(2) F_PREALLOCATE (42), with struct fstore: F_ALLOCATEALL (4), F_PEOFPOSMODE (3), offset, length, bytes allocated."""
    import fcntl

    missing = size_bytes - os.fstat(descriptor).st_blocks * 512
    if missing <= 0:
        return
    try:
        fcntl.fcntl(descriptor, 42, struct.pack("=Iiqqq", 4, 3, 0, missing, 0))
    except OSError as error:
        if error.errno in _FULL:
            raise
