"""What every engine promises of streams: pieces as they come, cancels that are noticed, any thread and any event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from contract_rig import COUNTING, ENDLESS, LONG, greedy, wait_idle

from noa_lab.errors import BadInput, Cancelled
from noa_lab.inference import ChatMessage, EngineBase


def test_stream_is_the_answer_in_pieces(engine: EngineBase) -> None:
    stream = engine.stream(COUNTING, greedy(10))
    with pytest.raises(BadInput):
        stream.result  # noqa: B018
    pieces = list(stream)
    assert len(pieces) > 2
    assert "".join(pieces) == stream.result.text == engine.generate(COUNTING, greedy(10)).text
    with pytest.raises(BadInput):
        list(stream)


def test_stream_of_a_conversation(engine: EngineBase) -> None:
    messages = [ChatMessage.system("Be brief."), ChatMessage.user("Hi")]
    stream = engine.stream(messages, greedy(5))
    assert "".join(stream) == stream.result.text == engine.chat(messages, greedy(5)).text


def test_leaving_the_loop_cancels(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    for _ in engine.stream(ENDLESS, LONG):
        break
    wait_idle(engine, request)


def test_closing_from_another_thread_ends_the_loop(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    stream = engine.stream(ENDLESS, LONG)
    closer = threading.Timer(0.3, stream.close)
    closer.start()
    pieces = list(stream)
    closer.join()
    assert len(pieces) < 350
    with pytest.raises(Cancelled) as caught:
        stream.result  # noqa: B018
    assert caught.value.fields["text"] == "".join(pieces)
    wait_idle(engine, request)


def test_async_twins(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    async def ask() -> None:
        expected = engine.generate(COUNTING, greedy(6)).text  # sync, inside a running loop
        assert (await engine.agenerate(COUNTING, greedy(6))).text == expected
        stream = engine.astream(COUNTING, greedy(6))
        assert "".join([piece async for piece in stream]) == stream.result.text == expected
        messages = [ChatMessage.user("Hi")]
        assert (await engine.achat(messages, greedy(4))).text == engine.chat(messages, greedy(4)).text
        answers = await asyncio.gather(*(engine.agenerate(COUNTING, greedy(4)) for _ in range(3)))
        assert [answer.completion_tokens for answer in answers] == [4, 4, 4]

    asyncio.run(ask())


def test_async_cancels(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    async def leave() -> None:
        async for _ in engine.astream(ENDLESS, LONG):
            break

    async def cancel() -> None:
        task = asyncio.create_task(engine.agenerate(ENDLESS, LONG))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    wait_idle(engine, request)
    asyncio.run(cancel())
    wait_idle(engine, request)


def test_works_from_several_event_loops(engine: EngineBase) -> None:
    for _ in range(2):
        assert asyncio.run(engine.agenerate(COUNTING, greedy(2))).completion_tokens == 2
