"""How fast bytes come: the average of the last seconds."""

from __future__ import annotations

import time
from collections import deque

__all__ = ["RateMeter"]

_WINDOW_SECONDS = 5.0
_LEAST_SECONDS = 0.2


class RateMeter:
    """Tells a rate from counts and the times they were seen at; what was here at the start does not count."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def restart(self) -> None:
        """Forget the past, after a pause or a new start."""
        self._seen.clear()

    def rate(self, count: int, now: float | None = None) -> float | None:
        """Counts per second over the last 5 seconds; None while too little was seen.

        Args:
            count: The count now.
            now: The time now, in seconds of a clock that never goes back.
        """
        now = time.monotonic() if now is None else now
        if self._seen and count < self._seen[-1][1]:
            self.restart()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        begin, before = self._seen[0]
        return None if now - begin < _LEAST_SECONDS else (count - before) / (now - begin)
