"""Streams of the client: cancels that reach the server, Ctrl-C, many at once, and what is left of them afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from client_rig import ASK, wait_for

from noa_lab.inference import AsyncLlamaClient, LlamaClient, LlamaInferenceEngine
from noa_lab.testing import FakeLlamaServer, Script


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


def interrupt_when(condition: Callable[[], bool]) -> None:
    wait_for(condition)
    os.kill(os.getpid(), signal.SIGINT)


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
        interrupter = threading.Thread(target=interrupt_when, args=(lambda: bool(fake.seen),))
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            ask()
        interrupter.join()
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


def test_what_is_over_is_let_go_of_at_once() -> None:
    """And not only when Python's collector goes through all there is: a process with many long answers would keep hundreds till then."""

    def left() -> int:
        return sum(isinstance(each, httpx.Response) for each in gc.get_objects())

    async def ask(engine: LlamaInferenceEngine) -> None:
        await engine.agenerate("x")
        assert [piece async for piece in engine.astream("x")] == ["Hello", " there"]

    with FakeLlamaServer() as fake, LlamaInferenceEngine(fake.base_url, "m") as engine:
        asyncio.run(ask(engine))
        gc.collect()
        before = left()
        gc.disable()
        try:
            for _ in range(3):
                engine.generate("x")
                assert list(engine.stream("x")) == ["Hello", " there"]
                asyncio.run(ask(engine))
            wait_for(lambda: left() <= before)
        finally:
            gc.enable()


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
