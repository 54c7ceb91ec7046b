"""How many lanes are at work at once: all of them, or one where answers are so short that side by side is slower here."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Width"]

_SHORT = 16
"""Tokens of an answer from which on side by side is always faster: what generating together saves, no prompt costs."""

_ALONE = 4
"""Answers by which the pace of one lane is measured."""


class Width:
    """Finds out whether short answers are given faster one at a time or side by side, and then has it done so.

    llama-server evaluates the ends of several prompts, which differ in length, in more passes than the end of one, and these hold up the
    answers that grow. For long answers that is little beside what generating them together saves; for a few tokens it depends on the
    machine, the model and the prompts. So it is measured: some answers on one lane, then as many on all of them as there are lanes, by
    the time for each token, evaluated or generated.

    Args:
        lanes: How many lanes there are.
        length: Gives the tokens that an answer is expected to have.
    """

    def __init__(self, lanes: int, length: Callable[[], float]) -> None:
        self._lanes, self._length = lanes, length
        self._alone, self._together = _Pace(), _Pace()
        self._best: int | None = None
        self._since: float | None = None
        """When the last of the answers side by side came; None where something else was done after it."""
        self._first = lanes
        """Answers side by side that do not count: lanes do not begin all at once."""

    @property
    def now(self) -> int:
        """Lanes that may be at work."""
        if self._length() >= _SHORT:
            return self._lanes
        if self._best is not None:
            return self._best
        return 1 if self._alone.answers < _ALONE else self._lanes

    def answered(self, width: int, began: float, ended: float, tokens: int) -> None:
        """Learn from a question that was answered.

        Args:
            width: Lanes that were allowed to be at work when it began.
            began: When that was, in seconds.
            ended: When its answers were there.
            tokens: Tokens evaluated and generated for it.
        """
        if self._length() >= _SHORT or self._best is not None:
            return
        if width == 1:
            self._alone.add(ended - began, tokens)
            self._first = self._lanes
            return
        if self._first:
            self._first -= 1
        elif self._since is not None:
            self._together.add(ended - self._since, tokens)
        self._since = ended
        if self._alone.answers >= _ALONE and self._together.answers >= self._lanes:
            self._best = self._lanes if self._together.milliseconds < self._alone.milliseconds else 1

    @property
    def paces(self) -> tuple[float, float] | None:
        """Milliseconds a token on one lane and on all of them; None until both are measured."""
        return None if self._best is None else (self._alone.milliseconds, self._together.milliseconds)

    def disturbed(self) -> None:
        """Something else has been done, and the time that it took is no answer's."""
        self._since = None


class _Pace:
    """What some answers took.

    Attributes:
        answers: Questions answered.
    """

    def __init__(self) -> None:
        self.answers = self._tokens = 0
        self._seconds = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        self.answers += 1
        self._seconds += seconds
        self._tokens += max(1, tokens)

    @property
    def milliseconds(self) -> float:
        """For each token."""
        return 1000 * self._seconds / self._tokens
