"""How long work tells where it is, and how it is told to stop.

Work takes a `report` callable and sends it `Progress`; a widget, the terminal and a script each draw it in their own way. Work that
can be cancelled takes a `CancelToken` and asks it between steps. Nothing here knows who listens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from noa_lab.errors import Cancelled

__all__ = ["CancelToken", "Progress", "Report", "silent"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of progress.

    Attributes:
        step: Short name of the step, stable over its reports (for example "Build llama.cpp").
        message: What is going on, in words; may be empty.
        done: How much is done, in `unit`; None where it cannot be counted.
        total: How much there is, in `unit`; None where it is not known.
        unit: "bytes", "files", "cells" or empty.
        finished: True on the last report of the step.
        at: Wall-clock time of the report, seconds since the epoch.
    """

    step: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    finished: bool = False
    at: float = field(default_factory=time.time)

    @property
    def fraction(self) -> float | None:
        """Share done, from 0 to 1, or None where it is not known."""
        if self.done is None or not self.total:
            return None
        return min(1.0, self.done / self.total)


Report = Callable[[Progress], None]
"""What takes `Progress`. It may be called from any thread and must return at once."""


def silent(progress: Progress) -> None:
    """A `Report` that ignores what it is told."""
    del progress


class CancelToken:
    """Asks work to stop; thread-safe, and cannot be taken back."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next safe point."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep for up to `seconds`, or until cancelled; returns whether it was."""
        return self._event.wait(seconds)

    def check(self, what: str = "The work") -> None:
        """Raise `Cancelled` if `cancel` was called."""
        if self.cancelled:
            raise Cancelled(f"{what} was cancelled.", fix="Start it again to continue where it stopped.")
