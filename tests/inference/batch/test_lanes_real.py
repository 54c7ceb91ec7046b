"""Lanes on the real llama-server, and the fake one against it."""

from __future__ import annotations

import pytest
from batch_rig import GREEDY, WARM, Unhurried, Wish, answer_all
from inference_server import start_server, stop_server

from noa_lab.inference import ChatMessage, LlamaClient, LlamaInferenceEngine
from noa_lab.inference.batch import Prefixes, packed
from noa_lab.testing import FakeSlots, Faults

pytestmark = pytest.mark.real

SLOTS = 4


@pytest.fixture(scope="module")
def saving_server(llama_server_program, gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slots")
    more = ["-np", str(SLOTS), "-c", str(SLOTS * 512), "--cache-ram", "0", "--slot-save-path", f"{folder}/"]
    server = start_server(llama_server_program, gguf, folder / "log", *more)
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def plain_server(llama_server_program, gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    server = start_server(llama_server_program, gguf, folder / "log", "-np", str(SLOTS), "-c", str(SLOTS * 512))
    yield server
    stop_server(server)


def documents() -> list[Wish]:
    texts = [" ".join(f"Room {place} of house {house} is painted blue." for place in range(8)) for house in "AB"]
    return [
        Wish(f"{text}\n\n{question}", answers, config)
        for question in ("Which colour?", "How many rooms?", "Summarise.")
        for text in texts
        for answers, config in ((1, GREEDY), (3, WARM))
    ]


def least_and_tails(server, wishes) -> tuple[int, int]:
    """Fewest tokens to be evaluated, and how many of them only one prompt has: those after what it shares with any other."""
    with LlamaClient(server.url, server.key) as client:
        prompts = [packed(client.tokenize(client.apply_template([ChatMessage.user(wish.text)]))) for wish in wishes]
    distinct = sorted(set(prompts))
    shared = Prefixes(distinct).shared
    tails = sum(
        len(prompt) // 4 - max(before, after)
        for prompt, before, after in zip(distinct, shared, (*shared[1:], 0), strict=True)
    )
    return Prefixes(prompts).minimum + sum(wish.answers - 1 for wish in wishes), tails


def test_copied_trunks_are_evaluated_once(saving_server):
    wishes = documents()
    sink, lanes = answer_all(saving_server.url, wishes, api_key=saving_server.key, speeds=Unhurried())
    assert len(sink.answers) == sum(wish.answers for wish in wishes)
    assert lanes.facts.copying
    assert lanes.facts.evaluated <= lanes.facts.expected, "a lane did not hold what it was thought to hold"
    least, tails = least_and_tails(saving_server, wishes)
    # llama-server itself chooses the slots of further answers. One that still had a prompt to go on with has to read its tail again.
    assert lanes.facts.evaluated <= least + tails < 1.5 * least
    texts = {answer.text for (wish, _), answer in sink.answers.items() if wish.config is WARM}
    assert len(texts) > 9, "repeats are drawn with seeds of their own"


def test_a_server_that_cannot_save_is_used_with_pinned_lanes(plain_server):
    wishes = documents()
    sink, lanes = answer_all(plain_server.url, wishes, api_key=plain_server.key)
    assert len(sink.answers) == sum(wish.answers for wish in wishes)
    assert not lanes.facts.copying
    total = sum(answer.prompt_tokens for answer in sink.answers.values())
    assert lanes.facts.evaluated <= 0.5 * total


def test_a_shared_beginning_gives_the_probabilities_that_the_whole_prompt_gives(saving_server):
    config = GREEDY.model_copy(update={"n_probs": 5, "max_tokens": 1})
    wishes = [Wish(wish.text, 1, config) for wish in documents() if wish.config is GREEDY]
    sink, lanes = answer_all(saving_server.url, wishes, api_key=saving_server.key)
    assert lanes.facts.copies > 0
    with LlamaInferenceEngine(saving_server.url, "m", saving_server.key, cache_prompt=False) as engine:
        for wish in wishes:
            alone = {
                each.token: each.logprob for each in engine.chat([ChatMessage.user(wish.text)], config).logprobs[0].top
            }
            shared = sink.answers[wish, 0].logprobs[0].top
            # Where a batch begins changes the last bits of the numbers, for a model of four bits a weight by a few hundredths.
            assert abs(alone[shared[0].token] - shared[0].logprob) < 0.3


def test_the_fake_evaluates_as_much_as_the_real_one(saving_server):
    """In a row, on one lane, both keep the same tokens, as far as their tokenizers allow to compare: all, all but one, or none."""
    text = " ".join(f"word{number}" for number in range(40))
    wishes = [Wish(text), Wish(text + " and more"), Wish("something else"), Wish(text)]
    kept = []
    with FakeSlots(SLOTS, faults=Faults()) as fake:
        for url, key in ((saving_server.url, saving_server.key), (fake.base_url, None)):
            shares = []
            for wish in wishes:
                sink, _ = answer_all(url, [wish], api_key=key)
                (answer,) = sink.answers.values()
                shares.append(round(answer.cached_tokens / answer.prompt_tokens, 1))
            kept.append(shares)
    assert (
        kept[0][0] == kept[1][0] == 0.0 or kept[0][0] > 0
    )  # other tests may have left something in the real one's slots
    assert [share >= 0.8 for share in kept[0]][1] == [share >= 0.8 for share in kept[1]][1]


def test_further_answers_take_the_first_idle_slots_and_leave_them_empty(saving_server):
    """What the schedules know of llama-server, on both servers: see `Lanes._start`."""
    import httpx

    def tokens(number: int) -> list[int]:
        return [1000 + number * 50 + place for place in range(30)]

    seen = []
    with FakeSlots(SLOTS) as fake:
        for url, key in ((saving_server.url, saving_server.key), (fake.base_url, "none")):
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:

                def ask(lane: int, number: int, **more):
                    body = {"prompt": tokens(number), "n_predict": 1, "id_slot": lane, "cache_prompt": True, **more}
                    return client.post("/completion", json=body).json()

                for lane in range(SLOTS):
                    ask(lane, lane)
                parts = ask(2, 9, n=3, seed=5)
                slots = [part["id_slot"] for part in sorted(parts, key=lambda part: part["index"])]
                held = [ask(lane, number)["timings"]["cache_n"] for lane, number in ((0, 0), (1, 1), (2, 9), (3, 3))]
                seen.append((slots, held))
    assert seen[0] == seen[1] == ([2, 0, 1], [0, 0, 29, 29])
