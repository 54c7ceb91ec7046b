"""The schedule for any llama-server: what begins alike stays on one lane, and lanes share out the rest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noa_lab.inference.batch._prefixes import Prefixes, common
from noa_lab.inference.batch._schedule import Job, Lane, Question, Schedule, Worth, always

__all__ = ["PinnedSchedule"]


@dataclass(slots=True, eq=False)
class _Row:
    """Questions that follow each other in sorted order, and belong to one lane or to none yet."""

    questions: deque[tuple[Question, int]]
    """Each with the tokens that it shares with the one before it."""
    lane: Lane | None = None


class PinnedSchedule(Schedule):
    """Each lane goes through a row of the sorted questions; one that has none left takes a part of another's row.

    The row is cut where the two parts have least in common, as long as that is worth evaluating what they do have in common twice.

    Args:
        lanes: How many lanes there are.
        worth: Decides that.
        width: Gives how many lanes may be at work at once; by default all.
    """

    def __init__(self, lanes: int, *, worth: Worth = always, width: Callable[[], int] | None = None) -> None:
        super().__init__(lanes, worth=worth, width=width)
        self._count = 0
        self._rows: list[_Row] = []

    def add(self, prompts: Sequence[bytes], answers: Sequence[int], early: Sequence[int] = ()) -> range:
        """See `Schedule.add`; `early` has no effect, since here it would cost."""
        del early
        start = self._count
        self._count += len(prompts)
        prefixes = Prefixes(prompts)
        row: deque[tuple[Question, int]] = deque()
        for index, shared in zip(prefixes.order, prefixes.shared, strict=True):
            question = Question(start + index, prompts[index], answers[index])
            self._questions[question.number] = question
            row.append((question, shared))
        if row:
            self._rows.append(_Row(row))
        return range(start, self._count)

    def drop(self) -> None:
        """See `Schedule.drop`."""
        super().drop()
        self._rows.clear()

    def next(self) -> Job | None:
        """See `Schedule.next`."""
        self._rows = [row for row in self._rows if row.questions]
        if not self._may_begin():
            return None
        idle = self._idle()
        row = self._own(idle) or self._free(idle) or self._part(idle)
        if row is None or row.lane is None:
            return None
        question, _ = row.questions[0]
        job = self._begin(question, row.lane)
        if question.number not in self._questions:
            row.questions.popleft()
        return job

    def _own(self, idle: list[Lane]) -> _Row | None:
        return next((row for row in self._rows if row.lane in idle), None)

    def _free(self, idle: list[Lane]) -> _Row | None:
        """A row that no lane has, given to the idle lane that holds most of its beginning."""
        row = next((row for row in self._rows if row.lane is None), None)
        if row is not None:
            first = row.questions[0][0].tokens
            row.lane = max(idle, key=lambda lane: common(lane.held, first))
        return row

    def _part(self, idle: list[Lane]) -> _Row | None:
        """A part of a row that is cut off for an idle lane."""
        cuts = [(*cut, row) for row in self._rows if (cut := self._cut(row)) is not None]
        if not cuts:
            return None
        _, _, place, row = min(cuts, key=lambda cut: cut[:2])
        first = row.questions[place][0].tokens
        lane = max(idle, key=lambda each: common(each.held, first))
        again = row.questions[place][1] - common(lane.held, first)
        moved = len(row.questions) - place
        answers = sum(question.answers for question, _ in itertools.islice(row.questions, place, None))
        if again > 0 and not self._worth(again, answers, self.busy):
            return None
        part = _Row(deque(row.questions.pop() for _ in range(moved)), lane)
        part.questions.reverse()
        self._rows.append(part)
        return part

    @staticmethod
    def _cut(row: _Row) -> tuple[int, int, int] | None:
        """Where to cut a row: the tokens shared there, how far that is from the middle, and the place; None where it is too short.

        All of it may be taken, unless some answers of its first question are under way: the others then cost one token there.
        """
        middle, begun = (len(row.questions) + 1) // 2, row.questions[0][0].asked > 0
        places = [(shared, abs(place - middle), place) for place, (_, shared) in enumerate(row.questions)]
        return min(places[1:] if begun else places, default=None)
