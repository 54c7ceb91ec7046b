"""What can be wrong with a database file, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from noa_lab.errors import BadInput, DiskFull, ExperimentError, NoaLabError

__all__ = ["network_filesystem", "translated"]

_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb",
    "smb2",
    "smb3",
    "smbfs",
    "afpfs",
    "sshfs",
    "fuse.sshfs",
    "webdav",
    "davfs",
    "lustre",
    "ceph",
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Names what SQLite reports."""
    try:
        yield
    except NoaLabError:
        raise
    except sa.exc.DBAPIError as error:
        reason = str(error.orig)
        fields = {"path": str(path), "reason": reason}
        if "disk is full" in reason:
            raise DiskFull(
                f"The disk that holds {path} is full.", fix="Free some space, then resume the run.", **fields
            ) from error
        if "not a database" in reason or "malformed" in reason:
            raise BadInput(
                f"{path} cannot be read as a database of runs: {reason}.",
                fix="Move the file to another folder; noa_lab then makes a new one.",
                field="path",
                value=str(path),
            ) from error
        if "unable to open" in reason or "readonly" in reason:
            raise ExperimentError(
                f"{path} cannot be opened for writing: {reason}.",
                fix="Check that its folder exists and belongs to you.",
                **fields,
            ) from error
        if "locked" in reason:
            raise ExperimentError(
                f"{path} was held by another program for too long.",
                fix="Try again; what was finished is kept.",
                **fields,
            ) from error
        raise


def network_filesystem(path: Path) -> str | None:
    """Name of the network file system that `path` is on, or None."""
    import psutil

    folder = path.absolute().parent
    best, kind = -1, ""
    try:
        for part in psutil.disk_partitions(all=True):
            mount = Path(part.mountpoint)
            if folder.is_relative_to(mount) and len(mount.parts) > best:
                best, kind = len(mount.parts), part.fstype.lower()
    except OSError:
        return None  # no table of mounts here: nothing can be said
    return kind if kind in _NETWORK else None
