"""What a llama-server has to do and does, as the looks at it show: how far its loading is, how fast it generates."""

from __future__ import annotations

from typing import Any

from noa_lab.server._supervision import Sight

__all__ = ["Activity"]

_NOTED_STEP = 0.01


class Activity:
    """Follows one llama-server's loading and generating from look to look.

    Args:
        model_bytes: Size of the model's file; 0 where it is not known.
    """

    def __init__(self, model_bytes: int) -> None:
        self._model_bytes = model_bytes
        self._last: Sight | None = None
        self._answered: Sight | None = None
        """The last look that was answered: only such ones know the slots."""
        self._noted = -1.0
        self.phase = ""
        """What it does while it loads, in words."""
        self.tokens_per_second = 0.0
        """Tokens generated a second between the last two looks that were answered, all slots together; 0 when none was."""
        self.peak_bytes = 0
        """The most memory it was seen with."""

    @property
    def loaded(self) -> float | None:
        """Share of the model's file that is in memory, about; None where it cannot be told."""
        if not self._model_bytes or self._last is None or self._last.vitals is None:
            return None
        vitals = self._last.vitals
        return min(0.99, max(vitals.mapped_bytes, vitals.read_bytes) / self._model_bytes)

    def look(self, sight: Sight) -> None:
        """Take in a look."""
        self._last = sight
        if sight.vitals is not None:
            self.peak_bytes = max(self.peak_bytes, sight.vitals.peak_bytes)
        if sight.answered:
            before, self._answered = self._answered, sight
            if before is not None:
                self.tokens_per_second = _written(before, sight) / max(1e-3, sight.at - before.at)

    def news(self) -> dict[str, Any] | None:
        """The progress of loading as a message, when there is more than was told last."""
        loaded = self.loaded
        if loaded is None or loaded < self._noted + _NOTED_STEP:
            return None
        self._noted = loaded
        done = int(loaded * self._model_bytes)
        words = self.phase or "reading the model"
        return {"event": "progress", "message": words, "done": done, "total": self._model_bytes, "unit": "bytes"}

    def facts(self, *, loading: bool) -> dict[str, Any]:
        """What a status tells of it, ready for JSON."""
        last = self._last
        return {
            "phase": self.phase if loading else "",
            "loaded": self.loaded if loading else None,
            "tokens_per_second_now": 0.0 if loading else round(self.tokens_per_second, 2),
            "memory_bytes": last.vitals.memory_bytes if last is not None and last.vitals is not None else 0,
            "memory_peak_bytes": self.peak_bytes,
        }


def _written(before: Sight, now: Sight) -> int:
    """Tokens generated between two looks, by the requests that are still at work."""
    earlier = {(slot.id, slot.task): slot.written for slot in before.slots}
    return sum(max(0, slot.written - earlier.get((slot.id, slot.task), 0)) for slot in now.slots if slot.busy)
