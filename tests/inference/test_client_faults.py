"""The client and the server engine against a server that misbehaves."""

from __future__ import annotations

import time

import pytest
from client_rig import ASK

from noa_lab.errors import BadInput, ContextOverflow, RequestRefused, StreamBroken, UnknownModel, Unreachable
from noa_lab.inference import CompletionRequest, InferenceConfig, LlamaClient, LlamaInferenceEngine, RoutedEngine
from noa_lab.inference._loop import background
from noa_lab.testing import FakeLlamaServer, Script

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


@pytest.mark.parametrize(
    ("script", "error", "match"),
    [
        (
            Script(status=503, body=LOADING),
            RequestRefused,
            "loaded",
        ),
        (Script(status=500, body={"error": "boom"}), RequestRefused, "boom"),
        (Script(status=422, body={"detail": "no"}), RequestRefused, "no"),
        (Script(status=500, body=b"<html>"), RequestRefused, "html"),
        (Script(status=500, body=b""), RequestRefused, "HTTP 500"),
        (Script(status=400, body=[1]), RequestRefused, "HTTP 400"),
        (Script(pieces=[], error_event={"code": 500, "message": "lost"}), RequestRefused, "lost"),
        (Script(error_event={"code": 500, "message": "Context size has been exceeded."}), StreamBroken, "exceeded"),
        (Script(cut_after=0), StreamBroken, "half-way"),
        (Script(raw=b"data: {not json}\n\n"), Unreachable, "Nothing answers"),
        (Script(raw=b"data: [1]\n\n"), Unreachable, "no object"),
        (Script(raw=b""), Unreachable, "end mark"),
        (Script(raw=b'data: {"content":"a","stop":false}\n\ndata: \xff\xfe\n\n'), StreamBroken, "half-way"),
        (Script(final={"stop_type": "none", "tokens_evaluated": 0}), BadInput, "empty"),
        (Script(final={"stop_type": "novel"}), RequestRefused, "novel"),
    ],
)
def test_faults_are_named(script: Script, error: type[Exception], match: str) -> None:
    with FakeLlamaServer([script, Script()]) as fake, LlamaInferenceEngine(fake.base_url, "m") as engine:
        with pytest.raises(error, match=match):
            engine.generate("x")
        assert engine.generate("x").text == "Hello there"  # and the engine goes on


def test_overflow_has_the_numbers() -> None:
    body = {
        "error": {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}
    }
    with (
        FakeLlamaServer([Script(status=400, body=body)]) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
        pytest.raises(ContextOverflow) as caught,
    ):
        engine.generate("x", InferenceConfig(max_tokens=3))
    assert caught.value.fields == {"prompt_tokens": 9, "context_size": 8, "max_tokens": 3}


def test_what_is_no_llama_server() -> None:
    with FakeLlamaServer(bodies={"/props": [], "/tokenize": {"x": 1}, "/slots": b"<html>"}) as fake:
        client, engine = LlamaClient(fake.base_url), LlamaInferenceEngine(fake.base_url, "m")
        for ask in (client.props, client.slots, lambda: client.tokenize("x"), client.metrics):
            with pytest.raises(RequestRefused):
                ask()
        with pytest.raises(RequestRefused):
            engine.capabilities  # noqa: B018
        client.close()
        engine.close()


def test_a_router_has_no_context() -> None:
    with (
        FakeLlamaServer(bodies={"/props": {"role": "router"}}) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
        pytest.raises(RequestRefused, match="context"),
    ):
        engine.capabilities  # noqa: B018


def test_waiting_for_a_slot_is_no_silence() -> None:
    with FakeLlamaServer([Script(head_after=2.5)]) as fake, LlamaClient(fake.base_url, patience=1.0) as client:
        assert client.completion(ASK).content == "Hello there"


def test_silence_of_a_dead_server_ends() -> None:
    with FakeLlamaServer([Script(head_after=30)], bodies={"/health": b"never mind"}) as fake:
        del fake._bodies["/health"]
        client = LlamaClient(fake.base_url, patience=0.3)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"silent for 0\.3 s"):
            client.completion(ASK)
        assert time.monotonic() - began < 15, "the head would have come after 30 s"
        client.close()


@pytest.mark.parametrize("ping", [False, True])
def test_silence_in_the_middle_breaks_the_stream(ping: bool) -> None:
    slow, stuck = Script(pieces=["a"] * 12, pause=0.1), Script(pieces=["a", "b"], pause=30, ping=ping)
    with FakeLlamaServer([slow, stuck]) as fake, LlamaClient(fake.base_url, patience=1.0) as client:
        assert client.completion(ASK).content == "a" * 12  # longer than the patience, but never silent
        with pytest.raises(StreamBroken, match="silent"):
            client.completion(ASK)


def test_a_process_that_stood_still_does_not_take_its_server_for_silent() -> None:
    with (
        FakeLlamaServer([Script(pieces=["a"] * 8, pause=0.1)]) as fake,
        LlamaClient(fake.base_url, patience=0.4) as client,
        client.stream(ASK) as stream,
    ):
        pieces = iter(stream)
        first = next(pieces)
        background().loop.call_soon_threadsafe(time.sleep, 1.0)
        assert first + "".join(pieces) == "a" * 8


def test_an_answer_nobody_asked_for() -> None:
    raw = b'data: {"index":2,"content":"a","stop":false}\n\n'
    with (
        FakeLlamaServer([Script(raw=raw)]) as fake,
        LlamaClient(fake.base_url) as client,
        pytest.raises(StreamBroken, match="index 2"),
    ):
        client.completions(CompletionRequest(prompt="x", n=2))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "no such model", "type": "model_not_found", "known": ["qwen", "llama"], "nearest": "llama"}),
        (400, {"message": "model 'lama' not found", "type": "invalid_request_error"}),
    ],
)
def test_a_model_that_a_router_does_not_have(status: int, error: dict[str, object]) -> None:
    with FakeLlamaServer([Script(status=status, body={"error": error})]) as fake:
        with RoutedEngine(fake.base_url, "lama") as engine, pytest.raises(UnknownModel) as caught:
            engine.generate("x")
        assert fake.seen[0].body["model"] == "lama"
    assert ("llama" in caught.value.fix) == (status == 404)
