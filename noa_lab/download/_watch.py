"""Who is told how a download goes, and who may pause or stop it."""

from __future__ import annotations

import time

from noa_lab.download._rate import RateMeter
from noa_lab.events import CancelToken, Progress, Report

__all__ = ["REPORT_SECONDS", "Watch"]

REPORT_SECONDS = 0.1
"""How often it is told, at most."""


class Watch:
    """The other end of a download: a report, and a token that stops it.

    Args:
        step: What the progress reports are called.
        name: What is fetched.
        report: Who is told.
        cancel: Who may stop it, or pause it.
    """

    def __init__(self, step: str, name: str, report: Report, cancel: CancelToken | None) -> None:
        self._step, self._name, self._report = step, name, report
        self._cancel = cancel or CancelToken()
        self._meter = RateMeter()
        self._told = 0.0

    @property
    def paused(self) -> bool:
        """Whether a pause is asked for."""
        return self._cancel.paused

    def check(self) -> None:
        """Raise `Cancelled` if it was."""
        self._cancel.check("The download")

    def tell(self, here: int, total: int | None, note: str = "") -> None:
        """Report the progress, unless that was just done.

        Args:
            here: Bytes that are here.
            total: Bytes that there will be; None where that is not known.
            note: What is to be said beside the name.
        """
        now = time.monotonic()
        if now - self._told < REPORT_SECONDS:
            return
        self._told = now
        rate = self._meter.rate(here, now)
        message = f"{self._name}: {note}" if note else self._name
        self._report(Progress(self._step, message, here, total, "bytes", rate=rate))

    def wait_while_paused(self, here: int, total: int | None) -> None:
        """Wait for the end of a pause, saying so.

        Raises:
            Cancelled: When it was.
        """
        self._report(Progress(self._step, f"{self._name}: paused", here, total, "bytes"))
        self._cancel.wait_while_paused("The download")
        self._meter.restart()

    def finish(self, size: int) -> None:
        """Report the end."""
        self._report(Progress(self._step, self._name, size, size, "bytes", finished=True))
