"""llama.cpp's source: the folder inside the bindings' sdist, at the very commit that the bindings were made for."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath

from noa_lab.download import check_disk
from noa_lab.errors import DownloadFailed
from noa_lab.events import CancelToken, Report
from noa_lab.runtime._archive import unpack
from noa_lab.runtime._pins import Pin
from noa_lab.runtime._pypi import download_distribution

__all__ = ["source_folder"]

_INSIDE = ("vendor", "llama.cpp")
_MOST_BYTES = 2 * 2**30


def source_folder(pin: Pin, work: Path, *, report: Report, cancel: CancelToken | None) -> Path:
    """The unpacked source; fetched when it is not there yet.

    It is removed after a successful installation; one that an interrupted installation left is used again.

    Args:
        pin: Which source.
        work: Folder for the sdist and the source.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        DownloadFailed: When PyPI cannot be reached, or the sdist is not what was expected.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    folder = work / f"llama.cpp-{pin.tag}-{pin.commit}"
    if folder.is_dir():
        return folder
    check_disk(work, pin.source_bytes)
    sdist = download_distribution(
        pin.requirement,
        work,
        binary=False,
        step="Download llama.cpp's source",
        expected_bytes=pin.sdist_bytes,
        report=report,
        cancel=cancel,
    )
    try:
        _unpack(sdist, folder, report, cancel)
    except DownloadFailed:
        sdist.unlink(missing_ok=True)
        raise
    sdist.unlink(missing_ok=True)
    return folder


def _unpack(sdist: Path, folder: Path, report: Report, cancel: CancelToken | None) -> None:
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder.parent))
    try:
        unpack(
            sdist,
            staging,
            step="Unpack llama.cpp's source",
            wanted=lambda name: PurePosixPath(name).parts[1:3] == _INSIDE,
            most_bytes=_MOST_BYTES,
            report=report,
            cancel=cancel,
        )
        source = next((path.parent for path in staging.glob(str(Path("*", *_INSIDE, "CMakeLists.txt")))), None)
        if source is None:
            raise DownloadFailed(
                f"{sdist.name} holds no usable llama.cpp source: there is no vendor/llama.cpp/CMakeLists.txt in it.",
                fix="Try again; if that fails, too, check the package index that pip is set to use (`pip config list`).",
                source=sdist.name,
                reason="there is no vendor/llama.cpp/CMakeLists.txt in it",
            )
        source.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
