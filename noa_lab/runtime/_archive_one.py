"""Taking chosen members out of a tar archive, one by one, without trusting it.

`tarfile`'s own "data" filter came with Python 3.11.4; Debian 12's Python is 3.11.2.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

__all__ = ["extract"]


def extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    """Write a file, a folder or a link that stays inside below `root`; modes come down to "may be run" or not.

    Args:
        archive: The open archive.
        member: What to take out.
        root: The folder that nothing may leave; it exists.

    Raises:
        tarfile.TarError: When the member is something else, would land outside, or is there already.
    """
    target = root.joinpath(*_parts(member.name))
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise tarfile.TarError(f"{member.name!r} would be written outside, through a link")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        raise tarfile.TarError(f"{member.name!r} comes twice")
    if member.issym():
        _link(member, target, root)
    elif member.isreg():
        source = archive.extractfile(member)
        assert source is not None, "only links and devices have no content"
        with source, target.open("xb") as file:
            shutil.copyfileobj(source, file)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise tarfile.TarError(f"{member.name!r} is no file, folder or symbolic link")


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or ":" in name or "\0" in name:
        raise tarfile.TarError(f"{name!r} is no name for a file in an archive")
    return path.parts


def _link(member: tarfile.TarInfo, target: Path, root: Path) -> None:
    aim = PurePosixPath(member.linkname)
    inside = not aim.is_absolute() and "\\" not in member.linkname and ":" not in member.linkname
    if not inside or not (target.parent / aim).resolve().is_relative_to(root.resolve()):
        raise tarfile.TarError(f"{member.name!r} links to {member.linkname!r}, which is outside")
    target.symlink_to(str(aim))
