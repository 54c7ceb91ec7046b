"""What the client and the server engine send, and what they make of the answer."""

from __future__ import annotations

import math

import pytest
from client_rig import ASK

from noa_lab.errors import BadInput, RequestRefused
from noa_lab.inference import (
    ChatMessage,
    CompletionRequest,
    InferenceConfig,
    LlamaClient,
    LlamaInferenceEngine,
    OpenAIEngine,
)
from noa_lab.testing import FakeLlamaServer, Script


def test_seed_names_map_onto_todays() -> None:
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        response = client.completion(ASK)
        sent = fake.seen[0].body
    assert (sent["prompt"], sent["n_predict"], sent["stop"], sent["temperature"]) == ("x", 100, ["."], 0.7)
    assert "max_tokens" not in sent
    assert "seed" not in sent
    assert str(response) == response.content == "Hello there"
    assert (response.model, response.stop_reason) == ("fake", "eos")
    assert (response.tokens_evaluated, response.tokens_predicted, response.tokens_cached) == (3, 2, 1)
    assert response.raw["content"] == "Hello there"


def test_every_sampler_is_sent_by_the_engine() -> None:
    with FakeLlamaServer() as fake, LlamaInferenceEngine(fake.base_url, "m", id_slot=1, cache_prompt=False) as engine:
        answer = engine.generate("x", InferenceConfig(seed=9, top_k=3, min_p=0.1, repeat_penalty=1.1))
        sent = fake.seen[0].body
    wanted = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 64,
        "seed": 9,
    }
    neutral = {
        "typical_p": 1,
        "mirostat": 0,
        "xtc_probability": 0,
        "dry_multiplier": 0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
    }
    wanted |= {
        **neutral,
        "cache_prompt": False,
        "id_slot": 1,
        "n_predict": 2048,
        "top_n_sigma": -1,
        "dynatemp_range": 0,
    }
    assert {name: sent[name] for name in wanted} == wanted
    assert sent["samplers"][0] == "penalties"
    assert answer.raw_request["seed"] == 9
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (3, 1, 2)


def test_a_setting_that_the_server_changed_is_no_secret() -> None:
    settings = {"temperature": 0.7, "top_k": 40, "min_p": 0.05}
    with (
        FakeLlamaServer([Script(final={"generation_settings": settings})]) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
        pytest.raises(RequestRefused, match="min_p"),
    ):
        engine.generate("x")


def test_a_grammar_that_the_server_left_out_is_no_secret() -> None:
    settings = {"temperature": 0.7, "grammar": ""}
    with (
        FakeLlamaServer([Script(final={"generation_settings": settings})]) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
    ):
        with pytest.raises(RequestRefused, match="grammar"):
            engine.generate("x", InferenceConfig(json_schema={"type": "integer"}))
        sent = next(seen.body for seen in fake.seen if seen.path == "/completion")
    assert sent["grammar"].startswith("root ::= ")
    assert "json_schema" not in sent


def test_line_separators_inside_json() -> None:
    pieces = ["a\u2028b", "\u0085c", "d\x0be\x1cf"]
    with FakeLlamaServer([Script(pieces=pieces)]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == "".join(pieces)


def test_events_cut_anywhere() -> None:
    big = "é" * 200_000
    with FakeLlamaServer([Script(pieces=[big, "!"])]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == big + "!"


def test_chat_of_the_client() -> None:
    events = [
        b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n',
        b'data: {"prompt_progress":{"total":2,"cache":0,"processed":1,"time_ms":1}}\n\n',
        b'data: {"choices":[{"delta":{"content":"Hi"}}],"model":"fake"}\n\n: ping\n\n',
        b'data: {"choices":[{"delta":{},"finish_reason":"length"}],"model":"fake"}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1},"timings":{"cache_n":2}}\n\ndata: [DONE]\n\n',
    ]
    with FakeLlamaServer([Script(raw=b"".join(events))]) as fake, LlamaClient(fake.base_url) as client:
        answer = client.chat([ChatMessage.user("x")], max_tokens=1)
        assert fake.seen[0].body["n_predict"] == 1
        with pytest.raises(BadInput, match="max_tokens"):
            client.chat([ChatMessage.user("x")], max_token=1)
        with pytest.raises(BadInput):
            client.chat([])
    assert (answer.content, answer.stop_reason) == ("Hi", "length")
    assert (answer.tokens_evaluated, answer.tokens_predicted, answer.tokens_cached) == (5, 1, 2)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"prompt": "x", "max_tokens": -2}, "max_tokens"),
        ({"prompt": "x", "temperature": float("nan")}, "temperature"),
        ({"promt": "x"}, "promt"),
    ],
)
def test_bad_requests(values: dict[str, object], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        CompletionRequest(**values)
    assert caught.value.fields["field"] == field


def test_one_request_one_answer() -> None:
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        for ask in (client.completion, client.stream):
            with pytest.raises(BadInput, match="completions"):
                ask(CompletionRequest(prompt="x", n=2))
        assert fake.seen == []
    with pytest.raises(BadInput, match="max_tokens"):
        CompletionRequest(prompt="x", extra={"n_predict": 3})


def test_the_model_is_named_in_every_request() -> None:
    bodies = {"/tokenize": {"tokens": [1]}, "/props?model=a%2Fb": {"total_slots": 1}}
    with FakeLlamaServer(bodies=bodies) as fake, LlamaClient(fake.base_url, model="a/b") as client:
        client.completion(ASK)
        client.tokenize("x")
        assert client.props() == {"total_slots": 1}
        assert [seen.body["model"] for seen in fake.seen[:2]] == ["a/b", "a/b"]


@pytest.mark.parametrize(
    "values",
    [
        {"stop": ["half a \ud83d character"]},
        {"grammar": "\ud83d"},
        {"json_schema": {"type": "number", "maximum": math.nan}},
        {"extra": {"mirostat_tau": math.inf}},
        {"extra": {"lora": object()}},
    ],
)
def test_what_is_no_json_is_not_taken_for_a_server_that_is_gone(values: dict[str, object]) -> None:
    async def recover(error: Exception) -> str:
        raise AssertionError(f"nothing was sent: {error}")

    with FakeLlamaServer() as fake, LlamaClient(fake.base_url, recover=recover) as client:
        with pytest.raises(BadInput, match="JSON"):
            client.completion(CompletionRequest(prompt="x", **values))
        assert fake.seen == []


def test_a_stop_text_that_cannot_be_sent_is_named_by_every_client() -> None:
    config = InferenceConfig(stop_sequences=("\ud83d",))
    with FakeLlamaServer() as fake:
        for engine in (LlamaInferenceEngine(fake.base_url, "m"), OpenAIEngine(fake.base_url + "/v1", "m")):
            with engine, pytest.raises(BadInput, match="JSON"):
                engine.chat([ChatMessage.user("x")], config) if isinstance(engine, OpenAIEngine) else engine.generate(
                    "x", config
                )
