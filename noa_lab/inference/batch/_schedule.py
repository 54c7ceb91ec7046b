"""What lanes are, and what they can be told to do.

A lane is a slot of llama-server that is only used through a schedule, so that what it holds is known: the tokens of its last prompt.
A schedule decides which lane does what next; no input or output happens there. There are two, see `CopyingSchedule` and
`PinnedSchedule`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from noa_lab.inference.batch._prefixes import common

__all__ = ["Ask", "Job", "Lane", "Prepare", "Question", "Schedule", "Worth", "always"]

Worth = Callable[[int, int, int], bool]
"""Called with tokens, answers, lanes: whether one more lane beside those at work is worth evaluating so many tokens again, when it
takes over so many answers."""


def always(tokens: int, answers: int, lanes: int) -> bool:
    """A `Worth` that says yes."""
    del tokens, answers, lanes
    return True


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
        busy: How many jobs it has: more than one for a moment, when llama-server lets it take an answer of another job before it is
            known here that its own is over.
    """

    number: int
    held: bytes = b""
    busy: int = 0


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
        worth: Decides whether something is evaluated twice for the sake of a wider batch.
        width: Gives how many lanes may be at work at once; by default all. Further answers to one prompt take idle lanes in any case.
    """

    def __init__(self, lanes: int, *, worth: Worth = always, width: Callable[[], int] | None = None) -> None:
        self._worth, self._width = worth, width or (lambda: lanes)
        self._lanes = [Lane(number) for number in range(lanes)]
        self._questions: dict[int, Question] = {}
        self._at_work: dict[Ask, set[int]] = {}
        """By job: the lanes that still work for it."""

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
        return sum(lane.busy > 0 for lane in self._lanes)

    def took(self, job: Ask, lanes: Collection[int]) -> None:
        """llama-server has given the further answers of a job to these lanes, which it chooses itself.

        Args:
            job: As `next` gave it, and not over yet.
            lanes: The lanes; those that were meant for it and are not among them are idle again.
        """
        self._at_work[job] = {job.lane, *lanes}
        for number in {*lanes, *job.children}:
            self._lanes[number].busy += (number in lanes) - (number in job.children)
            self._lanes[number].held = b""

    def freed(self, job: Ask, lane: int) -> None:
        """One lane of a job has finished its answer, while others of it may go on.

        Args:
            job: As `next` gave it.
            lane: The lane; what one that took a further answer holds is not known then: llama-server forgets it.
        """
        left = self._at_work[job]
        if lane in left:
            left.discard(lane)
            self._lanes[lane].busy -= 1
            if lane != job.lane:
                self._lanes[lane].held = b""

    def answered_by(self, job: Ask, lanes: Collection[int]) -> None:
        """The answers of a job have come and name their lanes: one that nobody saw at work on them has lost what it held.

        Args:
            job: As `next` gave it, and not over yet.
            lanes: The lanes, whether they still work or not.
        """
        for number in {*lanes} - self._at_work[job]:
            self._lanes[number].held = b""

    def working(self, job: Ask) -> int:
        """Lanes that still work for a job."""
        return len(self._at_work[job])

    def asked(self, job: Ask, *, failed: bool = False) -> None:
        """An `Ask` is over.

        Args:
            job: As `next` gave it.
            failed: Whether what the lane holds is not known.
        """
        for lane in tuple(self._at_work[job]):
            self.freed(job, lane)
        del self._at_work[job]
        if failed:
            self._lanes[job.lane].held = b""

    def drop(self) -> None:
        """Forget every question that has not been asked; what is under way goes on."""
        self._questions.clear()

    def holds(self, lane: int, tokens: bytes) -> None:
        """A lane has evaluated these tokens, outside of the schedule."""
        self._lanes[lane].held = tokens

    def _idle(self) -> list[Lane]:
        return [lane for lane in self._lanes if not lane.busy]

    def _may_begin(self) -> bool:
        """Whether one more lane may be at work."""
        return self.busy < min(len(self._lanes), self._width())

    def _begin(
        self,
        question: Question,
        lane: Lane,
        *,
        restored: tuple[int, bytes] | None = None,
        alone: bool = False,
        spared: Collection[int] = (),
    ) -> Ask:
        """Ask for as many answers of a question as there are idle lanes.

        Args:
            question: One with answers to ask for.
            lane: An idle lane.
            restored: Number and tokens of the trunk that is put into the lane first.
            alone: Take no other lane.
            spared: Lanes not to take beside it.
        """
        if restored is not None:
            lane.held = restored[1]
        free = [] if alone else [other for other in self._idle() if other is not lane and other.number not in spared]
        others = free[: question.answers - 1]
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
            each.busy, each.held = each.busy + 1, question.tokens
        self._at_work[job] = {lane.number, *job.children}
        question.asked += job.count
        question.answers -= job.count
        if not question.answers:
            del self._questions[question.number]
        return job
