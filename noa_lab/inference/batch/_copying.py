"""The schedule where slots can be saved and restored: every trunk is evaluated once, and every lane can go on from it."""

from __future__ import annotations

import heapq
import itertools
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noa_lab.inference.batch._prefixes import SHORTEST, Prefixes, Trunk, common
from noa_lab.inference.batch._schedule import Ask, Job, Lane, Prepare, Question, Schedule, Worth, always

__all__ = ["CopyingSchedule"]


@dataclass(slots=True, eq=False)
class _Trunk:
    number: int
    tokens: bytes
    parent: _Trunk | None
    ready: bool = False
    saved: bool = False
    users: int = 0
    """Questions not yet answered, and trunks not yet ready, that begin with it."""


def _kin(prefixes: Prefixes, trunks: Sequence[Trunk], prompt: int) -> int:
    """Place of the first prompt that begins like this one, and not as most of them do."""
    place, few = prefixes.order.index(prompt), len(prefixes.order) // 2
    return next((trunk.first for trunk in trunks if trunk.first <= place <= trunk.last and trunk.prompts <= few), place)


class CopyingSchedule(Schedule):
    """Questions go to whatever lane is idle; the trunk of the next ones is prepared while the last ones of a trunk are answered.

    Args:
        lanes: How many lanes there are.
        shortest: Fewest tokens that are worth a trunk of their own.
        worth: Decides whether a prompt is evaluated by a second lane for some of its answers.
        width: Gives how many lanes may be at work at once; by default all.
        obeyed: Whether further answers of a job go to the lanes that it names.

    Attributes:
        unneeded: Numbers of saved trunks that nothing needs any more; whoever deletes them empties the list.
    """

    def __init__(
        self,
        lanes: int,
        *,
        shortest: int = SHORTEST,
        worth: Worth = always,
        width: Callable[[], int] | None = None,
        obeyed: bool = False,
    ) -> None:
        super().__init__(lanes, worth=worth, width=width)
        self._shortest, self._obeyed = shortest, obeyed
        self._count = 0
        self._made = itertools.count()
        self._trunks: dict[int, _Trunk] = {}
        """Those that something still needs, as in `_trunk_of`: a long run does not keep what it is through with."""
        self._trunk_of: dict[int, _Trunk] = {}
        self._uses: dict[int, int] = {}
        """By question: its jobs that are not over."""
        self._order: deque[Question] = deque()
        self._entered = itertools.count()
        self._ready: list[tuple[int, Question]] = []
        """A heap, by the place in the order."""
        self._waiting_for: dict[int, list[tuple[int, Question]]] = {}
        self._twins: dict[bytes, list[Question]] = {}
        """By prompt: questions with the same prompt as one that has not been asked yet; they come with it."""
        self._rest: dict[int, deque[Question]] = {}
        """By lane: what is left to ask for of the prompt that it holds."""
        self._preparing = False
        self.unneeded: list[int] = []

    def drop(self) -> None:
        """See `Schedule.drop`."""
        super().drop()
        self._order.clear()
        self._ready.clear()
        self._waiting_for.clear()
        self._twins.clear()
        self._rest.clear()

    def share_nothing(self) -> None:
        """Make no more trunks: questions added from now on are asked as they are."""
        self._shortest = sys.maxsize

    def add(self, prompts: Sequence[bytes], answers: Sequence[int], early: Sequence[int] = ()) -> range:
        """See `Schedule.add`."""
        start = self._count
        self._count += len(prompts)
        prefixes = Prefixes(prompts)
        made: list[_Trunk] = []
        trunks = prefixes.trunks(self._shortest)
        for found in trunks:
            trunk = _Trunk(next(self._made), found.tokens, made[found.parent] if found.parent is not None else None)
            made.append(trunk)
            self._trunks[trunk.number] = trunk
            if trunk.parent is not None:
                trunk.parent.users += 1
            for place in range(found.first, found.last + 1):
                self._trunk_of[start + prefixes.order[place]] = trunk  # deeper ones come later
        seen = set()
        turn = _kin(prefixes, trunks, early[0]) if early else 0
        for index in dict.fromkeys((*early, *prefixes.order[turn:], *prefixes.order[:turn])):
            question = Question(start + index, prompts[index], answers[index])
            self._questions[question.number] = question
            if question.tokens in seen:
                self._twins.setdefault(question.tokens, []).append(question)
                self._count_use(question)
            else:
                self._enter(question)
            seen.add(question.tokens)
        return range(start, self._count)

    def _count_use(self, question: Question) -> _Trunk | None:
        self._uses[question.number] = self._uses.get(question.number, 0) + 1
        trunk = self._trunk_of.get(question.number)
        if trunk is not None:
            trunk.users += 1
        return trunk

    def _enter(self, question: Question) -> None:
        self._order.append(question)
        placed = next(self._entered), question
        trunk = self._count_use(question)
        if trunk is None:
            heapq.heappush(self._ready, placed)
        else:
            self._waiting_for.setdefault(trunk.number, []).append(placed)

    def next(self) -> Job | None:
        """See `Schedule.next`."""
        if not self._may_begin():
            return None
        idle = self._idle()
        for lane in idle:
            if self._rest.get(lane.number):
                return self._ask(self._rest[lane.number].popleft(), [lane], self._rest[lane.number])
        while self._order and self._order[0].number not in self._questions:
            self._order.popleft()
        if not self._preparing and self._order:
            trunk = self._first_missing(self._trunk_of.get(self._order[0].number))
            if trunk is not None:
                return self._prepare(trunk, idle)
        if self._ready:
            question = heapq.heappop(self._ready)[1]
            return self._ask(question, idle, deque(self._twins.pop(question.tokens, ())))
        return self._help(idle)

    def _help(self, idle: list[Lane]) -> Job | None:
        """Take over from the lane that has most answers left to ask for."""
        number = max(self._rest, key=lambda lane: sum(each.answers for each in self._rest[lane]), default=None)
        rest = self._rest.get(number, None) if number is not None else None
        if not rest:
            return None
        trunk = self._trunk_of.get(rest[-1].number)
        kept = len(trunk.tokens) if trunk is not None and trunk.saved else 0
        again = (len(rest[-1].tokens) - max(kept, *(4 * common(lane.held, rest[-1].tokens) for lane in idle))) // 4
        if again > 1 and not self._worth(again, sum(each.answers for each in rest), self.busy):
            return None
        return self._ask(rest.pop(), idle, deque())

    @property
    def spared(self) -> set[int]:
        """Lanes with a prompt of which more is left to ask for: in another one it would have to be evaluated again."""
        return {number for number, rest in self._rest.items() if rest}

    def _first_missing(self, trunk: _Trunk | None) -> _Trunk | None:
        """The outermost trunk that this one begins with and that is not ready, itself included."""
        missing = None
        while trunk is not None and not trunk.ready:
            missing, trunk = trunk, trunk.parent
        return missing

    def _prepare(self, trunk: _Trunk, idle: list[Lane]) -> Prepare:
        lane = max(idle, key=lambda each: common(each.held, trunk.tokens))
        restore = self._restored(trunk.parent, lane)
        if restore is not None:
            lane.held = restore.tokens
        reuse = min(common(lane.held, trunk.tokens), len(trunk.tokens) // 4 - 1)
        lane.busy, lane.held, self._preparing = lane.busy + 1, trunk.tokens, True
        return Prepare(lane.number, trunk.number, trunk.tokens, restore.number if restore else None, reuse)

    @staticmethod
    def _restored(trunk: _Trunk | None, lane: Lane) -> _Trunk | None:
        """The trunk to put into a lane, or None where the lane holds it already or it was never saved."""
        if trunk is None or not trunk.saved or lane.held.startswith(trunk.tokens):
            return None
        return trunk

    def prepared(self, job: Prepare, *, saved: bool, failed: bool = False) -> None:
        """A `Prepare` is over.

        Args:
            job: As `next` gave it.
            saved: Whether the trunk can be restored from now on; where not, each lane evaluates it for itself.
            failed: Whether what the lane holds is not known.
        """
        lane, trunk = self._lanes[job.lane], self._trunks[job.trunk]
        lane.busy, self._preparing = lane.busy - 1, False
        if failed:
            lane.held = b""
        trunk.ready, trunk.saved = True, saved
        for placed in self._waiting_for.pop(trunk.number, ()):
            heapq.heappush(self._ready, placed)
        if trunk.parent is not None:
            self._let_go(trunk.parent)

    def _ask(self, question: Question, idle: list[Lane], rest: deque[Question]) -> Ask:
        lane = max(idle, key=lambda each: common(each.held, question.tokens))
        trunk = self._trunk_of.get(question.number)
        restore = self._restored(trunk, lane)
        job = self._begin(
            question,
            lane,
            restored=(restore.number, restore.tokens) if restore else None,
            # A trunk that is evaluated and not saved yet lies in a slot that would count as idle.
            alone=self._preparing,
            # llama-server chooses among idle slots itself.
            spared=self.spared if self._obeyed else (),
        )
        if question.answers:
            rest.appendleft(question)
            self._count_use(question)  # one use for each of its jobs: it may still have to be restored for this one
        self._rest[lane.number] = rest
        return job

    def asked(self, job: Ask, *, failed: bool = False) -> None:
        """See `Schedule.asked`."""
        super().asked(job, failed=failed)
        trunk = self._trunk_of.get(job.question)
        self._uses[job.question] -= 1
        if not self._uses[job.question]:
            del self._uses[job.question]
            self._trunk_of.pop(job.question, None)
        if trunk is not None:
            self._let_go(trunk)

    def _let_go(self, trunk: _Trunk) -> None:
        trunk.users -= 1
        if trunk.users:
            return
        del self._trunks[trunk.number]
        if trunk.saved:
            trunk.saved = False
            self.unneeded.append(trunk.number)
