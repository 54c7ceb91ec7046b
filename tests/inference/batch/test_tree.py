"""The tree on the real model: parity with a strict llama-server, and everything an answer can end by."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest
from batch_rig import GREEDY, WARM, Sink, Wish, question, run
from inference_server import start_server, stop_server

from noa_lab.errors import CannotShare, ContextOverflow, RequestRefused, Unreachable
from noa_lab.inference import ChatMessage, InferenceConfig, LlamaInferenceEngine
from noa_lab.inference.batch import Prefixes, packed
from noa_lab.inference.embedded import EmbeddedEngine, TreeEngine

pytestmark = pytest.mark.real

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
TASKS = ("Which colour?", "Write a line about it.", "Count to five.", "Name a town.", "Say it in French.", "Why?")


@pytest.fixture(scope="module")
def strict_server(llama_server_program, gguf, tmp_path_factory):
    server = start_server(
        llama_server_program, gguf, tmp_path_factory.mktemp("strict") / "log", "-np", "1", "-c", "512"
    )
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def tree(gguf):
    with TreeEngine(gguf, lanes=4, context_size=512, threads=1) as engine:
        yield engine


def answer_all(tree, wishes, **options):
    sink, batch = options.pop("sink", None) or Sink(), tree.batch()
    asyncio.run(run(batch, wishes, sink, **options))
    return sink, batch


def prompts(number: int) -> list[str]:
    return [
        f"The {COLOURS[place % 6]} house stands on hill {place // 6}. {TASKS[(place // 6 + place) % 6]}"
        for place in range(number)
    ]


def check_parity(tree, server, texts: list[str], tokens: int) -> tuple[int, int]:
    """Greedy answers beside a strict server's; where they part, it must be a near tie there. Returns equal answers and near ties."""
    config = InferenceConfig(temperature=0.0, max_tokens=tokens)
    wishes = [Wish(text, 1, config) for text in texts]
    sink, _ = answer_all(tree, wishes)
    equal = ties = 0
    with LlamaInferenceEngine(server.url, "m", server.key, mode="strict") as strict:
        for wish in wishes:
            ours = sink.answers[wish, 0].token_ids
            theirs = strict.chat([ChatMessage.user(wish.text)], config).token_ids
            place = next((at for at, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), None)
            if place is None:
                equal += 1
                continue
            ties += 1
            rendered = asyncio.run(question(tree.batch(), wish))
            forced = strict.generate(
                (*rendered.tokens, *theirs[:place]), config.model_copy(update={"max_tokens": 1, "n_probs": 20})
            )
            chances = {each.token: each.logprob for each in forced.logprobs[0].top}
            assert ours[place] in chances, f"{wish.text}: a token that the server holds unlikely"
            gap = forced.logprobs[0].top[0].logprob - chances[ours[place]]
            assert gap <= 0.1, f"{wish.text}: {ours[place]} is no near tie at place {place} ({gap:.3f})"
    return equal, ties


def test_greedy_answers_part_from_a_strict_servers_only_at_near_ties(tree, strict_server):
    equal, ties = check_parity(tree, strict_server, prompts(12), 12)
    assert equal + ties == 12
    assert equal >= 6


@pytest.mark.full
def test_greedy_parity_of_many_and_longer_answers(tree, strict_server):
    equal, ties = check_parity(tree, strict_server, prompts(120), 32)
    assert equal + ties == 120
    assert equal >= 60


def sampled_parity(tree, server, seeds: int) -> None:
    """First tokens drawn by the tree follow the probabilities that a strict server reports."""
    from scipy.stats import chisquare

    config = InferenceConfig(temperature=1.0, max_tokens=1, top_k=8, top_p=1.0)
    text = prompts(1)[0]
    sink, _ = answer_all(tree, [Wish(text, seeds, config, seed=1000)])
    drawn = [answer.token_ids[0] for answer in sink.answers.values()]
    with LlamaInferenceEngine(server.url, "m", server.key, mode="strict") as strict:
        reported = strict.chat([ChatMessage.user(text)], config.model_copy(update={"n_probs": 8, "seed": 1}))
        same = sum(
            strict.chat([ChatMessage.user(text)], config.model_copy(update={"seed": 1000 + number})).token_ids[0]
            == sink.answers[Wish(text, seeds, config, seed=1000), number].token_ids[0]
            for number in range(min(seeds, 20))
        )
    import numpy as np

    chances = {each.token: np.exp(each.logprob) for each in reported.logprobs[0].top}
    assert set(drawn) <= set(chances), "top_k = 8 lets no other token through"
    common = [token for token, chance in chances.items() if chance / sum(chances.values()) * seeds >= 5]
    observed = [drawn.count(token) for token in common]
    expected = np.array([chances[token] for token in common])
    expected *= sum(observed) / expected.sum()
    # The probabilities themselves differ in the last bits; 1 in 10,000 tells a wrong sampler from that.
    assert chisquare(observed, expected).pvalue > 1e-4
    assert same >= 0.8 * min(seeds, 20), "the same seed draws the same token, but at a tie"


def test_sampled_answers_agree_in_distribution(tree, strict_server):
    sampled_parity(tree, strict_server, 120)


@pytest.mark.full
def test_two_thousand_sampled_answers_agree_in_distribution(tree, strict_server):
    sampled_parity(tree, strict_server, 2000)


def test_there_are_sequences_for_as_many_lanes_as_are_allowed(gguf):
    with TreeEngine(gguf, lanes=125, context_size=16, threads=1) as most:
        assert most.capabilities.slots == 125


def test_what_is_shared_is_evaluated_once(tree):
    trunk = " ".join(f"Room {number} is {COLOURS[number % 6]}." for number in range(30))
    wishes = [
        Wish(f"{trunk}\n{task}", answers, config) for task in TASKS for answers, config in ((1, GREEDY), (3, WARM))
    ]
    sink, batch = answer_all(tree, wishes)
    assert len(sink.answers) == 24
    rendered = [asyncio.run(question(tree.batch(), wish)) for wish in wishes]
    least = Prefixes([packed(each.tokens) for each in rendered]).minimum + 12
    assert batch.facts.evaluated <= 1.02 * least
    repeats = [sink.answers[wish, answer] for wish in wishes if wish.config is WARM for answer in range(3)]
    assert len({answer.text for answer in repeats}) > 12
    assert {answer.seed for answer in repeats} == {7, 8, 9}


def test_what_was_evaluated_is_counted_over_pauses_between_windows(tree):
    """Where the next window comes late, the child has been idle, and begins anew."""
    sink, batch = Sink(), tree.batch()

    async def windows():
        for number, text in enumerate(prompts(2)):
            while len(sink.answers) < number:
                await asyncio.sleep(0.01)
            yield [await question(batch, Wish(text))]

    asyncio.run(batch.run(windows(), sink))
    assert batch.facts.evaluated == sum(each.prompt_tokens - each.cached_tokens for each in sink.answers.values())


def test_an_answer_ends_by_length_stop_text_or_end_of_text(tree):
    cases = {
        "length": (Wish("Count to fifty, please.", 1, InferenceConfig(temperature=0.0, max_tokens=5)), "length"),
        "stop": (
            Wish(
                "Count: one two three", 1, InferenceConfig(temperature=0.0, max_tokens=60, stop_sequences=(" ", "\n"))
            ),
            "stop_sequence",
        ),
        "end": (Wish("Reply with the one word yes.", 1, InferenceConfig(temperature=0.0, max_tokens=200)), "stop"),
    }
    sink, _ = answer_all(tree, [wish for wish, _ in cases.values()])
    for name, (wish, reason) in cases.items():
        answer = sink.answers[wish, 0]
        assert answer.finish_reason == reason, name
        if name == "length":
            assert answer.completion_tokens == 5
        if name == "stop":
            assert " " not in answer.text


def test_an_answer_ends_where_the_context_is_full(gguf):
    with TreeEngine(gguf, lanes=2, context_size=64, threads=1) as small:
        wishes = [Wish("Tell a long story.", 1, InferenceConfig(temperature=0.0, max_tokens=500)), Wish("word " * 80)]
        sink, _ = answer_all(small, wishes)
        answer = sink.answers[wishes[0], 0]
        assert (answer.finish_reason, answer.truncated) == ("length", True)
        assert answer.prompt_tokens + answer.completion_tokens == 64
        ((_, _, error),) = sink.undone_
        assert isinstance(error, ContextOverflow)


def test_grammars_and_schemas_hold_and_broken_ones_fail_alone(tree):
    yes_or_no = GREEDY.model_copy(update={"grammar": 'root ::= "yes" | "no"'})
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    as_json = InferenceConfig(temperature=0.7, max_tokens=40, json_schema=schema)
    broken = GREEDY.model_copy(update={"grammar": "root ::= ("})
    wishes = [
        Wish("Is it blue?", 1, yes_or_no),
        Wish("Give a number.", 2, as_json),
        Wish("Hm?", 1, broken),
        Wish("Hello"),
    ]
    sink, _ = answer_all(tree, wishes)
    assert sink.answers[wishes[0], 0].text in {"yes", "no"}
    assert {type(json.loads(sink.answers[wishes[1], number].text)["n"]) for number in (0, 1)} == {int}
    ((wish, _, error),) = sink.undone_
    assert wish is wishes[2]
    assert isinstance(error, RequestRefused)
    assert sink.answers[wishes[3], 0].text


def test_probabilities_come_with_the_tokens(tree):
    config = InferenceConfig(temperature=0.0, max_tokens=3, n_probs=4)
    sink, _ = answer_all(tree, [Wish("Hello", 1, config)])
    (answer,) = sink.answers.values()
    assert len(answer.logprobs) == len(answer.token_ids) == 3
    assert all(len(each.top) == 4 and each.top[0].token == each.token for each in answer.logprobs)


def test_pausing_finishes_what_grows_and_begins_nothing_more(tree):
    wishes = [Wish(text) for text in prompts(90)]
    sink = Sink(stop_after=3)
    answer_all(tree, wishes, sink=sink)
    assert set(sink.begun) == set(sink.answers)
    assert 3 <= len(sink.answers) < 90, "how many more the child takes until it hears of it is the machine's to say"
    again, _ = answer_all(tree, wishes[:4])
    assert len(again.answers) == 4, "the child goes on with the next batch"


def test_cancelling_stops_the_work_and_tells_what_was_under_way(tree):
    wishes, sink = [Wish(text, 1, InferenceConfig(temperature=0.0, max_tokens=60)) for text in prompts(30)], Sink()

    async def cancelled() -> None:
        task = asyncio.create_task(run(tree.batch(), wishes, sink))
        while not sink.begun:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    told = {(wish, answer) for wish, answer, error in sink.undone_ if error is None}
    assert told | set(sink.answers) == set(sink.begun)
    begun = time.monotonic()
    again, _ = answer_all(tree, [Wish("Hello", 1, InferenceConfig(temperature=0.0, max_tokens=2))])
    assert len(again.answers) == 1
    assert time.monotonic() - begun < 30, "the old work does not go on first"


def test_a_killed_child_ends_the_batch_and_the_next_one_has_a_new_child(gguf):
    wishes, sink = [Wish(text, 1, InferenceConfig(temperature=0.0, max_tokens=60)) for text in prompts(12)], Sink()

    async def killed(engine) -> None:
        task = asyncio.create_task(run(engine.batch(), wishes, sink))
        while not sink.begun:
            await asyncio.sleep(0.01)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(Unreachable, match="SIGKILL"):
            await task

    with TreeEngine(gguf, lanes=4, context_size=512, threads=1) as engine:
        asyncio.run(killed(engine))
        told = {(wish, answer) for wish, answer, _ in sink.undone_}
        assert told | set(sink.answers) == set(sink.begun)
        again, _ = answer_all(engine, [Wish("Hello")])
        assert len(again.answers) == 1


def test_a_model_that_cannot_go_back_is_refused_before_anything_is_asked(tree):
    facts, sink = tree._child.facts, Sink()
    assert facts["can_go_back"]
    facts["can_go_back"] = False
    try:
        with pytest.raises(CannotShare, match="cannot go back"):
            answer_all(tree, [Wish("Hello")], sink=sink)
    finally:
        facts["can_go_back"] = True
    assert sink.begun == []


def test_a_tree_engine_answers_single_questions_as_an_embedded_one_does(tree, gguf):
    with EmbeddedEngine(gguf, context_size=512, threads=1) as embedded:
        config = InferenceConfig(temperature=0.0, max_tokens=6)
        assert tree.generate("Once upon a time", config).text == embedded.generate("Once upon a time", config).text
    assert tree.capabilities.slots == 4


def test_a_batch_after_a_single_question_begins_with_an_empty_context(tree):
    wishes = [Wish(text) for text in prompts(3)]
    before, _ = answer_all(tree, wishes)
    tree.generate("Once upon a time", InferenceConfig(temperature=0.0, max_tokens=3))
    after, _ = answer_all(tree, wishes)
    assert {each.text for each in after.answers.values()} == {each.text for each in before.answers.values()}
