"""Fetching one file over https: continued where it was cut, hashed over every byte, visible only when it is whole."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from noa_lab.errors import ChecksumMismatch, DiskFull, DownloadFailed
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.paths import write_atomic
from noa_lab.runtime._source import check_disk
from noa_lab.runtime._web import failed, named_errors, refusal, run, shown, web_client

if TYPE_CHECKING:
    import httpx

__all__ = ["FetchedFile", "fetch_file"]

_SPARE_BYTES = 50_000_000
"""Disk space that a download leaves free."""
_LEAST_BYTES_PER_SECOND = 1024
_PROGRESS_BYTES = 2**20
"""So much since the last cut, and the patience starts anew."""
_PASSING = frozenset({"cut", "stalled", "server", "truncated"})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that has arrived whole.

    Attributes:
        path: Where it is.
        sha256: Its hash.
        size_bytes: Its size.
        verified: Whether the hash is the one that it had to have.
        continued_bytes: Bytes that were there from earlier attempts and not fetched again.
    """

    path: Path
    sha256: str
    size_bytes: int
    verified: bool
    continued_bytes: int = 0


@dataclass(slots=True)
class _Job:
    """One download, and how far it is."""

    url: str
    target: Path
    size_bytes: int | None
    sha256: str | None
    claimed_sha256: str | None
    most_bytes: int
    step: str
    stall_seconds: float
    pause_seconds: float
    report: Report
    have: int = 0
    total: int | None = None
    validator: str = ""
    continued: int = 0
    joined: bool = False
    mended: bool = False
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def journal(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    @property
    def expected(self) -> str | None:
        return self.sha256 or self.claimed_sha256

    def restart(self) -> None:
        """Forget what is there."""
        self.journal.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        self.have, self.total, self.validator, self.continued, self.joined = 0, None, "", 0, False
        self.digest = hashlib.sha256()


def fetch_file(
    url: str,
    target: Path,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    claimed_sha256: str | None = None,
    most_bytes: int = 4 * 2**30,
    step: str = "Download llama.cpp",
    attempts: int = 3,
    stall_seconds: float = 30.0,
    pause_seconds: float = 0.5,
    allow_http_loopback: bool = False,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> FetchedFile:
    """Fetch a file. A cut is continued at once, and what a killed process left by the next call.

    The caller sees to it that two do not fetch the same target at a time.

    Continuing needs a sign that the file is still the same one: a strong ETag or a date (sent as If-Range), or a hash to check in the
    end. Without any it starts over.

    Args:
        url: Its https address; redirects may lead to other hosts, never away from https.
        target: The file to make. One that is there already and has the right hash is used.
        size_bytes: The size that it must have; None where it is not known.
        sha256: The hash that it must have; None where there is none to trust.
        claimed_sha256: What the source itself says; checked, but no reason to call the file verified.
        most_bytes: Largest size.
        step: What the progress reports are called.
        attempts: How often in a row it may be cut within one megabyte.
        stall_seconds: Seconds without a byte, or with less than 1 KiB per second, after which a server counts as stalled.
        pause_seconds: Wait before the second attempt; twice as long before each further one.
        allow_http_loopback: Also fetch from this very machine over http; for tests.
        report: Told about the progress, at most ten times a second.
        cancel: Stops it within a fraction of a second; what has arrived stays for the next call.

    Raises:
        DownloadFailed: When it does not arrive; `fields["kind"]` says why.
        ChecksumMismatch: When it arrives wrong; nothing of it is kept.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(url, target, size_bytes, sha256, claimed_sha256, most_bytes, step, stall_seconds, pause_seconds, report)
    found = _ready(job, cancel)
    if found is not None:
        return found
    _load(job, cancel)
    return run(lambda: _fetch(job, attempts, allow_http_loopback), cancel)


def _ready(job: _Job, cancel: CancelToken | None) -> FetchedFile | None:
    """The target, when it is there and right."""
    if job.expected is None or not job.target.is_file():
        return None
    digest = hashlib.sha256()
    size = _hash(job.target, digest, cancel)
    if digest.hexdigest() != job.expected:
        return None
    job.report(Progress(job.step, job.target.name, done=size, total=size, unit="bytes", finished=True))
    return FetchedFile(job.target, job.expected, size, job.sha256 is not None, size)


def _load(job: _Job, cancel: CancelToken | None) -> None:
    """Take up the part that an earlier call left, if it may be continued."""
    try:
        facts = json.loads(job.journal.read_text(encoding="utf-8"))
        url, validator, total = facts["url"], facts["validator"], facts["total"]
        usable = url == shown(job.url) and isinstance(validator, str) and isinstance(total, int | None)
        usable = usable and (bool(validator) or job.expected is not None) and job.part.is_file()
        usable = usable and not job.part.is_symlink() and job.part.stat().st_size <= (total or job.most_bytes)
    except (OSError, ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        job.restart()
        return
    job.have = job.continued = _hash(job.part, job.digest, cancel)
    job.validator, job.total = validator, total


def _hash(path: Path, digest: hashlib._Hash, cancel: CancelToken | None) -> int:
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            if cancel is not None:
                cancel.check("The download")
            digest.update(chunk)
            size += len(chunk)
    return size


async def _fetch(job: _Job, attempts: int, allow_http_loopback: bool) -> FetchedFile:
    misses, arrived = 0, False
    async with web_client(allow_http_loopback=allow_http_loopback) as client:
        while True:
            before = job.have
            try:
                with named_errors(job.url):
                    await _attempt(client, job)
                return _finish(job)
            except _StartOverError:
                continue
            except DownloadFailed as error:
                arrived = arrived or job.have > before
                kind = error.fields.get("kind")
                if kind not in _PASSING and not (kind == "unreachable" and arrived):
                    raise
                misses = 1 if job.have - before >= _PROGRESS_BYTES else misses + 1
                if misses >= attempts:
                    raise
                seconds = job.pause_seconds * 2 ** (misses - 1)
                job.report(
                    Progress(
                        job.step,
                        f"{error.fields['reason']}; next attempt in {seconds:.0f} s",
                        job.have,
                        job.total,
                        "bytes",
                    )
                )
                await asyncio.sleep(seconds)


class _StartOverError(Exception):
    """What is there is of no use; the next request asks for everything."""


async def _attempt(client: httpx.AsyncClient, job: _Job) -> None:
    """Ask for what is missing, and write what comes."""
    if job.total is not None and job.have == job.total:
        return
    # gzip would make the bytes, and their number, those of something else.
    headers = {"Accept-Encoding": "identity", "Accept": "application/octet-stream"}
    if job.have:
        headers |= {"Range": f"bytes={job.have}-"} | ({"If-Range": job.validator} if job.validator else {})
    request = client.build_request("GET", job.url, headers=headers)
    async with asyncio.timeout(job.stall_seconds):
        response = await client.send(request, stream=True)
    try:
        if _begins(job, response):
            await _receive(job, response)
    finally:
        await response.aclose()


def _begins(job: _Job, response: httpx.Response) -> bool:
    """Look at the answer's head; True when its body goes on where the part ends."""
    status, headers = response.status_code, response.headers
    if status == 416 and job.have:
        job.restart()
        raise _StartOverError
    if status not in (200, 206):
        raise refusal(str(response.url), status, headers)
    if headers.get("content-encoding", "identity") != "identity":
        raise failed("encoded", job.url, "the server compressed it though asked not to", "Use another mirror.")
    if headers.get("content-type", "").startswith("text/html"):
        fix = "Open a web page in a browser: the network may ask you to log in first."
        raise failed("web page", job.url, "a web page came in its place", fix)
    validator = _validator(headers)
    length = headers.get("content-length", "")
    if status == 206:
        _check_range(job, headers.get("content-range", ""), validator)
        return True
    if job.have:
        # The file has changed, or this server knows no ranges.
        job.restart()
    total = int(length) if length.isdigit() else None
    _check_size(job, total)
    check_disk(job.target.parent, (total or job.size_bytes or 0) + _SPARE_BYTES)
    job.restart()
    job.total, job.validator = total, validator
    write_atomic(job.journal, json.dumps({"url": shown(job.url), "validator": validator, "total": total}) + "\n")
    return True


def _check_range(job: _Job, text: str, validator: str) -> None:
    found = _RANGE.fullmatch(text)
    total = int(found[3]) if found and found[3] != "*" else None
    fits = found is not None and int(found[1]) == job.have and job.have > 0
    same = not (job.validator and validator and validator != job.validator)
    if not fits or not same or (job.total is not None and total != job.total):
        job.restart()
        if found is None or job.mended:
            raise failed("bad range", job.url, "the server sent another part than asked for", "Use another mirror.")
        job.mended = True
        raise _StartOverError
    job.total, job.joined = total, True
    _check_size(job, total)
    check_disk(job.target.parent, (total or job.have) - job.have + _SPARE_BYTES)


def _validator(headers: httpx.Headers) -> str:
    """What the same file would have again: a strong ETag, else the date; empty where there is neither."""
    etag = str(headers.get("etag", ""))
    return etag if etag.startswith('"') else str(headers.get("last-modified", ""))


def _check_size(job: _Job, total: int | None) -> None:
    if total is None:
        return
    if total > job.most_bytes:
        raise failed(
            "too large", job.url, f"it has {total:,} bytes, more than {job.most_bytes:,}", "Use another mirror."
        )
    if job.size_bytes is not None and total != job.size_bytes:
        job.restart()
        reason = f"it has {total:,} bytes in place of {job.size_bytes:,}"
        raise failed("wrong size", job.url, reason, "Try again later, or use another mirror.")


async def _receive(job: _Job, response: httpx.Response) -> None:
    # Without a chunk size: pieces are handed on as they come, and a cut loses none of them.
    chunks = aiter(response.aiter_raw())
    window, window_bytes, told = time.monotonic(), 0, 0.0
    with _open(job) as file:
        while True:
            async with asyncio.timeout(job.stall_seconds):
                chunk = await anext(chunks, b"")
            if not chunk:
                break
            _write(job, file, chunk)
            window_bytes += len(chunk)
            now = time.monotonic()
            if now - window >= job.stall_seconds:
                if window_bytes < _LEAST_BYTES_PER_SECOND * job.stall_seconds:
                    # The same as silence: the error says so.
                    raise TimeoutError
                window, window_bytes = now, 0
            if now - told > 0.1:
                job.report(Progress(job.step, job.target.name, job.have, job.total, "bytes"))
                told = now
    total = job.total if job.total is not None else job.size_bytes
    if total is not None and job.have != total:
        reason = f"{job.have:,} of {total:,} bytes arrived"
        raise failed("truncated", job.url, reason, "Start it again: it continues where it stopped.")


def _open(job: _Job) -> BinaryIO:
    return job.part.open("ab")


def _write(job: _Job, file: BinaryIO, chunk: bytes) -> None:
    if job.have + len(chunk) > (job.total if job.total is not None else job.size_bytes or job.most_bytes):
        job.restart()
        raise failed("too large", job.url, "more bytes came than were announced", "Use another mirror.")
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"The disk is full: {job.have / 1e6:,.0f} MB of {job.target.name} have arrived in {job.target.parent}.",
            fix="Free some space, then start it again: it continues where it stopped.",
            path=str(job.target.parent),
        ) from None
    job.digest.update(chunk)
    job.have += len(chunk)


def _finish(job: _Job) -> FetchedFile:
    """Check the bytes and give the file its name."""
    found = job.digest.hexdigest()
    if job.expected is not None and found != job.expected:
        pieces = job.joined and not job.mended
        job.restart()
        if pieces:
            # Two halves of different files, perhaps: once more, in one piece.
            job.mended = True
            raise _StartOverError
        raise ChecksumMismatch(
            f"{job.target.name} arrived wrong: its sha256 is {found}, and not {job.expected}.",
            fix="Start it again; if it stays so, do not use that mirror.",
            source=shown(job.url),
            expected=job.expected,
            found=found,
            kind="wrong digest",
        )
    with job.part.open("rb+") as file:
        os.fsync(file.fileno())
    job.part.replace(job.target)
    job.journal.unlink(missing_ok=True)
    job.report(Progress(job.step, job.target.name, job.have, job.have, "bytes", finished=True))
    return FetchedFile(job.target, found, job.have, job.sha256 is not None, job.continued)
