"""Fetching one file over https: resumable after anything, hashed over every byte, visible only when it is whole."""

from __future__ import annotations

from contextlib import ExitStack

from noa_lab.download._answer import StartOverError
from noa_lab.download._digest import RunningDigest
from noa_lab.download._faults import shown
from noa_lab.download._leftovers import continued, fits, ready, write_receipt
from noa_lab.download._order import FetchedFile, Order
from noa_lab.download._part import Part
from noa_lab.download._transfer import Transfer
from noa_lab.download._watch import REPORT_SECONDS, Watch
from noa_lab.download._write_out import WriteOut
from noa_lab.errors import ChecksumMismatch
from noa_lab.events import CancelToken, Report, silent

__all__ = ["fetch_file"]

_MOST_STARTS = 3


def fetch_file(
    order: Order, *, step: str = "Download", report: Report = silent, cancel: CancelToken | None = None
) -> FetchedFile:
    """Fetch a file over several connections. A cut is continued at once, and what a killed process left by the next call.

    Until it is whole and checked, its bytes are in `NAME.part` beside the target, and `NAME.part.journal` says which ones are here.
    The disk space is reserved before the first byte. The caller sees to it that two do not fetch the same target at a time.

    Continuing needs a sign that the file is still the same one: a strong ETag or a date (sent as If-Range), or a hash to check in the
    end. Without any it starts over.

    Args:
        order: What to fetch, and how.
        step: What the progress reports are called.
        report: Told about the progress, at most ten times a second.
        cancel: Stops it within a fraction of a second, or pauses it; what has arrived stays for the next call.

    Raises:
        DownloadFailed: When it does not arrive; `fields["kind"]` says why.
        ChecksumMismatch: When it arrives wrong; nothing of it is kept.
        DiskFull: When it does not fit; what has arrived stays for the next call.
        Cancelled: When `cancel` was.
    """
    watch = Watch(step, order.target.name, report, cancel)
    watch.check()
    order.target.parent.mkdir(parents=True, exist_ok=True)
    found = ready(order, watch.check)
    if found is not None:
        watch.finish(found.size_bytes)
        return found
    return _Fetch(order, watch).run()


class _PausedError(Exception):
    """The user asked for a pause."""


class _Fetch:
    """One call's way to the file, over cuts, pauses and new starts."""

    def __init__(self, order: Order, watch: Watch) -> None:
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
        """Fetch what is missing; it is hashed and brought to the disk along the way."""
        transfer = Transfer(self._order, self._part, whole=self._whole)
        with ExitStack() as stack:
            digest: RunningDigest | None = None

            def tick() -> None:
                nonlocal digest
                self._watch.check()
                self._part = transfer.part
                if digest is None and self._part is not None:
                    digest = stack.enter_context(RunningDigest(self._part.path, self._part.pieces))
                    stack.enter_context(WriteOut(self._part.path, self._part.pieces))
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
            found = digest.wait(REPORT_SECONDS)
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
