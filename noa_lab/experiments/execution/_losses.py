"""Engines that go away: which errors say so, how often what they took along is tried again, and when that is given up."""

from __future__ import annotations

from noa_lab.errors import ServerExited, StreamBroken, Unreachable

__all__ = ["LOST", "REOPEN_SECONDS", "TRIES", "Losses"]

LOST = (Unreachable, StreamBroken, ServerExited)
"""Errors that say of an engine that it went away."""

TRIES = 3
"""How often one question may lose the engine before it is given up."""

REOPEN_SECONDS = 0.2
"""Pause before an engine is opened again."""

_OUTAGE = 6


class Losses:
    """Counts how often an engine went away with no answer in between."""

    def __init__(self) -> None:
        self._count = 0

    def answered(self) -> None:
        """An answer came."""
        self._count = 0

    def count(self, error: Exception) -> None:
        """An engine went away.

        Raises:
            Unreachable, ServerExited: The error itself, when nothing answers any more: that is no fault of the questions, which would
                fail one after the other.
        """
        self._count += 1
        if self._count >= _OUTAGE and isinstance(error, Unreachable | ServerExited):
            raise error
