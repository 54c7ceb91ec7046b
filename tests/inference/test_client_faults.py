"""The client and the server engine against a server that misbehaves."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from noa_lab.errors import BadInput, ContextOverflow, RequestRefused, StreamBroken, UnknownModel, Unreachable
from noa_lab.inference import (
    AsyncLlamaClient,
    ChatMessage,
    CompletionRequest,
    InferenceConfig,
    LlamaClient,
    LlamaInferenceEngine,
    RoutedEngine,
)
from noa_lab.testing import FakeLlamaServer, Script

ASK = CompletionRequest(prompt="x", temperature=0.7, max_tokens=100, stop=["."])
KEY = "sk-very-secret"
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


def wait_for(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


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


def test_health_check_never_raises() -> None:
    with FakeLlamaServer() as fake:
        client = LlamaClient(fake.base_url)
        assert client.health_check() is True
        assert asyncio.run(AsyncLlamaClient(fake.base_url).health_check()) is True
    assert client.health_check() is False
    assert LlamaClient("http://127.0.0.1:1").health_check() is False
    assert LlamaClient("http://no-such-host.invalid").health_check() is False


def test_unreachable_is_named() -> None:
    with pytest.raises(Unreachable, match="noa-lab serve") as caught:
        LlamaClient("http://127.0.0.1:1").completion(ASK)
    assert caught.value.fields["url"] == "http://127.0.0.1:1"
    assert isinstance(caught.value, ConnectionError)


def test_the_key_is_sent_and_never_shown() -> None:
    refusal = Script(
        status=401, body={"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}
    )
    with FakeLlamaServer([Script(), refusal]) as fake:
        client, engine = LlamaClient(fake.base_url, KEY), LlamaInferenceEngine(fake.base_url, "m", KEY)
        answer = engine.generate("x")
        assert fake.seen[0].headers["authorization"] == f"Bearer {KEY}"
        with pytest.raises(RequestRefused) as caught:
            client.completion(ASK)
        shown = [client, engine, answer, answer.raw_request, answer.raw_response, caught.value, caught.value.fields]
        assert KEY not in "".join(map(repr, shown)) + str(caught.value)
        assert caught.value.fields["status"] == 401
        assert "api_key" in caught.value.fix
        client.close()
        engine.close()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "", "http://h:99999", "http://user:pw@127.0.0.1:1", None]
)
def test_bad_addresses(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        LlamaClient(url)
    assert caught.value.fields["field"] == "base_url"
    assert "pw" not in str(caught.value) + repr(caught.value.fields)


def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content


def test_a_stale_connection_is_replaced_once() -> None:
    with FakeLlamaServer([Script(), Script(drop=True), Script()]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == "Hello there"
        assert client.completion(ASK).content == "Hello there"
        assert [seen.connection for seen in fake.seen] == [1, 1, 2]


def test_a_fresh_connection_is_not_retried() -> None:
    with FakeLlamaServer([Script(drop=True), Script()]) as fake, LlamaClient(fake.base_url) as client:
        with pytest.raises(Unreachable):
            client.completion(ASK)
        assert len(fake.seen) == 1


def test_idle_connections_closed_by_the_server() -> None:
    with FakeLlamaServer() as fake, LlamaClient(fake.base_url) as client:
        for _ in range(5):
            assert client.completion(ASK).content == "Hello there"
            fake.close_idle()


def test_nothing_is_sent_twice_once_text_has_come() -> None:
    with FakeLlamaServer([Script(), Script(pieces=["one", " two", " three"], cut_after=2), Script()]) as fake:
        client = LlamaClient(fake.base_url)
        client.completion(ASK)
        stream, got = client.stream(ASK), []
        with pytest.raises(StreamBroken) as caught:
            got.extend(stream)
        assert got == ["one", " two"]
        assert caught.value.fields["text"] == "one two"
        assert len(fake.seen) == 2
        with pytest.raises(StreamBroken):
            stream.result  # noqa: B018
        client.close()


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


def test_line_separators_inside_json() -> None:
    pieces = ["a\u2028b", "\u0085c", "d\x0be\x1cf"]
    with FakeLlamaServer([Script(pieces=pieces)]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == "".join(pieces)


def test_events_cut_anywhere() -> None:
    big = "é" * 200_000
    with FakeLlamaServer([Script(pieces=[big, "!"])]) as fake, LlamaClient(fake.base_url) as client:
        assert client.completion(ASK).content == big + "!"


def test_waiting_for_a_slot_is_no_silence() -> None:
    with FakeLlamaServer([Script(head_after=1.2)]) as fake, LlamaClient(fake.base_url, patience=0.4) as client:
        assert client.completion(ASK).content == "Hello there"


def test_silence_of_a_dead_server_ends() -> None:
    with FakeLlamaServer([Script(head_after=30)], bodies={"/health": b"never mind"}) as fake:
        del fake._bodies["/health"]
        client = LlamaClient(fake.base_url, patience=0.3)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"silent for 0\.3 s"):
            client.completion(ASK)
        assert time.monotonic() - began < 2
        client.close()


@pytest.mark.parametrize("ping", [False, True])
def test_silence_in_the_middle_breaks_the_stream(ping: bool) -> None:
    slow, stuck = Script(pieces=["a"] * 8, pause=0.1), Script(pieces=["a", "b"], pause=5, ping=ping)
    with FakeLlamaServer([slow, stuck]) as fake, LlamaClient(fake.base_url, patience=0.4) as client:
        assert client.completion(ASK).content == "a" * 8  # longer than the patience, but never silent
        with pytest.raises(StreamBroken, match="silent"):
            client.completion(ASK)


def test_cancel_closes_the_connection() -> None:
    with FakeLlamaServer([Script(pieces=["x"] * 500, pause=0.01)]) as fake:
        client = LlamaClient(fake.base_url)
        for _ in client.stream(ASK):
            break
        wait_for(lambda: fake.hung_up == 1)
        with client.stream(ASK) as stream:
            next(iter(stream))
        wait_for(lambda: fake.hung_up == 2)
        client.close()


def test_async_cancel_closes_the_connection() -> None:
    async def cancel(fake: FakeLlamaServer) -> None:
        async with AsyncLlamaClient(fake.base_url) as client:
            task = asyncio.create_task(client.completion(ASK))
            await asyncio.to_thread(wait_for, lambda: bool(fake.seen))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with client.stream(ASK) as stream:
                async for _ in stream:
                    break

    with FakeLlamaServer([Script(pieces=["x"] * 500, pause=0.01)]) as fake:
        asyncio.run(cancel(fake))
        wait_for(lambda: fake.hung_up == 2)


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("kind", ["completion", "stream", "engine"])
def test_interrupt_cancels_the_request(kind: str) -> None:
    with FakeLlamaServer([Script(pieces=["x"] * 500, pause=0.01), Script()]) as fake:
        client, engine = LlamaClient(fake.base_url), LlamaInferenceEngine(fake.base_url, "m")
        ask = {
            "completion": lambda: client.completion(ASK),
            "stream": lambda: list(client.stream(ASK)),
            "engine": lambda: engine.generate("x"),
        }[kind]
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ask()
        timer.join()
        wait_for(lambda: fake.hung_up == 1)
        ask()
        client.close()
        engine.close()


def test_many_streams_at_once() -> None:
    async def ask(engine: LlamaInferenceEngine) -> list[str]:
        answers = await asyncio.gather(*(engine.agenerate(f"p{n}") for n in range(64)))
        return [answer.text for answer in answers]

    with FakeLlamaServer([Script(pieces=["x"] * 20, pause=0.005)]) as fake:
        with LlamaInferenceEngine(fake.base_url, "m") as engine:
            assert asyncio.run(ask(engine)) == ["x" * 20] * 64
        assert {seen.body["prompt"] for seen in fake.seen} == {f"p{n}" for n in range(64)}


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


def test_an_answer_nobody_asked_for() -> None:
    raw = b'data: {"index":2,"content":"a","stop":false}\n\n'
    with (
        FakeLlamaServer([Script(raw=raw)]) as fake,
        LlamaClient(fake.base_url) as client,
        pytest.raises(StreamBroken, match="index 2"),
    ):
        client.completions(CompletionRequest(prompt="x", n=2))


class Supervisor:
    """Says where the server is after it has gone."""

    def __init__(self, *addresses: str | None) -> None:
        self.addresses = list(addresses)
        self.errors: list[Exception] = []

    async def recover(self, error: Exception) -> str | None:
        self.errors.append(error)
        return self.addresses.pop(0)


def test_a_request_without_a_token_is_sent_again_where_the_server_is_back() -> None:
    with FakeLlamaServer([Script(cut_after=0)]) as old, FakeLlamaServer() as new:
        supervisor = Supervisor(new.base_url)
        with LlamaInferenceEngine(old.base_url, "m", recover=supervisor.recover) as engine:
            answer = engine.generate("x")
            assert answer.text == "Hello there"
            assert answer.timings.queue_ms > 0
            assert isinstance(supervisor.errors[0], StreamBroken)
            assert (len(old.seen), len(new.seen)) == (1, 1)
            engine.generate("y")  # and it stays there
            assert len(old.seen) == 1


def test_a_loading_server_is_waited_for() -> None:
    with FakeLlamaServer([Script(status=503, body=LOADING), Script()]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client:
            assert client.completion(ASK).content == "Hello there"


@pytest.mark.parametrize("pieces", [["one"], [""]])
def test_a_request_with_a_token_is_never_sent_again(pieces: list[str]) -> None:
    with FakeLlamaServer([Script(pieces=pieces, cut_after=1), Script()]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(StreamBroken) as caught:
            client.completion(ASK)
        assert supervisor.errors == []
        assert caught.value.fields["text"] == pieces[0]
        assert len(fake.seen) == 1


def test_sending_again_ends() -> None:
    with FakeLlamaServer([Script(cut_after=0)]) as fake:
        supervisor = Supervisor(*[fake.base_url] * 9)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(StreamBroken):
            client.completion(ASK)
        assert len(fake.seen) == 3
        gone = Supervisor(None)
        with LlamaClient(fake.base_url, recover=gone.recover) as client, pytest.raises(StreamBroken):
            client.completion(ASK)
    again = Supervisor(None)
    with LlamaClient("http://127.0.0.1:1", recover=again.recover) as client, pytest.raises(Unreachable):
        client.tokenize("x")
    assert len(again.errors) == 1


def test_a_refusal_is_not_sent_again() -> None:
    with FakeLlamaServer([Script(status=400, body={"error": "no"})]) as fake:
        supervisor = Supervisor(fake.base_url)
        with LlamaClient(fake.base_url, recover=supervisor.recover) as client, pytest.raises(RequestRefused):
            client.completion(ASK)
        assert supervisor.errors == []


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


@pytest.mark.full
def test_many_streams_for_long_do_not_grow() -> None:
    """64 streams at once for 2 minutes; the memory after the first 40 s is the memory at the end."""
    process, sizes = psutil.Process(), []

    async def one(engine: LlamaInferenceEngine, end: float) -> None:
        while time.monotonic() < end:
            async for _ in engine.astream("x"):
                pass

    async def crowd(engine: LlamaInferenceEngine) -> None:
        end = time.monotonic() + 120
        tasks = [asyncio.create_task(one(engine, end)) for _ in range(64)]
        while time.monotonic() < end:
            await asyncio.sleep(5)
            sizes.append(process.memory_info().rss / 1e6)
        await asyncio.gather(*tasks)

    with FakeLlamaServer([Script(pieces=[" token"] * 100, pause=0.05)]) as fake:
        fake.remember = 100
        with LlamaInferenceEngine(fake.base_url, "m") as engine:
            asyncio.run(crowd(engine))
    assert max(sizes[-4:]) < max(sizes[8:12]) + 3, sizes


def test_the_model_is_named_in_every_request() -> None:
    bodies = {"/tokenize": {"tokens": [1]}, "/props?model=a%2Fb": {"total_slots": 1}}
    with FakeLlamaServer(bodies=bodies) as fake, LlamaClient(fake.base_url, model="a/b") as client:
        client.completion(ASK)
        client.tokenize("x")
        assert client.props() == {"total_slots": 1}
        assert [seen.body["model"] for seen in fake.seen[:2]] == ["a/b", "a/b"]
