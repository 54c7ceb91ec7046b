"""Fetching one file over https: resumable after anything, hashed over every byte, visible only when it is whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from noa_lab.download._answer import StartOverError
from noa_lab.download._digest import RunningDigest
from noa_lab.download._disk import SPARE_BYTES
from noa_lab.download._faults import Advice, shown
from noa_lab.download._leftovers import continued, fits, ready, write_receipt
from noa_lab.download._order import FetchedFile, Order
from noa_lab.download._part import Part
from noa_lab.download._rate import RateMeter
from noa_lab.download._transfer import Transfer
from noa_lab.errors import ChecksumMismatch
from noa_lab.events import CancelToken, Progress, Report, silent

__all__ = ["fetch_file"]

_REPORT_SECONDS = 0.1
_MOST_STARTS = 3


def fetch_file(
    url: str,
    target: Path,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    claimed_sha256: str | None = None,
    most_bytes: int = 2**40,
    headers: Mapping[str, str] | None = None,
    authorization: str | None = None,
    connections: int = 4,
    step: str = "Download",
    attempts: int = 3,
    stall_seconds: float = 30.0,
    pause_seconds: float = 0.5,
    spare_bytes: int = SPARE_BYTES,
    receipt: bool = False,
    allow_http_loopback: bool = False,
    advice: Advice | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> FetchedFile:
    """Fetch a file over several connections. A cut is continued at once, and what a killed process left by the next call.

    Until it is whole and checked, its bytes are in `NAME.part` beside the target, and `NAME.part.journal` says which ones are here.
    The disk space is reserved before the first byte. The caller sees to it that two do not fetch the same target at a time.

    Continuing needs a sign that the file is still the same one: a strong ETag or a date (sent as If-Range), or a hash to check in the
    end. Without any it starts over.

    Args:
        url: Its https address; redirects may lead to other hosts, never away from https.
        target: The file to make. One that is there already and has the right hash is used.
        size_bytes: The size that it must have; None where it is not known.
        sha256: The hash that it must have; None where there is none to trust.
        claimed_sha256: What the source itself says; checked, but no reason to call the file verified.
        most_bytes: Largest size.
        headers: Sent with every request, to every host.
        authorization: Value of the Authorization header, for the host of `url` and no other.
        connections: At most so many at a time; a server that knows no ranges gets one.
        step: What the progress reports are called.
        attempts: How often in a row a connection may fail while less than a megabyte arrives.
        stall_seconds: Seconds without a byte, or with less than 1 KiB per second, after which a server counts as stalled.
        pause_seconds: Wait before the second attempt; twice as long before each further one.
        spare_bytes: Disk space that must be left free.
        receipt: Where there is no hash to hold it against, leave the one that was found beside the target, in
            `NAME.receipt.json`, so that the next call need not fetch it again. Whoever asks for it removes it.
        allow_http_loopback: Also fetch from this very machine over http; for tests.
        advice: What to do, by kind of fault, where the general words do not fit.
        report: Told about the progress, at most ten times a second.
        cancel: Stops it within a fraction of a second, or pauses it; what has arrived stays for the next call.

    Raises:
        DownloadFailed: When it does not arrive; `fields["kind"]` says why.
        ChecksumMismatch: When it arrives wrong; nothing of it is kept.
        DiskFull: When it does not fit; what has arrived stays for the next call.
        Cancelled: When `cancel` was.
    """
    order = Order(
        url=url,
        target=target,
        size_bytes=size_bytes,
        sha256=sha256,
        claimed_sha256=claimed_sha256,
        most_bytes=most_bytes,
        headers=headers or {},
        authorization=authorization,
        connections=connections,
        attempts=attempts,
        stall_seconds=stall_seconds,
        pause_seconds=pause_seconds,
        spare_bytes=spare_bytes,
        receipt=receipt,
        allow_http_loopback=allow_http_loopback,
        advice=advice,
    )
    if cancel is not None:
        cancel.check("The download")
    target.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(step, target.name, report, cancel)
    found = ready(order, watch.check)
    if found is not None:
        watch.finish(found.size_bytes)
        return found
    return _Fetch(order, watch).run()


class _Watch:
    """Who is told, and who may stop it."""

    def __init__(self, step: str, name: str, report: Report, cancel: CancelToken | None) -> None:
        self._step, self._name, self._report = step, name, report
        self.cancel = cancel
        self._meter = RateMeter()
        self._told = 0.0

    @property
    def paused(self) -> bool:
        return self.cancel is not None and self.cancel.paused

    def check(self) -> None:
        if self.cancel is not None:
            self.cancel.check("The download")

    def tell(self, here: int, total: int | None, note: str = "") -> None:
        """Report the progress, unless that was just done."""
        now = time.monotonic()
        if now - self._told < _REPORT_SECONDS:
            return
        self._told = now
        rate = self._meter.rate(here, now)
        message = f"{self._name}: {note}" if note else self._name
        self._report(Progress(self._step, message, here, total, "bytes", rate=rate))

    def wait_while_paused(self, here: int, total: int | None) -> None:
        """Wait for the end of a pause, saying so."""
        assert self.cancel is not None
        self._report(Progress(self._step, f"{self._name}: paused", here, total, "bytes"))
        self.cancel.wait_while_paused("The download")
        self._meter.restart()

    def finish(self, size: int) -> None:
        self._report(Progress(self._step, self._name, size, size, "bytes", finished=True))


class _PausedError(Exception):
    """The user asked for a pause."""


class _Fetch:
    """One call's way to the file, over cuts, pauses and new starts."""

    def __init__(self, order: Order, watch: _Watch) -> None:
        self._order = order
        self._watch = watch
        self._part: Part | None = None
        self._continued: int | None = None
        """Bytes that were here before this call; 0 after a new start."""
        self._whole = False

    def run(self) -> FetchedFile:
        starts = 1
        while True:
            self._part = continued(self._order)
            if self._continued is None:
                self._continued = self._progress()[0]
            try:
                return self._attempt()
            except _PausedError:
                self._watch.wait_while_paused(*self._progress())
            except StartOverError as why:
                starts += 1
                self._continued, self._whole = 0, why.whole
                self._discard()
                if starts > _MOST_STARTS:
                    raise why.error from None
            finally:
                self._leave()

    def _progress(self) -> tuple[int, int | None]:
        return (self._part.pieces.here, self._part.pieces.total) if self._part else (0, self._order.size_bytes)

    def _discard(self) -> None:
        if self._part is not None:
            self._part.discard()
        self._part = None

    def _leave(self) -> None:
        """Let go of the part; one that cannot be continued is not kept."""
        part = self._part
        if part is not None and (part.pieces.here == 0 or not fits(self._order, part.facts)):
            part.discard()
        elif part is not None:
            part.close()

    def _attempt(self) -> FetchedFile:
        """Fetch what is missing, hashing along."""
        transfer = Transfer(self._order, self._part, whole=self._whole)
        with ExitStack() as stack:
            digest: RunningDigest | None = None

            def tick() -> None:
                nonlocal digest
                self._watch.check()
                self._part = transfer.part
                if digest is None and self._part is not None:
                    digest = stack.enter_context(RunningDigest(self._part.path, self._part.pieces))
                if self._watch.paused:
                    raise _PausedError
                self._watch.tell(*self._progress(), transfer.note)

            try:
                transfer.run(tick)
                tick()
            finally:
                self._part = transfer.part
            assert digest is not None
            found = self._hash(digest)
        return self._finish(found)

    def _hash(self, digest: RunningDigest) -> str:
        """Wait for the end of the hashing, which lags a little behind."""
        while True:
            found = digest.wait(_REPORT_SECONDS)
            if found is not None:
                return found
            self._watch.check()
            self._watch.tell(*self._progress(), "checking its sha256")

    def _finish(self, found: str) -> FetchedFile:
        """Hold the bytes against the hash, and give the file its name."""
        order, part = self._order, self._part
        assert part is not None
        size = part.pieces.here
        if order.expected is not None and found != order.expected:
            error = ChecksumMismatch(
                f"{order.target.name} arrived damaged, or is another file: its sha256 is {found}, not {order.expected}.",
                fix="Download it again; if the hash is wrong again, do not use this source.",
                source=shown(order.url),
                expected=order.expected,
                found=found,
                kind="wrong digest",
                reason="wrong sha256",
            )
            if self._continued:
                # Two halves of different files, or what a power failure left: once more, in one go.
                raise StartOverError(error)
            self._discard()
            raise error
        if order.receipt and order.expected is None:
            write_receipt(part.path, order, found)
        part.finish()
        self._watch.finish(size)
        return FetchedFile(order.target, found, size, order.sha256 is not None, self._continued or 0)
