"""Archives of llama.cpp's programs in the layout of each era of releases, made from a runtime that is on this machine."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

__all__ = ["Layout", "pack_companion", "pack_release"]

Layout = Literal["build/bin zip", "flat zip", "tar.gz"]
"""b4315's zip for Linux and macOS; every era's zip for Windows; today's tar.gz with one folder at its top."""

_LEFT_OUT = frozenset({"manifest.json"})


def pack_release(programs: Path, archive: Path, layout: Layout, *, tag: str = "b11312") -> Path:
    """Pack a folder of programs as a release of some era would have.

    Args:
        programs: Folder with llama-server and its libraries.
        archive: The archive to make.
        layout: Which layout.
        tag: Release tag, which today's top folder is named for.
    """
    members = [path for path in sorted(programs.iterdir()) if path.name not in _LEFT_OUT]
    if layout == "tar.gz":
        with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
            for path in members:
                # Links between versions of a library stay links, as upstream packs them.
                packed.add(path, arcname=f"llama-{tag}/{path.name}", recursive=False)
        return archive
    inside = "build/bin/" if layout == "build/bin zip" else ""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed_zip:
        for path in members:
            # A zip follows links: each name is a whole file.
            packed_zip.write(path.resolve(), f"{inside}{path.name}")
    return archive


def pack_companion(archive: Path, libraries: Mapping[str, bytes]) -> Path:
    """Pack an archive of CUDA libraries: a zip is flat, a tar.gz has a folder of the archive's own name.

    Args:
        archive: The archive to make; its name says which kind.
        libraries: Content of each library by name.
    """
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in libraries.items():
                packed.writestr(name, content)
        return archive
    folder = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as packed_tar:
        for name, content in libraries.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mode = len(content), 0o755
            packed_tar.addfile(member, io.BytesIO(content))
    return archive
