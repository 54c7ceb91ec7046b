"""From token bytes to text: characters that are split over tokens, and stop texts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

__all__ = ["TextCutter"]


class TextCutter:
    """Turns bytes into text that can be shown at once, holding back what may still become a stop text or a whole character.

    Args:
        stops: Texts that end the answer; the earliest in the text counts.

    Attributes:
        stopped: Whether a stop text was found; nothing comes after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Take the bytes of one token; returns the text that is certain now."""
        self._held += self._decoder.decode(piece)
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            sure, self._held = self._held[: min(found)], ""
            return sure
        keep = self._longest_beginning()
        sure, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return sure

    def flush(self) -> str:
        """The text held back, at the end of the answer; half a character is dropped."""
        rest, self._held = self._held, ""
        return rest

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop text begins."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for size in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
