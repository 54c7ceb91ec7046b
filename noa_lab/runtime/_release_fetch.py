"""Getting a release's programs onto this machine: fetched, held against their hashes, unpacked, with their libraries beside them."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from noa_lab.download import FetchedFile, Order, fetch_file
from noa_lab.errors import DownloadFailed
from noa_lab.events import CancelToken, Report, silent
from noa_lab.runtime._archive import find_programs, unpack
from noa_lab.runtime._libraries import bring_libraries, is_library
from noa_lab.runtime._release_names import Asset
from noa_lab.runtime._release_resolve import ReleaseBuild
from noa_lab.runtime._web import RELEASE_ADVICE

__all__ = ["FetchedRelease", "fetch_release"]

_MOST_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class FetchedRelease:
    """A release's programs on this disk.

    Attributes:
        folder: Where llama-server is, with its libraries.
        sha256: The hash of each archive, by name.
        verified: Whether every archive had a hash to be held against, from noa_lab's own table or from GitHub, and it was the right one.
        unverified: Names of the archives that had none.
        urls: Where each archive came from, by name.
    """

    folder: Path
    sha256: dict[str, str]
    verified: bool
    unverified: tuple[str, ...]
    urls: dict[str, str]


def fetch_release(
    build: ReleaseBuild,
    into: Path,
    *,
    report: Report = silent,
    cancel: CancelToken | None = None,
    stall_seconds: float = 30.0,
    pause_seconds: float = 0.5,
    allow_http_loopback: bool = False,
) -> FetchedRelease:
    """Fetch and unpack. The archives stay in `into`, so that a second call fetches only what it must.

    Args:
        build: What to fetch.
        into: A working folder of noa_lab's own; nobody else works in it meanwhile.
        report: Told about the progress.
        cancel: Stops it; what has arrived is used by the next call.
        stall_seconds: Seconds of silence after which a server counts as stalled.
        pause_seconds: Wait before the second attempt.
        allow_http_loopback: Also fetch from this very machine over http; for tests.

    Raises:
        DownloadFailed: When an archive does not arrive, is damaged, or is not what it should be; `fields["kind"]` says why.
        ChecksumMismatch: When one arrives wrong.
        ArchiveUnsafe: When one would write elsewhere or fill the disk.
        SetupError: When there is no llama-server in it.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    into.mkdir(parents=True, exist_ok=True)

    def get(asset: Asset) -> FetchedFile:
        order = Order(
            asset.url,
            into / asset.name,
            size_bytes=asset.size_bytes,
            sha256=asset.sha256,
            claimed_sha256=asset.claimed_sha256,
            most_bytes=_MOST_BYTES,
            stall_seconds=stall_seconds,
            pause_seconds=pause_seconds,
            allow_http_loopback=allow_http_loopback,
            advice=RELEASE_ADVICE,
        )
        return fetch_file(order, step="Download llama.cpp", report=report, cancel=cancel)

    wanted = (build.asset, *build.companions)
    files = {asset.name: get(asset) for asset in wanted}
    target = into / f"release-{build.tag}-{build.variant or build.backend}"
    shutil.rmtree(target, ignore_errors=True)
    unpack(files[build.asset.name].path, target, report=report, cancel=cancel)
    folder = find_programs(target)
    bring_libraries(folder, folder, every=True)
    for companion in build.companions:
        _add_libraries(files[companion.name].path, folder, report, cancel)
    return FetchedRelease(
        folder=folder,
        sha256={name: file.sha256 for name, file in files.items()},
        verified=all(file.verified for file in files.values()),
        unverified=tuple(name for name, file in files.items() if not file.verified),
        urls={asset.name: asset.url for asset in wanted},
    )


def _add_libraries(archive: Path, folder: Path, report: Report, cancel: CancelToken | None) -> None:
    """Put the libraries of a companion beside the programs; they may replace nothing."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder.parent) as name:
        unpacked = Path(name) / "companion"
        unpack(archive, unpacked, report=report, cancel=cancel)
        libraries = [path for path in sorted(unpacked.rglob("*")) if path.is_file() and is_library(path)]
        if not libraries:
            raise _unfit(archive, "there are no libraries in it")
        for library in libraries:
            target = folder / library.name
            if target.is_symlink() or target.exists():
                if not (target.is_file() and library.is_file() and filecmp.cmp(library, target, shallow=False)):
                    raise _unfit(archive, f"its {library.name} is another one than that of the programs")
                continue
            if library.is_symlink() and library.resolve().parent != library.parent.resolve():
                raise _unfit(archive, f"its {library.name} is a link into another folder")
            shutil.move(library, target)


def _unfit(archive: Path, reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"{archive.name} is not what belongs to these programs: {reason}.",
        fix="Choose another release or another backend, or build from source.",
        source=archive.name,
        reason=reason,
        kind="unfit archive",
    )
