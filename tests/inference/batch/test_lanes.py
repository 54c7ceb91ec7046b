"""Lanes on a fake server that keeps slots as the real one does."""

from __future__ import annotations

import asyncio
import random

import pytest
from batch_rig import GREEDY, WARM, Sink, Wish, answer_all, run

from noa_lab.errors import CannotShare, ContextOverflow, RequestRefused, Unreachable
from noa_lab.inference import LlamaInferenceEngine
from noa_lab.inference.batch import Prefixes, packed
from noa_lab.testing import FakeSlots, Faults


def documents(number: int, questions: int, words: int = 60, **more) -> list[Wish]:
    """Questions on some documents, in the order that is worst for a cache."""
    texts = [" ".join(f"word{(place * 7 + doc) % 50}" for place in range(words)) for doc in range(number)]
    return [Wish(f"{texts[doc]} question {q} please", **more) for q in range(questions) for doc in range(number)]


def least(fake: FakeSlots, wishes: list[Wish]) -> int:
    prompts = {wish: packed(fake._tokens(f"<user> {wish.text}\n<assistant>")) for wish in wishes}
    repeats = sum(wish.answers - 1 for wish in wishes)
    return Prefixes(list(prompts.values())).minimum + repeats


def check_complete(sink: Sink, wishes: list[Wish]) -> None:
    wanted = {(wish, answer) for wish in wishes for answer in range(wish.answers)}
    assert set(sink.answers) == wanted
    assert sorted(sink.begun, key=repr) == sorted(wanted, key=repr), "something was asked twice"
    assert not sink.undone_


@pytest.mark.parametrize("saving", [True, False])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_every_question_is_answered_once_and_little_is_evaluated_twice(slots, saving):
    wishes = documents(4, 6)
    with FakeSlots(slots, faults=Faults(no_saving=not saving), seconds=0.002) as fake:
        sink, lanes = answer_all(fake.base_url, wishes)
        check_complete(sink, wishes)
        bound = least(fake, wishes)
        assert lanes.facts.copying == saving
        assert lanes.facts.evaluated == fake.evaluated
        # Where nothing can be copied, a trunk may be evaluated again for a lane that has nothing else to do.
        assert fake.evaluated <= (1.06 if saving else 1.06 + 0.3 * (slots > 4)) * bound
        assert lanes.facts.evaluated == lanes.facts.expected


@pytest.mark.parametrize("seed", range(12))
def test_answers_of_random_lengths_in_random_windows_lose_nothing(seed):
    draw = random.Random(seed)
    wishes = [
        Wish(
            f"{' '.join(f'w{draw.randrange(3)}' for _ in range(draw.randrange(1, 40)))} {number}",
            draw.randrange(1, 5),
            WARM,
        )
        for number in range(30)
    ]
    faults = Faults(no_saving=draw.random() < 0.5)
    with FakeSlots(draw.randrange(1, 7), faults=faults, seconds=lambda: draw.random() * 0.004) as fake:
        sink, lanes = answer_all(fake.base_url, wishes, window=draw.randrange(1, 31))
        check_complete(sink, wishes)
        assert lanes.facts.evaluated == fake.evaluated


def test_repeats_are_one_request_with_seeds_that_follow_each_other():
    with FakeSlots(8, answer=lambda _text, seed: f"seed {seed}", seconds=0.01) as fake:
        sink, _ = answer_all(fake.base_url, [Wish("say it", 5, WARM, seed=100)])
        assert [sink.answers[key].text for key in sorted(sink.answers, key=lambda key: key[1])] == [
            f"seed {100 + number}" for number in range(5)
        ]
        assert [answer.seed for answer in sink.answers.values()] == [100, 101, 102, 103, 104]
        (request,) = [body for _, body in fake.asked if body["n_predict"]]
        assert (request["n"], request["seed"]) == (5, 100)


def test_repeats_on_few_lanes_cost_one_token_each():
    wishes = [Wish(" ".join(f"a{number}b{place}" for place in range(100)), 6, WARM) for number in range(3)]
    with FakeSlots(2, seconds=0.002) as fake:
        answer_all(fake.base_url, wishes)
        assert fake.evaluated <= least(fake, wishes)


class Busy(FakeSlots):
    """Tells what its slots do only when short answers are over, as a server on a busy machine."""

    async def _list_slots(self, body):
        await asyncio.sleep(0.02)
        return await super()._list_slots(body)


@pytest.mark.parametrize("slots", [3, 4, 8])
def test_answers_that_are_over_before_anybody_looks_still_say_which_lanes_they_took(slots):
    wishes = documents(4, 4) + documents(4, 4, answers=3, config=WARM)
    random.Random(6).shuffle(wishes)
    with Busy(slots, seconds=0.001) as fake:
        sink, lanes = answer_all(fake.base_url, wishes)
        check_complete(sink, wishes)
        assert lanes.facts.evaluated == fake.evaluated <= 1.15 * least(fake, wishes)


def test_an_answer_knows_what_was_asked_and_how_it_came_about():
    with FakeSlots(3, seconds=0.005) as fake:
        sink, _ = answer_all(fake.base_url, [Wish("one two three", 2, WARM)])
        first, second = sink.answers.values()
        assert first.raw_request["prompt"] == "<user> one two three\n<assistant>"
        assert first.raw_request["temperature"] == WARM.temperature
        assert first.prompt_tokens == second.prompt_tokens
        assert (first.cached_tokens, second.cached_tokens) == (0, second.prompt_tokens)
        assert first.timings.total_ms >= 5
        assert first.finish_reason == "stop"


def test_of_every_arm_one_answer_comes_early():
    wishes = [Wish(f"{'intro ' * 30}{arm} {'text ' * 20} {number}", arm=arm) for number in range(20) for arm in "abc"]
    with FakeSlots(2, seconds=0.002) as fake:
        sink, _ = answer_all(fake.base_url, wishes)
        # In the order of asking: how soon the server answers is not the lanes' to say.
        assert {wish.arm for wish, _ in sink.begun[:12]} == {"a", "b", "c"}


def test_a_refused_question_is_told_by_name_and_the_others_go_on():
    wishes = documents(2, 5)
    with FakeSlots(3, faults=Faults(refuse=lambda text: "question 3" in text)) as fake:
        sink, _ = answer_all(fake.base_url, wishes)
        assert len(sink.answers) == 8
        assert {type(error) for _, _, error in sink.undone_} == {RequestRefused}
        assert {"question 3" in wish.text for wish, _, _ in sink.undone_} == {True}


def test_too_long_a_prompt_is_named():
    with FakeSlots(2, context_size=50) as fake:
        sink, _ = answer_all(fake.base_url, [Wish("short"), Wish("long " * 60)])
        ((_, _, error),) = sink.undone_
        assert isinstance(error, ContextOverflow)
        assert len(sink.answers) == 1


@pytest.mark.parametrize("at", [1, 2, 5, 9])
def test_a_server_that_dies_ends_the_batch_and_says_what_was_under_way(at):
    wishes = documents(3, 5)
    sink = Sink()
    with FakeSlots(3, seconds=0.002, faults=Faults(die_at=at)) as fake, pytest.raises(Unreachable):
        answer_all(fake.base_url, wishes, sink=sink)
    told = {(wish, answer) for wish, answer, _ in sink.undone_}
    assert told | set(sink.answers) == set(sink.begun)
    assert not told & set(sink.answers)


def test_a_full_disk_costs_time_and_nothing_else():
    wishes = documents(2, 6)
    with FakeSlots(3, faults=Faults(disk_full=True), seconds=0.001) as fake:
        sink, lanes = answer_all(fake.base_url, wishes)
        check_complete(sink, wishes)
        assert lanes.facts.trunks == 0


@pytest.mark.parametrize("saving", [True, False])
def test_a_model_that_cannot_go_back_is_found_out_before_anything_is_asked(saving):
    sink = Sink()
    with FakeSlots(3, faults=Faults(forgetful=True, no_saving=not saving)) as fake:
        with pytest.raises(CannotShare):
            answer_all(fake.base_url, documents(2, 5), sink=sink)
        assert not sink.begun
        answer_all(fake.base_url, [Wish(f"{number} has nothing in common") for number in range(5)])


def test_pausing_begins_nothing_more_and_finishes_what_was_begun():
    wishes, sink = documents(2, 20), Sink(stop_after=5)
    with FakeSlots(4, seconds=0.01) as fake:
        answer_all(fake.base_url, wishes, sink=sink)
        assert 5 <= len(sink.answers) <= 9
        assert set(sink.begun) == set(sink.answers)


def test_cancelling_tells_what_was_under_way():
    wishes, sink = documents(2, 20), Sink()

    async def cancelled(lanes) -> None:
        task = asyncio.create_task(run(lanes, wishes, sink))
        while len(sink.answers) < 3:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    long = "so " * 20  # which is asked for side by side from the start
    with (
        FakeSlots(4, answer=lambda _text, _seed: long, seconds=0.02) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
    ):
        asyncio.run(cancelled(engine.batch()))
    told = {(wish, answer) for wish, answer, error in sink.undone_ if error is None}
    assert told
    assert told | set(sink.answers) == set(sink.begun)


def test_greedy_and_sampled_answers_to_one_prompt_share_it():
    text = "long " * 80
    wishes = [Wish(text, 1, GREEDY), Wish(text, 3, WARM)]
    with FakeSlots(4, seconds=0.002) as fake:
        sink, _ = answer_all(fake.base_url, wishes)
        check_complete(sink, wishes)
        assert fake.evaluated <= least(fake, wishes) + 1  # that the model can share is tried with one token
