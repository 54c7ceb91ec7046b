"""Models from plain https addresses."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from noa_lab.download import Order, fetch_file
from noa_lab.events import CancelToken, Report
from noa_lab.models._arrived import MOST_BYTES, SPARE_BYTES, STEP, Arrived, ArrivedFile, share_of
from noa_lab.models._reference import WebFile
from noa_lab.models._split import part_names

__all__ = ["from_web", "web_name"]


def web_name(file: WebFile) -> str:
    """The name of the file at an address."""
    return PurePosixPath(unquote(urlsplit(file.url).path)).name


def from_web(file: WebFile, work: Path, sha256: str | None, *, report: Report, cancel: CancelToken | None) -> Arrived:
    """Fetch a file, or all parts of a split model; redirects may lead to other hosts, but never away from https.

    Args:
        file: Which one.
        work: Folder for what arrives; what an earlier call left there is continued.
        sha256: The hash that a file that is not split must have; None where it is not known.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        DownloadFailed: When the bytes do not arrive whole.
        ChecksumMismatch: When they arrive wrong.
        DiskFull: When they do not fit.
        Cancelled: When `cancel` was.
    """
    urls = _addresses(file)
    sizes: list[int | None] = [None] * len(urls)
    files = []
    for number, url in enumerate(urls):
        order = Order(
            url,
            work / f"{number + 1}.gguf",
            sha256=sha256 if len(urls) == 1 else None,
            most_bytes=MOST_BYTES,
            spare_bytes=SPARE_BYTES,
            receipt=True,
        )
        arrived = fetch_file(order, step=STEP, report=share_of(report, sizes, number), cancel=cancel)
        sizes[number] = arrived.size_bytes
        files.append(ArrivedFile(arrived.path, arrived.sha256, arrived.size_bytes))
    return Arrived(tuple(files))


def _addresses(file: WebFile) -> list[str]:
    """The address of every part."""
    parts = urlsplit(file.url)
    folder, _, name = parts.path.rpartition("/")
    return [urlunsplit(parts._replace(path=f"{folder}/{part}")) for part in part_names(name)] or [file.url]
