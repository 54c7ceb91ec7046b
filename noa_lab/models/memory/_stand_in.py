"""A file with a model's header and its size, and a hole in place of its weights: enough for `llama-fit-params`.

The hole takes no disk on file systems that know holes (ext4, xfs, btrfs, APFS, NTFS); elsewhere there is no stand-in.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["stand_in"]

_MOST_DISK_BYTES = 2**27
_SET_SPARSE = 0x900C4
"""FSCTL_SET_SPARSE (winioctl.h)."""


@contextmanager
def stand_in(parts: Sequence[tuple[bytes, int]], folder: Path | None = None) -> Iterator[Path | None]:
    """Make the stand-in of a model for as long as the block runs.

    Args:
        parts: Header and size of each of its files, in order.
        folder: Where to make it; None: the system's temporary folder.

    Yields:
        The first file; None where the file system has no holes or no room.
    """
    with tempfile.TemporaryDirectory(prefix="noa-lab-fit-", dir=folder) as work:
        paths = [Path(work, f"model-{number:05}-of-{len(parts):05}.gguf") for number in range(1, len(parts) + 1)]
        try:
            made = all(_write(path, head, size) for path, (head, size) in zip(paths, parts, strict=True))
        except OSError:
            made = False
        yield paths[0] if made else None


def _write(path: Path, head: bytes, size: int) -> bool:
    with path.open("wb") as file:
        if sys.platform == "win32":
            _make_sparse(file)
        file.write(head)
        file.truncate(max(size, len(head)))
        file.flush()
        taken = getattr(os.fstat(file.fileno()), "st_blocks", 0) * 512
    return taken <= len(head) + _MOST_DISK_BYTES


def _make_sparse(file: BinaryIO) -> None:  # pragma: no cover - Windows
    """Tell NTFS that the file may have holes.

    Raises:
        OSError: When it cannot; the file would take its whole size then.
    """
    import ctypes
    import msvcrt

    handle = getattr(msvcrt, "get_osfhandle")(file.fileno())  # noqa: B009 - absent elsewhere
    returned = ctypes.c_ulong()
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    if not kernel.DeviceIoControl(handle, _SET_SPARSE, None, 0, None, 0, ctypes.byref(returned), None):
        raise OSError("This file system has no sparse files.")
