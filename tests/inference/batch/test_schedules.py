"""Both schedules against a server that only counts: every answer is asked for once, and what is evaluated stays near the minimum."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.inference.batch._copying import CopyingSchedule
from noa_lab.inference.batch._pinned import PinnedSchedule
from noa_lab.inference.batch._prefixes import Prefixes, common, packed
from noa_lab.inference.batch._schedule import Ask, Prepare


@dataclass
class Server:
    """llama-server's slots as far as prompts go: what each holds, and the tokens evaluated."""

    lanes: int
    draw: random.Random
    evaluated: int = 0
    saved: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = [b""] * self.lanes
        self.going: list = []

    def begin(self, job, prompts) -> None:
        lanes = [job.lane, *getattr(job, "children", ())]
        assert len(set(lanes)) == len(lanes)
        assert not {lane for other in self.going for lane in (other.lane, *getattr(other, "children", ()))} & set(lanes)
        self.going.append(job)
        if job.restore is not None:
            self.held[job.lane] = self.saved[job.restore]
        tokens = job.tokens if isinstance(job, Prepare) else prompts[job.question]
        reuse = min(common(self.held[job.lane], tokens), len(tokens) // 4 - 1)
        assert reuse == job.reuse, "the schedule is wrong about what a lane holds"
        self.evaluated += len(tokens) // 4 - reuse
        for lane in lanes:
            self.held[lane] = tokens
        if isinstance(job, Ask):
            assert len(job.children) == job.count - 1
            self.asked += [(job.question, job.first + number) for number in range(job.count)]

    def finish_one(self):
        job = self.going.pop(self.draw.randrange(len(self.going)))
        for child in getattr(job, "children", ()):
            self.held[child] = b""
        if isinstance(job, Prepare):
            self.saved[job.trunk] = job.tokens
        return job


def play(schedule, parts, lanes, draw):
    """Run everything: `parts` are added one after the other, each while the one before still goes on."""
    server, prompts = Server(lanes, draw), {}
    left = list(parts)
    while True:
        if left and schedule.waiting < 3:
            tokens, answers, early = left.pop(0)
            prompts.update(zip(schedule.add(tokens, answers, early), tokens, strict=True))
        while (job := schedule.next()) is not None:
            server.begin(job, prompts)
        if not server.going:
            if not left:
                break
            continue
        job = server.finish_one()
        if isinstance(job, Prepare):
            schedule.prepared(job, saved=True)
        else:
            schedule.asked(job)
        if isinstance(schedule, CopyingSchedule):
            while schedule.unneeded:
                del server.saved[schedule.unneeded.pop()]
    assert schedule.waiting == 0
    return server


def wanted(parts):
    answers = [count for _, counts, _ in parts for count in counts]
    return sorted((number, answer) for number, count in enumerate(answers) for answer in range(count))


TREES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=25)


@st.composite
def batches(draw):
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        prompts = [packed(prompt) for prompt in draw(TREES)]
        answers = draw(st.lists(st.integers(1, 5), min_size=len(prompts), max_size=len(prompts)))
        early = draw(st.lists(st.integers(0, len(prompts) - 1), max_size=3))
        parts.append((prompts, answers, early))
    return parts


@settings(max_examples=100)
@given(batches(), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_copying_asks_everything_once_and_evaluates_trunks_once(parts, lanes, shortest, seed):
    draw = random.Random(seed)
    never = CopyingSchedule(
        lanes, shortest=shortest, worth=lambda tokens, answers, busy: False, width=lambda: draw.randint(1, lanes)
    )
    server = play(never, parts, lanes, draw)
    assert sorted(server.asked) == wanted(parts)
    assert not server.saved, "a trunk that nobody needs any more was not given up"
    assert [never._trunks, never._trunk_of, never._uses] == [{}, {}, {}], "what was answered is still kept"
    least = sum(Prefixes(prompts).minimum for prompts, _, _ in parts)
    questions = sum(len(prompts) for prompts, _, _ in parts)
    repeats = sum(sum(answers) - len(answers) for _, answers, _ in parts)
    trunks = sum(len(Prefixes(prompts).trunks(shortest)) for prompts, _, _ in parts)
    assert server.evaluated <= least + questions * shortest + trunks + repeats


@settings(max_examples=100)
@given(batches(), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_copying_lanes_that_help_each_other_ask_everything_once(parts, lanes, shortest, seed):
    draw = random.Random(seed)
    schedule = CopyingSchedule(lanes, shortest=shortest, width=lambda: draw.randint(1, lanes))
    server = play(schedule, parts, lanes, draw)
    assert sorted(server.asked) == wanted(parts)
    assert not server.saved


@settings(max_examples=100)
@given(batches(), st.integers(1, 6), st.booleans(), st.integers(0, 99))
def test_pinned_lanes_ask_everything_once(parts, lanes, generous, seed):
    draw = random.Random(seed)
    schedule = PinnedSchedule(
        lanes, worth=lambda tokens, questions, busy: generous, width=lambda: draw.randint(1, lanes)
    )
    server = play(schedule, parts, lanes, draw)
    assert sorted(server.asked) == wanted(parts)


def family(trunks: int, branches: int, trunk: int, branch: int) -> list[bytes]:
    """Prompts with a header that all share, then a trunk, then a part of their own."""
    header = list(range(5))
    return [
        packed([*header, *([100 + t] * trunk), *([1000 + t * branches + b] * branch)])
        for b in range(branches)
        for t in range(trunks)
    ]


def evaluated(schedule, prompts, lanes, answers=1) -> int:
    return play(schedule, [(prompts, [answers] * len(prompts), ())], lanes, random.Random(1)).evaluated


def test_copied_trunks_cost_next_to_nothing_on_any_number_of_lanes():
    prompts = family(4, 8, 1100, 25)
    least = Prefixes(prompts).minimum
    for lanes in (1, 2, 4, 8, 16):
        assert evaluated(CopyingSchedule(lanes), prompts, lanes) <= 1.02 * least


def test_pinned_lanes_split_between_trunks_before_they_split_a_trunk():
    prompts = family(4, 8, 1100, 25)
    least = Prefixes(prompts).minimum
    for lanes in (1, 2, 4, 8):
        schedule = PinnedSchedule(lanes, worth=lambda tokens, questions, busy: tokens < 100)
        assert evaluated(schedule, prompts, lanes) <= 1.1 * least


def test_a_trunk_is_split_where_that_is_worth_it():
    prompts, asked = family(1, 40, 200, 5), []

    def worth(tokens, questions, busy):
        asked.append((tokens, questions, busy))
        return busy < 3

    total = evaluated(PinnedSchedule(8, worth=worth), prompts, 8)
    least = Prefixes(prompts).minimum
    assert least + 2 * 200 <= total <= least + 2 * 205 + 8
    assert asked[0] == (205, 19, 1), "the first lane to join is offered half of what is left"


def test_repeats_of_a_prompt_cost_no_second_evaluation_while_lanes_are_free():
    prompts = [packed([number] * 50) for number in range(4)]
    for schedule in (CopyingSchedule(8), PinnedSchedule(8)):
        assert evaluated(schedule, prompts, 8, answers=2) == 200
    # One lane cannot hold two answers: each further one evaluates the last token again.
    assert evaluated(CopyingSchedule(1), prompts, 1, answers=3) == 200 + 8


def test_early_questions_are_asked_first_and_at_no_cost():
    prompts = family(3, 6, 300, 10)
    first_of_each = [0, 1, 2]
    schedule = CopyingSchedule(2)
    server = play(schedule, [(prompts, [1] * len(prompts), first_of_each)], 2, random.Random(3))
    asked = [question for question, _ in server.asked]
    for early in first_of_each:
        assert early == next(question for question in asked if question % 3 == early)
    assert set(asked[:12]) >= set(first_of_each)
    assert server.evaluated <= 1.02 * Prefixes(prompts).minimum


@pytest.mark.parametrize("early", range(4))
def test_an_early_question_is_followed_by_those_that_begin_like_it(early):
    """Not only as all of them do."""
    prompts = [packed([5] * 20) + prompt for prompt in family(4, 6, 100, 10)]
    server = play(CopyingSchedule(1), [(prompts, [1] * len(prompts), [early])], 1, random.Random(4))
    assert {question % 4 for question, _ in server.asked[:6]} == {early}
    assert server.asked[0][0] == early


def test_a_trunk_that_could_not_be_saved_is_evaluated_by_each_lane():
    prompts, schedule = family(1, 4, 100, 5), CopyingSchedule(2)
    schedule.add(prompts, [1] * 4)
    prepare = schedule.next()
    assert isinstance(prepare, Prepare)
    assert schedule.next() is None, "nobody begins a trunk twice"
    schedule.prepared(prepare, saved=False)
    first, second = schedule.next(), schedule.next()
    assert [first.restore, second.restore] == [None, None]
    assert [first.reuse, second.reuse] == [105, 0]


def test_what_a_failed_lane_holds_is_not_relied_on():
    prompts, schedule = family(1, 3, 100, 5), CopyingSchedule(1)
    schedule.add(prompts, [1] * 3)
    schedule.prepared(schedule.next(), saved=True)
    job = schedule.next()
    assert (job.restore, job.reuse) == (None, 105)
    schedule.asked(job, failed=True)
    job = schedule.next()
    assert (job.restore, job.reuse) == (0, 105)
