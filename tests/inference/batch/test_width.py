"""How many lanes are at work at once, against servers whose cost of working side by side is known."""

from __future__ import annotations

import heapq
import random

import pytest
from batch_rig import GREEDY, Wish, answer_all

from noa_lab.inference.batch._width import Width
from noa_lab.testing import FakeSlots, Faults

LANES = 8
TOKENS = 30


class Run:
    """Requests on lanes, by a clock of their own.

    Args:
        width: What is asked how many may be at work.
        beside: Seconds that a request costs among others, where one alone costs 1.
        longest: Tokens of the longest answer.
        seed: Requests take by chance up to a third more or less; None lets all take the same.

    Attributes:
        allowed: For each request, how many lanes were allowed when it began.
    """

    def __init__(self, width: Width, beside: float, *, longest: int = 4, seed: int | None = None) -> None:
        self.width, self.longest, self.allowed = width, longest, []
        self._beside, self._draw, self._seed = beside, random.Random(seed), seed
        self._going: list = []
        self._now, self._number = 0.0, 0

    def ask(self, questions: int, *, answers: int = 1, failing: bool = False, other_work: int | None = None) -> None:
        """Ask questions to their end.

        Args:
            questions: How many.
            answers: Answers wanted to each.
            failing: Whether all fail.
            other_work: Something else is done after every so many requests.
        """
        waiting = questions
        while waiting or self._going:
            while waiting and len(self._going) < (allowed := self.width.now(self.longest, waiting)):
                waiting -= 1
                sample = self.width.begin(self.longest, waiting, answers, self._now)
                self.allowed.append(allowed)
                each = 1.0 if allowed == 1 else allowed * self._beside
                by_chance = 1.0 if self._seed is None else self._draw.uniform(2 / 3, 4 / 3)
                self._number += 1
                heapq.heappush(self._going, (self._now + each * by_chance, self._number, sample))
            assert self._going, "nothing is at work, and nothing may begin"
            self._now, number, sample = heapq.heappop(self._going)
            self.width.end(sample, self._now, None if failing else TOKENS)
            if other_work and number % other_work == 0:
                self.width.disturbed()
                self._now += 50.0
                self.width.disturbed()


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize(("beside", "best"), [(0.3, LANES), (0.6, LANES), (2.0, 1), (4.0, 1)])
def test_short_answers_are_given_the_faster_way_once_both_are_measured(beside, best, seed):
    width = Width(LANES)
    run = Run(width, beside, seed=seed)
    run.ask(100)
    assert run.allowed[:4] == [1] * 4
    assert run.allowed[4:20] == [LANES] * 16
    assert set(run.allowed[20:]) == {best}
    assert width.best == best
    if seed is None:
        assert width.paces == pytest.approx((1000 / TOKENS, 1000 * beside / TOKENS))


def test_one_lane_is_not_taken_for_next_to_nothing():
    run = Run(Width(LANES), 1.05)
    run.ask(100)
    assert run.width.best == LANES


def test_long_answers_are_given_side_by_side_whatever_it_costs():
    run = Run(Width(LANES), 3.0, longest=16)
    run.ask(100)
    assert set(run.allowed) == {LANES}
    run.longest = 4
    run.ask(100)
    assert run.width.best == 1
    run.longest = 16
    run.allowed.clear()
    run.ask(100)
    assert set(run.allowed) == {LANES}, "what is best for short answers is not taken for long ones"


def test_one_long_answer_in_the_middle_of_measuring_ends_it():
    width = Width(LANES)
    for longest in (4, 4, 40, 40):
        sample = width.begin(longest, 100, 1, 0.0)
        width.end(sample, 1.0, TOKENS)
    assert width.now(40, 100) == LANES
    assert width.best is None


def test_one_lane_is_one_lane_and_few_questions_are_not_measured():
    alone, few = Run(Width(1), 1.0), Run(Width(LANES), 3.0)
    alone.ask(30)
    few.ask(4 * LANES - 1)
    assert set(alone.allowed) == {1}
    assert set(few.allowed) == {LANES}


def test_several_answers_to_a_prompt_are_given_side_by_side():
    run = Run(Width(LANES), 3.0)
    run.ask(60, answers=3)
    assert set(run.allowed[1:]) == {LANES}


@pytest.mark.parametrize("beside", [0.5, 3.0])
def test_the_time_of_other_work_is_no_answers(beside):
    often, seldom = Run(Width(LANES), beside), Run(Width(LANES), beside)
    often.ask(200, other_work=2)
    assert (often.width.best, often.width.paces) == (LANES, None)
    seldom.ask(200, other_work=23)
    assert seldom.width.paces == pytest.approx((1000 / TOKENS, 1000 * beside / TOKENS))


def test_requests_that_fail_say_nothing_of_time():
    run = Run(Width(LANES), 3.0)
    run.ask(100, failing=True)
    assert (run.width.best, run.width.paces) == (LANES, None)


@pytest.mark.parametrize("saving", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_lanes_keep_to_what_is_faster(slow, saving):
    at_work: list[int] = []

    def seconds() -> float:
        at_work.append(sum(slot.task >= 0 for slot in fake._slots))
        return 0.1 * (4 * at_work[-1] if slow and at_work[-1] > 1 else 1)

    wishes = [
        Wish(f"{number} {number * 7} {'long ' * 20}", config=GREEDY.model_copy(update={"max_tokens": 2}))
        for number in range(40)
    ]
    with FakeSlots(4, faults=Faults(no_saving=not saving), seconds=seconds) as fake:
        sink, lanes = answer_all(fake.base_url, wishes)
        assert len(sink.answers) == 40
        assert lanes.facts.evaluated == fake.evaluated
    alone, together = lanes.facts.paces
    assert (alone < together) == slow
    assert lanes.facts.lanes == (1 if slow else 4)
    assert (max(at_work[-20:]) == 1) == slow
