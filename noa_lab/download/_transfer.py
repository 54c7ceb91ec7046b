"""Fetching what is missing of a file over several connections at a time, until all is here or something is wrong."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from noa_lab.download._answer import Answer, StartOverError
from noa_lab.download._connections import Connections
from noa_lab.download._disk import check_disk
from noa_lab.download._faults import failed, shown
from noa_lab.download._journal import Facts, boot_id
from noa_lab.download._order import Order
from noa_lab.download._part import Part
from noa_lab.download._patience import Patience
from noa_lab.download._pieces import PIECE_BYTES, Claim
from noa_lab.errors import DownloadFailed

__all__ = ["Transfer"]

_CHUNK_BYTES = 2**17
"""Bytes that are read at a time; with 4 connections half a megabyte can be under way to the disk when the process is killed."""
_MOST_CLAIM_BYTES = 2**24
_LEAST_BYTES_PER_SECOND = 1024
_TICK_SECONDS = 0.1
_LEAVE_SECONDS = 1.0
_IDLE_SECONDS = 0.2


class Transfer:
    """The connections of one download at work.

    The first one finds out what the file is; only then do the others begin. Every thread ends with `run`, but for one that is just
    connecting: it ends with the time limit for that, and touches nothing.

    Args:
        order: What to fetch.
        part: What is here of it; None when nothing is.
        whole: Ask for the whole file at once; a cut cannot be continued.
    """

    def __init__(self, order: Order, part: Part | None, *, whole: bool = False) -> None:
        self._order = order
        self.part = part
        self._whole = whole
        self._before = part.pieces.here if part else 0
        self._connections = Connections(
            order.url,
            headers=order.headers,
            authorization=order.authorization,
            most=order.connections,
            stall_seconds=order.stall_seconds,
            allow_http_loopback=order.allow_http_loopback,
            advice=order.advice,
        )
        self._events: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._begun = False
        self.note = ""
        """What the connections wait for, in words."""

    @property
    def here(self) -> int:
        """Bytes that are here."""
        return self.part.pieces.here if self.part else 0

    def run(self, tick: Callable[[], None]) -> None:
        """Fetch everything.

        Args:
            tick: Called ten times a second; what it raises ends the transfer.

        Raises:
            DownloadFailed: When it does not arrive.
            DiskFull: When it does not fit.
            StartOverError: When what is here is of no use any more.
        """
        self._spawn(1)
        alive = 1
        try:
            while alive and not (self.part is not None and self.part.pieces.complete):
                try:
                    event = self._events.get(timeout=_TICK_SECONDS)
                except queue.Empty:
                    event = ""
                if isinstance(event, BaseException):
                    raise event
                if event == "begun":
                    alive += self._spawn(self._wanted() - 1)
                elif event == "ended":
                    alive -= 1
                tick()
        finally:
            self._end()

    def _wanted(self) -> int:
        """How many connections are worth having."""
        assert self.part is not None
        pieces = self.part.pieces
        if pieces.total is None:
            return 1
        return max(1, min(self._order.connections, -(-(pieces.total - pieces.here) // PIECE_BYTES)))

    def _spawn(self, count: int) -> int:
        for _ in range(count):
            thread = threading.Thread(target=self._work, name="noa-lab-download", daemon=True)
            self._threads.append(thread)
            thread.start()
        return max(count, 0)

    def _end(self) -> None:
        self._stop.set()
        self._connections.close()
        until = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    # ---- one connection

    def _work(self) -> None:
        """What each thread does: claim, fetch, again, until nothing is left to claim."""
        patience = Patience(self._order.attempts, self._order.pause_seconds)
        try:
            while not self._stop.is_set():
                claim = self._claim()
                if claim is None:
                    if self.part is None or not self.part.pieces.may_be_shared:
                        break
                    self._stop.wait(_IDLE_SECONDS)
                    continue
                try:
                    self._fetch(claim)
                except DownloadFailed as error:
                    seconds = patience.wait_after(error, self.here - self._before)
                    if seconds is None:
                        raise
                    self.note = f"{error.fields['reason']}; next attempt in {seconds:.0f} s"
                    self._stop.wait(seconds)
                finally:
                    if self.part is not None:
                        self.part.pieces.release(claim)
        except BaseException as error:
            if not self._stop.is_set():
                self._events.put(error)
        finally:
            self._events.put("ended")

    def _claim(self) -> Claim | None:
        if self.part is None:
            # Nobody knows yet how long the file is.
            return Claim(0, PIECE_BYTES)
        pieces = self.part.pieces
        # Of what is left: towards the end the claims become small, and all connections are done at about the same time.
        share = ((pieces.total or 0) - pieces.here) // (4 * self._order.connections)
        return pieces.claim(max(PIECE_BYTES, min(_MOST_CLAIM_BYTES, share)))

    def _fetch(self, claim: Claim) -> None:
        """Ask for a claim's bytes and write them as they come."""
        if self._whole and claim.at:
            reason = "the connection breaks off, and nothing tells whether the rest is of the same file"
            raise StartOverError(failed("cut", self._order.url, reason, advice=self._order.advice), whole=True)
        # Another connection may take over the claim's second half at any time: what was asked for stays what it was.
        asked = claim.end
        url, response = self._connections.ask(self._range(claim.at, asked))
        try:
            answer = Answer.check(url, response, claim.at, asked, advice=self._order.advice)
            if self._stop.is_set():
                return
            part = self._accept(answer, claim)
        except BaseException:
            response.close()
            raise
        total = part.pieces.total
        reach = min(asked, total) if answer.partial and asked is not None and total is not None else total
        whole = False
        try:
            whole = self._receive(answer, claim, part, reach)
        finally:
            answer.close(reuse=whole)

    def _range(self, start: int, end: int | None) -> dict[str, str]:
        if self._whole:
            return {}
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        facts = self.part.facts if self.part else None
        # Another host may count the versions of the same file in another way; where there is a hash, it will tell.
        if facts and facts.validator and (not facts.sha256 or self._connections.host == facts.host):
            headers["If-Range"] = facts.validator
        return headers

    def _accept(self, answer: Answer, claim: Claim) -> Part:
        """Hold an answer against what is known of the file; the first one says what that is."""
        part = self.part
        if part is None:
            part = self.part = self._begin(answer)
            part.pieces.adopt(claim)
        else:
            self._compare(part, answer)
            if not self._begun:
                self._check_space(part.missing_space)
        if not answer.partial:
            part.pieces.take_all(claim)
        if not self._begun:
            self._begun = True
            if answer.partial:
                self._events.put("begun")
        return part

    def _begin(self, answer: Answer) -> Part:
        """Make the part that the first answer is the beginning of."""
        order, total = self._order, answer.total
        if answer.partial and not (answer.validator or order.expected):
            reason = "nothing tells whether its parts belong together"
            raise StartOverError(failed("changed", answer.url, reason, advice=order.advice), whole=True)
        if total is not None and total > order.most_bytes:
            reason = f"it has {total:,} bytes, more than {order.most_bytes:,}"
            raise failed("too large", answer.url, reason, advice=order.advice)
        if order.size_bytes is not None and total not in (None, order.size_bytes):
            reason = f"it has {total:,} bytes in place of {order.size_bytes:,}"
            raise failed("wrong size", answer.url, reason, advice=order.advice)
        total = total if total is not None else order.size_bytes
        self._check_space(total or 0)
        facts = Facts(shown(order.url), total, answer.validator, answer.host, order.expected or "", boot_id())
        return Part.begin(order.target, facts)

    def _check_space(self, needed_bytes: int) -> None:
        order = self._order
        elsewhere = (order.advice or {}).get("disk full", "")
        check_disk(order.target.parent, needed_bytes + order.spare_bytes, elsewhere=elsewhere)

    def _compare(self, part: Part, answer: Answer) -> None:
        """See that it is still the same file."""
        facts = part.facts
        changed = failed(
            "changed", answer.url, "it became another file while it was fetched", advice=self._order.advice
        )
        if answer.total is not None and facts.total is not None and answer.total != facts.total:
            raise StartOverError(changed)
        if not answer.partial and (part.pieces.here or self._begun):
            reason = "the server cannot continue it, and the connection breaks off"
            same = answer.validator == facts.validator
            raise StartOverError(failed("cut", answer.url, reason, advice=self._order.advice) if same else changed)
        # Another host may count its versions in another way; the hash will tell whether it is the same file.
        elsewhere = answer.host != facts.host and bool(facts.sha256)
        if facts.validator and answer.validator and facts.validator != answer.validator and not elsewhere:
            raise StartOverError(changed)

    def _receive(self, answer: Answer, claim: Claim, part: Part, reach: int | None) -> bool:
        """Write an answer's body, which ends at `reach`; True when it was read to its end."""
        pieces, order = part.pieces, self._order
        window, before = time.monotonic(), claim.at
        with part.writer() as writer:
            while claim.left != 0:
                data = answer.read(_CHUNK_BYTES if claim.left is None else min(_CHUNK_BYTES, claim.left))
                if self._stop.is_set():
                    return False
                if not data:
                    break
                if claim.at + len(data) > order.most_bytes:
                    raise failed("too large", answer.url, "more bytes came than it may have", advice=order.advice)
                writer.write(claim, data)
                self.note = ""
                now = time.monotonic()
                if now - window >= order.stall_seconds:
                    if claim.at - before < _LEAST_BYTES_PER_SECOND * order.stall_seconds:
                        host = urlsplit(answer.url).hostname
                        raise failed("stalled", answer.url, f"{host} went silent", advice=order.advice)
                    window, before = now, claim.at
        if claim.end is None:
            pieces.end_here()
        elif claim.left:
            reason = f"{pieces.here:,} of {pieces.total:,} bytes arrived"
            raise failed("truncated", answer.url, reason, advice=order.advice)
        return reach is None or claim.at == reach
