"""How long work tells where it is, and how it is told to stop.

Work takes a `report` callable and sends it `Progress`; a widget, the terminal and a script each draw it in their own way. Work that
can be cancelled takes a `CancelToken` and asks it between steps; some of it (downloads) can be paused by the same token. Nothing here
knows who listens.
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
        rate: How fast it goes lately, in `unit` per second; None where it is not measured.
    """

    step: str
    message: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    finished: bool = False
    at: float = field(default_factory=time.time)
    rate: float | None = None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it is done at the present rate; None where that cannot be told."""
        if self.finished:
            return 0.0
        if self.done is None or not self.total or not self.rate:
            return None
        return max(0.0, self.total - self.done) / self.rate

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
    """Asks work to stop, or to pause; thread-safe. A pause can be taken back, a cancel cannot.

    Work that cannot pause goes on while `paused` is set; downloads let go of the network and keep what has arrived.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._lock = threading.Lock()
        """Keeps a pause from coming after a cancel: cancelled work must not wait."""

    def cancel(self) -> None:
        """Ask the work to stop at its next safe point, also where it is paused."""
        with self._lock:
            self._event.set()
            self._going.set()

    def pause(self) -> None:
        """Ask the work to pause at its next safe point. It does nothing after `cancel`."""
        with self._lock:
            if not self.cancelled:
                self._going.clear()

    def resume(self) -> None:
        """Let paused work go on."""
        self._going.set()

    @property
    def paused(self) -> bool:
        """Whether the work is asked to pause."""
        return not self._going.is_set()

    def wait_while_paused(self, what: str = "The work") -> None:
        """Return at once, or as soon as the pause is over.

        Raises:
            Cancelled: When `cancel` was.
        """
        self._going.wait()
        self.check(what)

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
