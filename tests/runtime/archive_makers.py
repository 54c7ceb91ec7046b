"""Archives of chosen members, as tar.gz and as zip; what came out of one; the file that must never be touched."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
import zipfile
from pathlib import Path

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
