"""OpenAI's API on an endpoint that is nobody's in particular: what can be said there, what is refused, how faults are named."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from noa_lab.errors import BadInput, ContextOverflow, RequestRefused, StreamBroken, Unreachable, Unsupported
from noa_lab.inference import ChatMessage, InferenceConfig, OpenAIEngine
from noa_lab.testing import FakeLlamaServer, Script

KEY = "sk-very-secret"
TURNS = [ChatMessage.user("Hi")]
MODELS = {"/v1/models": {"data": [{"id": "m", "max_model_len": 77}]}}


def clock() -> None:
    """Tell the time."""


def events(*found: object, done: bool = True) -> Script:
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in found) + ("data: [DONE]\n\n" if done else "")
    return Script(raw=body.encode())


def delta(**found: object) -> dict:
    return {"model": "gpt", "choices": [{"index": 0, "delta": found, "finish_reason": None}]}


END = {"model": "gpt", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "model": "gpt",
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}
HELLO = events(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), END, USAGE)


def asked(fake: FakeLlamaServer) -> dict:
    return [seen.body for seen in fake.seen if seen.path.endswith("completions")][-1]


def test_a_chat() -> None:
    with FakeLlamaServer([HELLO], bodies=MODELS) as fake, OpenAIEngine(fake.base_url + "/v1", "m", KEY) as engine:
        stream = engine.stream(TURNS, InferenceConfig(seed=3, max_tokens=20, stop_sequences=("x",)))
        assert list(stream) == ["Hel", "lo"]
        answer = stream.result
        sent = asked(fake)
        assert [seen.headers["authorization"] for seen in fake.seen] == [f"Bearer {KEY}"] * len(fake.seen)
        assert KEY not in repr(engine) + repr(answer) + repr(answer.raw_request) + repr(engine.fingerprint())
        assert engine.capabilities.context_size == 77
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "max_tokens": 20,
        "stop": ["x"],
    }
    assert (answer.text, answer.model, answer.finish_reason, answer.seed) == ("Hello", "gpt", "stop", 3)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (9, 4, 2)
    assert 0 <= answer.timings.queue_ms <= answer.timings.ttft_ms <= answer.timings.total_ms


def test_raw_text() -> None:
    script = events(
        {"model": "gpt", "choices": [{"text": "a", "finish_reason": None}]},
        {"model": "gpt", "choices": [{"text": "b", "finish_reason": "length"}], "usage": USAGE["usage"]},
    )
    with FakeLlamaServer([script]) as fake, OpenAIEngine(fake.base_url + "/v1", "m") as engine:
        answer = engine.generate("Once", InferenceConfig(max_tokens=2))
        assert asked(fake)["prompt"] == "Once"
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("ab", "length", 9)


def test_tools_schema_and_logprobs() -> None:
    calls = [
        delta(
            tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": ""}}]
        ),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "}"}}]),
        {"model": "gpt", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]
    logprobs = {"content": [{"token": "7", "bytes": [55], "logprob": -0.5, "top_logprobs": []}]}
    number = {"model": "gpt", "choices": [{"delta": {"content": "7"}, "logprobs": logprobs, "finish_reason": "stop"}]}
    with FakeLlamaServer([events(*calls), events(number)]) as fake, OpenAIEngine(fake.base_url + "/v1", "m") as engine:
        answer = engine.chat(TURNS, tools=[clock], tool_choice="clock")
        assert [(call.name, call.arguments, call.id) for call in answer.tool_calls] == [("clock", {}, "c1")]
        assert answer.finish_reason == "tool_calls"
        assert asked(fake)["tool_choice"] == {"type": "function", "function": {"name": "clock"}}
        answer = engine.chat(TURNS, InferenceConfig(json_schema={"type": "integer"}, n_probs=2))
        assert (answer.logprobs[0].text, answer.logprobs[0].logprob) == ("7", -0.5)
        assert asked(fake)["response_format"]["json_schema"]["schema"] == {"type": "integer"}
        assert (asked(fake)["logprobs"], asked(fake)["top_logprobs"]) == (True, 2)


def test_what_the_api_cannot_say_is_refused() -> None:
    refused: list[Callable[[OpenAIEngine], object]] = [
        lambda engine: engine.chat(TURNS, InferenceConfig(top_k=5)),
        lambda engine: engine.chat(TURNS, InferenceConfig(repeat_penalty=1.1)),
        lambda engine: engine.chat(TURNS, InferenceConfig(grammar='root ::= "a"')),
        lambda engine: engine.chat(TURNS, InferenceConfig(overflow="rolling_window")),
        lambda engine: engine.count_tokens("x"),
        lambda engine: engine.render(TURNS),
        lambda engine: engine.continuation_logprobs("x", "y"),
        lambda engine: engine.embed("x"),
    ]
    with FakeLlamaServer([HELLO]) as fake, OpenAIEngine(fake.base_url + "/v1", "m") as engine:
        assert engine.capabilities.samplers == {"temperature", "top_p", "seed"}
        for ask in refused:
            with pytest.raises(Unsupported) as caught:
                ask(engine)
            assert hasattr(engine.capabilities, str(caught.value.fields["what"]))
        assert not any(seen.path.endswith("completions") for seen in fake.seen)
        assert engine.chat(TURNS, InferenceConfig(top_k=0)).text == "Hello"  # neutral: nothing is left out


@pytest.mark.parametrize(
    ("script", "error", "match"),
    [
        (Script(status=401, body={"error": {"message": "bad key"}}), RequestRefused, "bad key"),
        (Script(status=400, body={"error": {"message": "no"}}), RequestRefused, "no"),
        (
            Script(status=400, body={"error": {"message": "too long", "code": "context_length_exceeded"}}),
            ContextOverflow,
            "too long",
        ),
        (Script(drop=True), Unreachable, "Nothing answers"),
        (events(delta(content="a"), done=False), StreamBroken, "end mark"),
        (events(done=True), Unreachable, "end mark"),
        (events(delta(content="a"), {"error": {"message": "lost", "code": 500}}), StreamBroken, "lost"),
        (events({"error": {"message": "lost"}}), RequestRefused, "lost"),
        (Script(raw=b"data: {no\n\n"), Unreachable, "sent"),
        (Script(raw=b"data: [1]\n\n"), Unreachable, "no object"),
    ],
)
def test_faults_are_named(script: Script, error: type[Exception], match: str) -> None:
    with FakeLlamaServer([script, HELLO]) as fake, OpenAIEngine(fake.base_url + "/v1", "m", max_retries=0) as engine:
        with pytest.raises(error, match=match) as caught:
            engine.chat(TURNS, InferenceConfig(max_tokens=5))
        if error is StreamBroken:
            assert caught.value.fields["text"] == "a"
        if error is ContextOverflow:
            assert caught.value.fields["max_tokens"] == 5
        assert engine.chat(TURNS).text == "Hello"


def test_silence_ends() -> None:
    with (
        FakeLlamaServer([Script(head_after=30)]) as fake,
        OpenAIEngine(fake.base_url + "/v1", "m", patience=0.3, max_retries=0) as engine,
        pytest.raises(Unreachable, match="silent"),
    ):
        engine.chat(TURNS)


def test_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with FakeLlamaServer([HELLO]) as fake, OpenAIEngine(fake.base_url + "/v1", "m") as engine:
        assert engine.chat(TURNS).text == "Hello"
        shown = repr([seen.headers for seen in fake.seen])
    assert KEY not in shown
    assert "secret" not in shown


def test_nobody_there() -> None:
    with OpenAIEngine("http://127.0.0.1:1/v1", "m", max_retries=0) as engine, pytest.raises(Unreachable):
        engine.chat(TURNS)
    with pytest.raises(BadInput):
        OpenAIEngine("127.0.0.1:8080", "m")
