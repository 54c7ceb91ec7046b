"""How many lanes are at work at once, against servers whose cost of working side by side is known."""

from __future__ import annotations

import pytest
from batch_rig import GREEDY, Wish, answer_all

from noa_lab.inference.batch._width import Width
from noa_lab.testing import FakeSlots, Faults

LANES = 8


def widths(width: Width, questions: int, beside: float, *, tokens: int = 30, apart: bool = False) -> list[int]:
    """Answer questions, each one second alone; returns how many lanes were allowed for each.

    Args:
        width: What is asked.
        questions: How many.
        beside: Seconds that a question costs where all lanes are at work.
        tokens: Evaluated and generated for each.
        apart: Whether answers come one after the other from lanes at work, or all at once.
    """
    now, allowed, going = 0.0, [], []
    while len(allowed) < questions:
        while len(going) < width.now and len(allowed) < questions:
            going.append((width.now, now))
            allowed.append(width.now)
        over = going[:1] if apart else list(going)
        del going[: len(over)]
        now += len(over) * (1.0 if over[0][0] == 1 else beside)
        for each, began in over:
            width.answered(each, began, now, tokens)
    return allowed


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("beside", "best"), [(0.5, LANES), (0.9, LANES), (1.1, 1), (2.0, 1)])
def test_short_answers_are_given_the_faster_way_once_both_are_measured(beside, best, apart):
    width = Width(LANES, lambda: 4.0)
    assert width.paces is None
    allowed = widths(width, 60, beside, apart=apart)
    assert allowed[:4] == [1] * 4
    assert allowed[4 : 4 + 2 * LANES] == [LANES] * 2 * LANES
    assert set(allowed[4 + 4 * LANES :]) == {best}
    assert width.paces == pytest.approx((1000 / 30, 1000 * beside / 30))


def test_long_answers_are_given_side_by_side_whatever_it_costs():
    assert set(widths(Width(LANES, lambda: 16.0), 60, 3.0)) == {LANES}


def test_one_lane_is_one_lane():
    assert set(widths(Width(1, lambda: 4.0), 30, 1.0)) == {1}


def test_answers_that_turn_out_to_be_short_are_measured_then():
    length = 32.0
    width = Width(LANES, lambda: length)
    assert set(widths(width, 20, 2.0)) == {LANES}
    length = 5.0
    assert widths(width, 80, 2.0)[-30:] == [1] * 30
    length = 40.0
    assert set(widths(width, 20, 2.0)) == {LANES}, "what is best for short answers is not taken for long ones"


def test_the_time_of_other_work_is_no_answers():
    width = Width(LANES, lambda: 4.0)
    widths(width, 4, 1.0)
    now = 4.0
    for _ in range(20):
        began, now = now, now + LANES * 0.5
        for _ in range(LANES):
            width.answered(LANES, began, now, 30)
        width.disturbed()
        now += 100.0
    assert width.now == LANES


@pytest.mark.parametrize("saving", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_lanes_keep_to_what_is_faster(slow, saving):
    at_work: list[int] = []

    def seconds() -> float:
        at_work.append(sum(slot.task >= 0 for slot in fake._slots))
        return 0.004 * (2.5 * at_work[-1] if slow and at_work[-1] > 1 else 1)

    wishes = [
        Wish(f"{number} {number * 7} {'long ' * 20}", config=GREEDY.model_copy(update={"max_tokens": 2}))
        for number in range(80)
    ]
    with FakeSlots(4, faults=Faults(no_saving=not saving), seconds=seconds) as fake:
        sink, lanes = answer_all(fake.base_url, wishes)
        assert len(sink.answers) == 80
        assert lanes.facts.evaluated == fake.evaluated
    last = at_work[-30:]
    assert last == [1] * 30 if slow else max(last) > 1
    alone, together = lanes.facts.paces
    assert (alone < together) == slow
