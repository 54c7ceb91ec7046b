"""How many lanes are at work at once: all of them, or one where answers are so short that side by side is clearly slower here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Sample", "Width"]

_SHORT = 16
"""Tokens of an answer from which on side by side is taken to be faster: generating together saves more than anything costs."""

_ALONE = 4
"""Requests by which the pace of one lane is measured."""

_ROUNDS = 2
"""Requests for each lane by which the pace of all of them is measured."""

_ENOUGH = 4
"""Questions for each lane that must be waiting: with fewer it is not worth finding out."""

_CLEARLY = 1.1
"""How many times the pace of one lane the pace of all of them must be, for one lane to be taken."""

_TRIES = 3


@dataclass(slots=True, eq=False)
class Sample:
    """Some requests that follow each other while nothing else is done.

    Attributes:
        width: Lanes that may be at work.
        left: Requests that have not begun.
        began: When the first one began, in seconds.
        at_work: Requests that have begun and are not over.
        tokens: Tokens evaluated and generated for those that are over.
        spoiled: Whether something else was done meanwhile, so that the time says nothing.
    """

    width: int
    left: int
    began: float | None = None
    at_work: int = 0
    tokens: int = 0
    spoiled: bool = False


class Width:
    """Finds out whether short answers are given faster one at a time or side by side, and then has it done so.

    llama-server evaluates the ends of several prompts, which differ in length, in more passes than the end of one, and these hold up the
    answers that grow. For long answers that is little beside what generating them together saves; for a few tokens it depends on the
    machine, the model and the prompts. So it is measured: a sample of requests on one lane, then one on all lanes, by the time for each
    token, evaluated or generated. Both begin and end with nothing at work. All lanes it is, too, where no sample stays undisturbed: where
    a beginning has to be evaluated for every few prompts, for example.

    Args:
        lanes: How many lanes there are.

    Attributes:
        best: Lanes that short answers are given by; None while that is not known.
        paces: Milliseconds a token on one lane and on all of them; None while that is not measured.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self.best: int | None = None if lanes > 1 else 1
        self.paces: tuple[float, float] | None = None
        self._tries = _TRIES
        self._alone_ms = 0.0
        self._sample = self._new_sample(1)

    def _new_sample(self, width: int) -> Sample:
        return Sample(width, _ALONE if width == 1 else _ROUNDS * self._lanes)

    def now(self, longest: int, waiting: int) -> int:
        """Lanes that may be at work.

        Args:
            longest: Tokens that an answer has at most, as far as is known.
            waiting: Questions that have not begun.
        """
        if not self._measures(longest, waiting):
            return self.best if self.best is not None and longest < _SHORT else self._lanes
        return self._sample.width if self._sample.left else 0

    def _measures(self, longest: int, waiting: int) -> bool:
        begun = self._sample.width > 1 or self._sample.began is not None
        return self.best is None and longest < _SHORT and (begun or waiting >= _ENOUGH * self._lanes)

    def begin(self, longest: int, waiting: int, answers: int, now: float) -> Sample | None:
        """A request begins.

        Args:
            longest: As for `now`.
            waiting: As for `now`.
            answers: Answers that it asks for.
            now: The time, in seconds.

        Returns:
            The sample that it belongs to, for `end`; None where it belongs to none.
        """
        if not self._measures(longest, waiting):
            return None
        if answers > 1:
            self.best = self._lanes  # several answers to one prompt grow side by side in any case
            return None
        sample = self._sample
        if sample.began is None:
            sample.began = now
        sample.left -= 1
        sample.at_work += 1
        return sample

    def end(self, sample: Sample | None, now: float, tokens: int | None) -> None:
        """A request is over.

        Args:
            sample: As `begin` gave it.
            now: The time, in seconds.
            tokens: Tokens evaluated and generated for it; None where it failed.
        """
        if sample is None:
            return
        sample.at_work -= 1
        sample.tokens += tokens or 0
        if tokens is None:
            self._spoil(sample)
        elif not sample.at_work and not sample.left:
            self._over(sample, now)

    def disturbed(self) -> None:
        """Something else is done, or has been."""
        if self._sample.began is not None:
            self._spoil(self._sample)

    def _spoil(self, sample: Sample) -> None:
        sample.spoiled, sample.left = True, 0
        if not sample.at_work:
            self._over(sample, 0.0)

    def _over(self, sample: Sample, now: float) -> None:
        if self.best is not None:
            return
        if sample.spoiled:
            self._tries -= 1
            self._sample = self._new_sample(sample.width)
            if not self._tries:
                self.best = self._lanes
            return
        pace = 1000 * (now - (sample.began or 0.0)) / max(1, sample.tokens)
        if sample.width == 1:
            self._alone_ms, self._sample = pace, self._new_sample(self._lanes)
            return
        self.paces = self._alone_ms, pace
        self.best = 1 if pace > _CLEARLY * self._alone_ms else self._lanes
