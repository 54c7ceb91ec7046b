"""How often a connection tries again, and how long it waits before that."""

from __future__ import annotations

import time

from noa_lab.download._pieces import PIECE_BYTES
from noa_lab.errors import DownloadFailed

__all__ = ["Patience"]

_PASSING = frozenset({"cut", "stalled", "server", "truncated", "rate limit"})
_MOST_WAIT_SECONDS = 120.0
"""A server that wants a longer pause is not waited for."""


class Patience:
    """The patience of one connection: it grows again with each megabyte that arrives.

    Args:
        attempts: How often in a row it may fail within one megabyte.
        pause_seconds: Wait before the second attempt; twice as long before each further one.
    """

    def __init__(self, attempts: int, pause_seconds: float) -> None:
        self._attempts = attempts
        self._pause = pause_seconds
        self._misses = 0
        self._before = 0

    def wait_after(self, error: DownloadFailed, arrived: int) -> float | None:
        """Seconds to wait before the next attempt; None when there should be none.

        Args:
            error: How the last attempt ended.
            arrived: Bytes that this call has fetched so far, over all connections.
        """
        kind = error.fields.get("kind")
        if kind not in _PASSING and not (kind == "unreachable" and arrived):
            return None
        self._misses = 1 if arrived - self._before >= PIECE_BYTES else self._misses + 1
        self._before = max(arrived, self._before)
        asked = error.fields.get("resets_at")
        seconds = max(asked - time.time(), 0.0) if isinstance(asked, float) else 0.0
        if self._misses >= self._attempts or seconds > _MOST_WAIT_SECONDS:
            return None
        return max(seconds, self._pause * 2.0 ** (self._misses - 1))
