"""The client against a real llama-server."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest
from inference_server import CONTEXT, RealServer, start_server, stop_server

from noa_lab.errors import RequestRefused, StreamBroken, Unreachable, Unsupported
from noa_lab.inference import (
    AsyncLlamaClient,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    InferenceConfig,
    LlamaClient,
    LlamaInferenceEngine,
    format_chat_prompt,
)

pytestmark = pytest.mark.real


@pytest.fixture
def client(real_server: RealServer):
    with LlamaClient(real_server.url, real_server.key) as client:
        yield client


def test_endpoints(client: LlamaClient) -> None:
    assert client.health_check()
    props = client.props()
    assert (props.context_size, props.slots, props.model_name) == (CONTEXT, 2, "smollm2-135m")
    assert props.build.startswith("b")
    assert props["default_generation_settings"]["n_ctx"] == CONTEXT
    assert [(slot.id, slot.busy, slot.context_size) for slot in client.slots()] == [
        (0, False, CONTEXT),
        (1, False, CONTEXT),
    ]
    client.completion(CompletionRequest(prompt="x", max_tokens=2))
    metrics = client.metrics()
    assert metrics["tokens_predicted_total"] >= 2
    assert "llamacpp:tokens_predicted_total" in metrics.text
    assert client.models()[0]["id"] == "smollm2-135m"
    text = "Zoë 🙂 <|im_end|>"
    assert client.detokenize(client.tokenize(text)) == text
    assert len(client.tokenize(text, parse_special=False)) > len(client.tokenize(text))
    assert client.apply_template([ChatMessage.user("Hi")]).endswith("<|im_start|>assistant\n")


def test_completion_and_chat(client: LlamaClient) -> None:
    ask = CompletionRequest(prompt="1, 2, 3, 4, 5,", temperature=0.0, max_tokens=6)
    response = client.completion(ask)
    assert response.content.startswith(" 6, 7")
    assert response.stop_reason == "limit"
    assert response.tokens_evaluated == len(client.tokenize(ask.prompt))
    assert response.tokens_predicted == 6
    tokens = client.tokenize("1, 2, 3, 4, 5,")
    assert (
        client.completion(CompletionRequest(prompt=tokens, temperature=0.0, max_tokens=6)).content == response.content
    )
    turns = [ChatMessage.user("Hi")]
    chat = client.chat(turns, max_tokens=4, temperature=0)
    assert (chat.stop_reason, chat.tokens_predicted) == ("length", 4)
    stream = client.chat_stream(ChatRequest(messages=turns, max_tokens=4, temperature=0, top_logprobs=2))
    assert "".join(stream) == stream.result.content == chat.content
    assert [len(found.top) for found in stream.result.probabilities] == [2, 2, 2, 2]
    constrained = client.completion(CompletionRequest(prompt="x", max_tokens=9, grammar='root ::= "yes"'))
    assert constrained.content == "yes"


def test_several_answers_to_one_prompt(client: LlamaClient) -> None:
    ask = CompletionRequest(prompt="Name a colour:", temperature=1.0, max_tokens=8, seed=5, n=2, n_probs=1)
    two = client.completions(ask)
    assert [response.index for response in two] == [0, 1]
    assert {response.id_slot for response in two} == {0, 1}
    assert [response.raw["generation_settings"]["seed"] for response in two] == [5, 6]
    for response in two:
        assert response.tokens_evaluated == 4
        assert client.detokenize(response.tokens) == response.content
        assert len(response.probabilities) == response.tokens_predicted == len(response.tokens)
        assert response.timings["cache_n"] + response.timings["prompt_n"] == 4
    with pytest.raises(RequestRefused, match="'n'"):
        client.completions(CompletionRequest(prompt="x", n=3))


def test_async_client(real_server: RealServer) -> None:
    async def ask() -> None:
        async with AsyncLlamaClient(real_server.url, real_server.key) as client:
            assert await client.health_check()
            stream = client.stream(CompletionRequest(prompt="The", temperature=0.0, max_tokens=4))
            pieces = [piece async for piece in stream]
            assert "".join(pieces) == stream.result.content
            assert await client.detokenize(await client.tokenize("abc")) == "abc"
            assert (await client.props())["total_slots"] == 2

    asyncio.run(ask())


def test_refusals(real_server: RealServer) -> None:
    with LlamaClient(real_server.url, "wrong") as stranger:
        assert stranger.health_check()
        with pytest.raises(RequestRefused, match="Invalid API Key") as caught:
            stranger.props()
        assert "wrong" not in repr(caught.value.fields) + str(caught.value)
    with LlamaClient(real_server.url, real_server.key) as client, pytest.raises(RequestRefused, match="grammar"):
        client.completion(CompletionRequest(prompt="x", grammar="root ::= ("))


def test_a_megabyte_of_prompt(client: LlamaClient) -> None:
    with pytest.raises(Exception, match="context holds"):
        client.completion(CompletionRequest(prompt="word " * 200_000))
    assert client.health_check()


def test_cancel_frees_the_slot(client: LlamaClient) -> None:
    took = []
    for _ in range(7):
        for _ in client.stream(CompletionRequest(prompt="Once upon a time", temperature=0.0, max_tokens=400)):
            break
        began = time.perf_counter()
        while any(slot["is_processing"] for slot in client.slots()):
            time.sleep(0.005)
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.25, took


def test_cancel_while_waiting_for_a_slot(real_server: RealServer, client: LlamaClient) -> None:
    async def crowd() -> None:
        engine = LlamaInferenceEngine(real_server.url, "m", real_server.key)
        configs = [InferenceConfig(temperature=0.0, max_tokens=tokens) for tokens in (60, 400, 400, 400)]
        tasks = [asyncio.create_task(engine.agenerate("Once upon a time", config)) for config in configs]
        while sum(slot.busy for slot in await asyncio.to_thread(client.slots)) < 2:
            await asyncio.sleep(0.01)
        for task in tasks[1:]:
            task.cancel()
        assert (await tasks[0]).completion_tokens == 60
        await engine.aclose()

    asyncio.run(crowd())
    end = time.monotonic() + 3  # 400 tokens take longer
    while any(slot.busy for slot in client.slots()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_in_the_middle(llama_server_program: Path, gguf: Path, tmp_path: Path) -> None:
    server = start_server(llama_server_program, gguf, tmp_path / "log", "--chat-template", "chatml")
    engine = LlamaInferenceEngine(server.url, "m", server.key)
    try:
        # The ChatML that llama-server puts in for models without a template counts as none.
        assert engine.capabilities.chat_template is False
        messages = [ChatMessage.user("Hi")]
        assert engine.render(messages) == format_chat_prompt(messages)
        assert engine.capabilities.embeddings is False
        with pytest.raises(Unsupported, match="embeddings"):
            engine.embed("x")
        stream = iter(engine.stream("Once upon a time", InferenceConfig(temperature=0.0, max_tokens=400)))
        pieces = [next(stream), next(stream)]
        stop_server(server)
        with pytest.raises(StreamBroken) as caught:
            pieces.extend(stream)
        assert caught.value.fields["text"] == "".join(pieces)
        with pytest.raises(Unreachable):
            engine.generate("x")
        assert LlamaClient(server.url).health_check() is False
    finally:
        stop_server(server)
        engine.close()
