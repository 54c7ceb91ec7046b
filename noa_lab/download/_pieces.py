"""Which bytes of a file are here, and who fetches which of the others.

A file is cut into pieces of 1 MiB. Each piece fills up from its start, so that one number a piece says what is here. A connection
claims a run of pieces from the front of what is missing: the bytes without a gap, which alone can be hashed, grow with the whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["PIECE_BYTES", "Claim", "Pieces"]

PIECE_BYTES = 2**20
_SLOW_SECONDS = 3.0
"""A claim that will take longer than this is shared with a connection that has nothing to do."""


@dataclass(slots=True, eq=False)
class Claim:
    """A run of bytes that one connection fetches.

    Attributes:
        start: First byte.
        end: Byte after the last; None up to the end of a file whose size is not known. It may come nearer when another connection
            takes over the second half.
        at: The next byte to come.
    """

    start: int
    end: int | None
    at: int = -1
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.at = self.start if self.at < 0 else self.at

    @property
    def left(self) -> int | None:
        """Bytes that are still to come; None where that is not known."""
        return None if self.end is None else self.end - self.at


class Pieces:
    """The pieces of one file; thread-safe.

    Args:
        total: Size of the file; None where it is not known: then one connection fetches it from front to back.
        done: Bytes that are here of each piece.
        on_change: Called under the lock with the number of a piece and the bytes of it that are here.
    """

    def __init__(
        self, total: int | None, done: Iterable[int] = (), *, on_change: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        self.total = total
        self._done = list(done)
        if total is not None:
            self._done += [0] * (-(-total // PIECE_BYTES) - len(self._done))
        self._on_change = on_change
        self._claims: list[Claim] = []
        self._here = sum(self._done)
        self._first = 0
        """The first piece that is not whole."""
        self._lock = threading.Lock()
        """Guards all of the above."""

    @property
    def here(self) -> int:
        """Bytes that are here."""
        return self._here

    @property
    def complete(self) -> bool:
        """Whether all are."""
        return self.total is not None and self._here == self.total

    @property
    def prefix(self) -> int:
        """Bytes that are here without a gap from the start."""
        with self._lock:
            return self._prefix()

    def _prefix(self) -> int:
        while self._first < len(self._done) and self._done[self._first] == self._size(self._first):
            self._first += 1
        if self._first == len(self._done):
            return self._here
        return self._first * PIECE_BYTES + self._done[self._first]

    def _size(self, piece: int) -> int:
        return PIECE_BYTES if self.total is None else min(PIECE_BYTES, self.total - piece * PIECE_BYTES)

    def claim(self, most_bytes: int) -> Claim | None:
        """Take a run of missing bytes; None when there is nothing to take.

        Args:
            most_bytes: How many at most, in whole pieces; at least one piece is taken.
        """
        with self._lock:
            found = self._free(most_bytes) or self._half()
            if found is not None:
                self._claims.append(found)
            return found

    def _free(self, most_bytes: int) -> Claim | None:
        start = self._prefix()
        if self.total is None:
            return None if self._claims else Claim(start, None)
        taken = sorted((claim.start // PIECE_BYTES, -(-(claim.end or 0) // PIECE_BYTES)) for claim in self._claims)
        piece, pieces = self._first, len(self._done)
        while piece < pieces:
            over = next((end for begin, end in taken if begin <= piece < end), None)
            if over is not None:
                piece = over
            elif self._done[piece] == self._size(piece):
                piece += 1
            else:
                break
        if piece >= pieces:
            return None
        limit = min([begin for begin, _ in taken if begin > piece], default=pieces)
        last = piece + 1
        while last < limit and self._done[last] == 0 and (last + 1 - piece) * PIECE_BYTES <= most_bytes:
            last += 1
        return Claim(piece * PIECE_BYTES + self._done[piece], min(last * PIECE_BYTES, self.total))

    def _half(self) -> Claim | None:
        """The second half of the claim that will take longest."""
        slowest, longest = None, _SLOW_SECONDS
        for claim in self._claims:
            left, age = claim.left or 0, time.monotonic() - claim.began
            if age < _SLOW_SECONDS:
                continue  # nobody knows yet
            rate = (claim.at - claim.start) / age
            if left >= 2 * PIECE_BYTES and left > longest * rate:
                slowest, longest = claim, left / max(rate, 1.0)
        if slowest is None or slowest.end is None:
            return None
        middle = -(-(slowest.at + (slowest.end - slowest.at) // 2) // PIECE_BYTES) * PIECE_BYTES
        second, slowest.end = Claim(middle, slowest.end), middle
        return second

    @property
    def may_be_shared(self) -> bool:
        """Whether a claim is long enough that somebody may get its second half later, should it be slow."""
        with self._lock:
            return any((claim.left or 0) >= 2 * PIECE_BYTES for claim in self._claims)

    def take_all(self, claim: Claim) -> None:
        """Let a claim reach to the end of the file: its server sends all of it whatever is asked for."""
        with self._lock:
            claim.end = self.total

    def adopt(self, claim: Claim) -> None:
        """Register a claim that was made before the size was known."""
        with self._lock:
            if self.total is not None and claim.end is not None:
                claim.end = min(claim.end, self.total)
            self._claims.append(claim)

    def advance(self, claim: Claim, count: int) -> None:
        """Note that the next `count` bytes of a claim are on the disk."""
        with self._lock:
            while count:
                piece, inside = divmod(claim.at, PIECE_BYTES)
                step = min(count, PIECE_BYTES - inside)
                if piece == len(self._done):
                    self._done.append(0)
                self._done[piece] = inside + step
                self._here += step
                claim.at += step
                count -= step
                self._on_change(piece, inside + step)

    def release(self, claim: Claim) -> None:
        """Give back what a claim has not fetched."""
        with self._lock:
            if claim in self._claims:
                self._claims.remove(claim)

    def end_here(self) -> None:
        """Note that a file of unknown size has ended."""
        with self._lock:
            self.total = self._here
