"""What lanes are, and what they can be told to do.

A lane is a slot of llama-server that is only used through a schedule, so that what it holds is known: the tokens of its last prompt.
A schedule decides which lane does what next; no input or output happens there. There are two, see `CopyingSchedule` and
`PinnedSchedule`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field

from noa_lab.inference.batch._prefixes import common

__all__ = ["Ask", "Job", "Lane", "Prepare", "Question", "Schedule"]


@dataclass(slots=True, eq=False)
class Question:
    """A prompt, and how many answers are still to be asked for.

    Attributes:
        number: Its number.
        tokens: Its prompt, packed.
        answers: Answers that nobody was asked for yet.
        asked: Answers that were.
    """

    number: int
    tokens: bytes
    answers: int
    asked: int = 0


@dataclass(slots=True, eq=False)
class Lane:
    """One slot.

    Attributes:
        number: Its number.
        held: The beginning of what it holds for certain, packed.
        busy: Whether it does something.
    """

    number: int
    held: bytes = b""
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Prepare:
    """Evaluate a trunk on a lane and save it.

    Attributes:
        lane: The lane.
        trunk: Number of the trunk, by which it is saved.
        tokens: Its tokens, packed.
        restore: Number of the saved trunk to put into the lane first, or None.
        reuse: Tokens that need not be evaluated then.
    """

    lane: int
    trunk: int
    tokens: bytes = field(repr=False)
    restore: int | None
    reuse: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a question on a lane.

    Attributes:
        lane: The lane.
        question: Number of the question.
        first: The first of its answers that is asked for; 0 if none was before.
        count: How many answers are asked for at once.
        children: Lanes that take the answers after the first; the prompt is copied into them.
        restore: Number of the saved trunk to put into the lane first, or None.
        reuse: Tokens of the prompt that need not be evaluated then.
    """

    lane: int
    question: int
    first: int
    count: int
    children: tuple[int, ...]
    restore: int | None
    reuse: int


Job = Prepare | Ask


class Schedule(abc.ABC):
    """Decides what the lanes do next.

    Args:
        lanes: How many lanes there are.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = [Lane(number) for number in range(lanes)]
        self._questions: dict[int, Question] = {}

    @abc.abstractmethod
    def add(self, prompts: Sequence[bytes], answers: Sequence[int], early: Sequence[int] = ()) -> range:
        """Take questions in, after those that are already there.

        Args:
            prompts: Their tokens, packed.
            answers: How many answers each is to have.
            early: Indices of questions that are to come before the others of this call, where that costs nothing.

        Returns:
            Their numbers.
        """

    @abc.abstractmethod
    def next(self) -> Job | None:
        """What an idle lane does now, which counts as begun; None while there is nothing that could be begun."""

    @property
    def waiting(self) -> int:
        """Questions of which at least one answer has not been asked for."""
        return len(self._questions)

    @property
    def busy(self) -> int:
        """Lanes that do something."""
        return sum(lane.busy for lane in self._lanes)

    def asked(self, job: Ask, *, failed: bool = False) -> None:
        """An `Ask` is over.

        Args:
            job: As `next` gave it.
            failed: Whether what the lane holds is not known.
        """
        self._lanes[job.lane].busy = False
        if failed:
            self._lanes[job.lane].held = b""
        for number in job.children:
            # llama-server forgets what a child held as soon as it is done.
            self._lanes[number].held, self._lanes[number].busy = b"", False

    def _idle(self) -> list[Lane]:
        return [lane for lane in self._lanes if not lane.busy]

    def _begin(self, question: Question, lane: Lane, *, restored: tuple[int, bytes] | None = None) -> Ask:
        """Ask for as many answers of a question as there are idle lanes.

        Args:
            question: One with answers to ask for.
            lane: An idle lane.
            restored: Number and tokens of the trunk that is put into the lane first.
        """
        if restored is not None:
            lane.held = restored[1]
        others = [other for other in self._idle() if other is not lane][: question.answers - 1]
        reuse = min(common(lane.held, question.tokens), len(question.tokens) // 4 - 1)
        job = Ask(
            lane.number,
            question.number,
            question.asked,
            1 + len(others),
            tuple(other.number for other in others),
            restored[0] if restored is not None else None,
            reuse,
        )
        for each in (lane, *others):
            each.busy, each.held = True, question.tokens
        question.asked += job.count
        question.answers -= job.count
        if not question.answers:
            del self._questions[question.number]
        return job
