"""Whether a llama-server that has ended is started again, and whether one that is up still lives. Decisions only: no process, no clock.

A restart helps where the fault may be gone: a kill, a crash, a hang. It does not help against a file that is no model, an option that
is not understood or a processor that lacks an instruction. Three failures in a row are the end (a circuit breaker): a request that
kills its server would kill each new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from noa_lab.server._exits import ExitReason
from noa_lab.server._vitals import Vitals

__all__ = ["FAILURES", "HangWatch", "RestartPolicy", "Sight", "SlotSight"]

FAILURES = 3
"""Failures in a row after which a server is not started again."""

STEADY_SECONDS = 60.0
"""A server that was ready for this long has recovered: the next failure is the first of a new row."""

DELAYS = (0.2, 1.0)
"""Seconds before the first and the second restart of a row."""

BUSY_FACTOR = 10
"""A server that computes without answering gets this many times the patience: one long batch is computed in one piece."""

WORKING_CORES = 0.05
"""Processor use, in cores, from which a process counts as computing; what idle threads use is far below."""

LONGEST_STEP = 0.5
"""Share of the patience that one look can take, its answer included. What is longer is time in which nobody looked (the machine slept,
the watcher was stopped or waited for a processor), which proves nothing against llama-server."""

_HOPELESS = frozenset(("model", "argument", "library", "cpu", "start", "port"))


class RestartPolicy:
    """Counts failures and says after how long to try again."""

    def __init__(self) -> None:
        self.failures = 0
        """Failures of the present row."""

    def after(self, reason: ExitReason, *, ready_seconds: float | None) -> float | None:
        """What to do after an end that nobody asked for.

        Args:
            reason: Why it ended.
            ready_seconds: How long it had been ready; None when it never was.

        Returns:
            Seconds to wait before it is started again, or None when it is not.
        """
        if ready_seconds is not None and ready_seconds >= STEADY_SECONDS:
            self.failures = 0
        self.failures += 1
        refused = reason.kind == "memory" and (reason.exit_code or 0) > 0 and ready_seconds is None
        if reason.kind in _HOPELESS or refused or self.failures >= FAILURES:
            return None
        return DELAYS[self.failures - 1]


@dataclass(frozen=True, slots=True)
class SlotSight:
    """One slot at one moment.

    Attributes:
        id: Its number.
        busy: Whether it works on a request.
        task: Number of its present or last request.
        read: Prompt tokens read for it so far.
        written: Tokens generated for it so far.
        context_size: Tokens that it can hold.
    """

    id: int
    busy: bool
    task: int
    read: int
    written: int
    context_size: int = 0


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a llama-server.

    Attributes:
        at: When, in seconds of a monotonic clock.
        vitals: How its process does; None when it is gone.
        answered: Whether it answered the question asked with the look: /slots, or /health while it loads.
        slots: Its slots; empty while it loads, or when it did not answer.
    """

    at: float
    vitals: Vitals | None
    answered: bool
    slots: tuple[SlotSight, ...] = ()


class HangWatch:
    """Judges, look by look, whether a llama-server still lives.

    /slots is answered between two batches by the loop that computes, so that an answer proves the loop alive, and a change in it
    that a request advances; /health is answered by another thread and proves nothing about the loop. Without an answer, processor time
    or bytes read prove that it computes or loads.

    Args:
        budget: Seconds without a sign of life after which it counts as hung; ten times that while it computes.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._last: Sight | None = None
        self._lived_at = 0.0
        self._worked_at = 0.0
        self._progress: tuple[tuple[int, int, int], ...] = ()

    def look(self, sight: Sight, *, loading: bool) -> str | None:
        """Take in a look.

        Returns:
            In words, why it counts as hung, or None while it does not.
        """
        before, self._last = self._last, sight
        if before is None:
            self._lived_at = self._worked_at = sight.at
            return None
        unseen = max(0.0, sight.at - before.at - self._budget * LONGEST_STEP)
        self._lived_at += unseen
        self._worked_at += unseen
        if sight.vitals is None:
            return None  # gone: others notice
        if _worked(before, sight):
            self._worked_at = sight.at
        if sight.answered and not loading:
            progress = tuple((slot.task, slot.read, slot.written) for slot in sight.slots if slot.busy)
            if not progress or progress != self._progress:
                self._progress, self._lived_at = progress, sight.at
        silent = sight.at - self._lived_at
        idle = sight.at - max(self._lived_at, self._worked_at)
        if idle < self._budget and (loading or silent < self._budget * BUSY_FACTOR):
            return None
        if sight.answered and not loading:
            return f"its requests have not advanced for {silent:.0f} s"
        stopped = " (it is stopped by a signal)" if sight.vitals.stopped else ""
        return f"it has given no sign of life for {idle if idle >= self._budget else silent:.0f} s{stopped}"


def _worked(before: Sight, now: Sight) -> bool:
    """Whether the process has computed or read between two looks."""
    if before.vitals is None or now.vitals is None:
        return False
    seconds = max(1e-3, now.at - before.at)
    cores = (now.vitals.cpu_seconds - before.vitals.cpu_seconds) / seconds
    read = now.vitals.read_bytes > before.vitals.read_bytes or now.vitals.mapped_bytes > before.vitals.mapped_bytes
    return cores >= WORKING_CORES or read
