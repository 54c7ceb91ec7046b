"""What passes through the router, byte for byte and piece by piece, and what happens when one side goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import pytest
from router_fakes import Connection, FakeServers, RunningApp, ScriptedUpstream, make_plan

from noa_lab.server.router._schedule import Policy

KEY = {"Authorization": "Bearer the-key"}
EVENT = b'data: {"content": "x"}\n\n'


def play(script: Callable[[Connection], Awaitable[None]], test: Callable[..., Awaitable[None]], **plan: object) -> None:
    """Run `test(client, upstream, app)` against the application, whose models all answer as `script` says."""

    async def main() -> None:
        async with asyncio.timeout(20), ScriptedUpstream(script) as upstream:
            servers = FakeServers(upstream.base_url)
            running = RunningApp(replace(make_plan(), **plan), servers).run()
            async with running as app, httpx.AsyncClient(base_url=app.base_url, headers=KEY, timeout=15) as client:
                await test(client, upstream, app)

    asyncio.run(main())


async def quiet(app: RunningApp) -> None:
    """Wait until no request is at work."""
    async with asyncio.timeout(5):
        while any(one.running or one.waiting for one in app.desk.states()):
            await asyncio.sleep(0.002)


def test_path_query_body_and_answer_pass_as_they_are():
    async def script(connection: Connection) -> None:
        await connection.answer("ü{}".encode(), "text/weird", "418 X")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        answer = await client.post(
            "/slots/1%20x?action=save&model=b", content=b"\x00\xff raw", headers={"content-type": "x/y"}
        )
        assert (answer.status_code, answer.content) == (418, "ü{}".encode())
        assert answer.headers["content-type"] == "text/weird"
        assert answer.headers["x-noa-lab-model"] == "b"
        assert float(answer.headers["x-noa-lab-queue-ms"]) >= 0
        (got,) = upstream.requests
        assert got.path == "/slots/1%20x?action=save&model=b"
        assert got.body == b"\x00\xff raw"
        assert got.header("content-type") == "x/y"

    play(script, test)


def test_a_path_that_would_lead_elsewhere_is_refused():
    async def script(connection: Connection) -> None:
        await connection.answer(b"{}")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        # Put behind "http://127.0.0.1:PORT", everything before the "@" would be a user's name.
        elsewhere = upstream.base_url.removeprefix("http://")
        app.servers.base_url = "http://127.0.0.1:1"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(app.base_url.rpartition(":")[2]))
        head = f"GET %2f@{elsewhere}/props HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-key\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert upstream.requests == []

    play(script, test)


def test_keys_origins_and_what_belongs_to_a_connection_stay_behind():
    async def script(connection: Connection) -> None:
        await connection.begin_stream()
        await connection.send(b"0\r\n\r\n")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        headers = {
            "X-Conversation-Id": "c",
            "Origin": "http://localhost:1",
            "X-Api-Key": "z",
            "X-Mine": "m",
            "Expect": "y",
        }
        answer = await client.post("/completion", json={"model": "a"}, headers=headers)
        (got,) = upstream.requests
        assert got.header("authorization") == "Bearer key-of-a"
        assert got.header("accept-encoding") == "identity"
        assert got.header("x-mine") == "m"
        assert got.header("host") == upstream.base_url.removeprefix("http://")
        for name in ("x-conversation-id", "origin", "x-api-key", "expect"):
            assert got.header(name) is None
        assert answer.headers["access-control-allow-origin"] == "http://localhost:1", (
            "the router's own, not the upstream's *"
        )
        assert "server" not in answer.headers

    play(script, test)


def test_sampling_is_filled_in_and_the_rest_of_the_body_is_kept():
    async def script(connection: Connection) -> None:
        await connection.answer(b"{}")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        body = {"prompt": "héllo", "temperature": 0.9, "big": 2**60, "model": "a"}
        await client.post("/completion", json=body)
        await client.post("/tokenize", content=b'{"content" :  "x"}')
        assert json.loads(upstream.requests[0].body) == {**body, "top_k": 7}
        assert upstream.requests[1].body == b'{"content" :  "x"}', "not even its spaces are touched"

    play(script, test, sampling={"temperature": 0.1, "top_k": 7})


def test_a_stream_passes_piece_by_piece():
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection: Connection) -> None:
        await connection.begin_stream()
        while (piece := await pieces.get()) != b"":
            await connection.chunk(piece)
        await connection.send(b"0\r\n\r\n")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        async with client.stream("POST", "/completion", json={"stream": True}) as answer:
            received = answer.aiter_raw()
            for number in range(20):
                piece = f"data: {number}\n\n".encode()
                pieces.put_nowait(piece)
                # The next one is not sent before this one has come: whoever gathers pieces would wait for ever.
                assert await asyncio.wait_for(anext(received), 5) == piece
            pieces.put_nowait(b"")
            assert [piece async for piece in received] == []
        await quiet(app)

    play(script, test)


def test_a_client_that_goes_away_during_a_stream_ends_the_work():
    closed = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.begin_stream()
        await connection.chunk(EVENT)
        await connection.closed()
        closed.set()

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        async with client.stream("POST", "/completion", json={"stream": True}) as answer:
            assert await anext(answer.aiter_raw()) == EVENT
        await asyncio.wait_for(closed.wait(), 5)
        await quiet(app)

    play(script, test)


def test_a_client_that_goes_away_before_the_first_byte_ends_the_work():
    begun, closed = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        begun.set()
        await connection.closed()
        closed.set()

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        asking = asyncio.ensure_future(client.post("/completion", json={}))
        await begun.wait()
        asking.cancel()
        await asyncio.wait_for(closed.wait(), 5)
        await quiet(app)

    play(script, test)


def test_a_client_that_goes_away_while_the_model_loads_is_not_sent_on():
    async def script(connection: Connection) -> None:
        await connection.answer(b"{}")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        app.servers.may_start.clear()
        asking = asyncio.ensure_future(client.post("/completion", json={}))
        async with asyncio.timeout(5):
            while not any(one.waiting for one in app.desk.states()):
                await asyncio.sleep(0.002)
        asking.cancel()
        await quiet(app)
        app.servers.may_start.set()
        await client.post("/completion", json={"prompt": "second"})
        assert [json.loads(one.body) for one in upstream.requests] == [{"prompt": "second"}]

    play(script, test)


def test_a_server_that_dies_before_the_first_byte_is_asked_once_more():
    async def script(connection: Connection) -> None:
        if len(tries) == 0:
            tries.append(1)
            connection.die()
        else:
            await connection.answer(b'{"content": "at last"}')

    tries: list[int] = []

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        answer = await client.post("/completion", json={"prompt": "p"})
        assert answer.json() == {"content": "at last"}
        assert [json.loads(one.body) for one in upstream.requests] == [{"prompt": "p"}] * 2

    play(script, test)


def test_a_request_that_kills_every_server_fails_by_name_and_is_not_tried_for_ever():
    async def script(connection: Connection) -> None:
        app_servers[0].states["a"] = "gone"
        connection.die()

    app_servers: list[FakeServers] = []

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        app_servers.append(app.servers)
        answer = await client.post("/completion", json={})
        assert answer.status_code == 502
        assert answer.json()["error"]["type"] == "model_died"
        assert len(upstream.requests) == 2
        assert app.servers.calls == [("start", "a"), ("start", "a")]
        await quiet(app)

    play(script, test)


def test_a_stream_that_breaks_off_is_never_asked_again_and_never_looks_finished():
    async def script(connection: Connection) -> None:
        await connection.begin_stream()
        await connection.chunk(EVENT)
        connection.die()

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        received = b""

        async def read() -> None:
            nonlocal received
            async with client.stream("POST", "/completion", json={"stream": True}) as answer:
                async for piece in answer.aiter_raw():
                    received += piece

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
        assert received.startswith(EVENT)
        told = json.loads(received.removeprefix(EVENT).removeprefix(b"data: "))
        assert told["error"]["type"] == "model_died"
        assert len(upstream.requests) == 1
        await quiet(app)

    play(script, test)


def test_a_plain_answer_that_breaks_off_is_broken_off_too():
    async def script(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        connection.die()

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/completion", json={})
        assert len(upstream.requests) == 1

    play(script, test)


def test_many_streams_at_once():
    async def script(connection: Connection) -> None:
        name = json.loads(connection.body)["name"]
        await connection.begin_stream()
        for number in range(20):
            await connection.chunk(f"{name}-{number};".encode())
            await asyncio.sleep(0)
        await connection.send(b"0\r\n\r\n")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        async def ask(name: int) -> None:
            answer = await client.post("/completion", json={"name": name, "model": "ab"[name % 2]})
            assert answer.text == "".join(f"{name}-{number};" for number in range(20))
            assert answer.headers["x-noa-lab-model"] == "ab"[name % 2]

        await asyncio.gather(*map(ask, range(100)))
        await quiet(app)

    play(script, test)


# --- the router's own answers


def test_what_it_says_of_itself():
    async def script(connection: Connection) -> None:
        await connection.answer(b"{}")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/slots")).json() == []
        assert (await client.get("/slots?model=a")).status_code == 503
        assert (await client.get("/metrics?model=a")).json()["error"]["type"] == "unavailable_error"
        assert app.servers.calls == [], "looking loads nothing"
        loaded = await client.post("/models/load", json={"model": "b"})
        assert loaded.json() == {"success": True, "model": "b"}
        a, b = (await client.get("/v1/models")).json()["data"]
        assert (a["id"], a["default"], a["status"]["value"]) == ("a", True, "unloaded")
        assert (b["id"], b["default"], b["status"]["value"], b["memory_bytes"]) == ("b", False, "loaded", 10)
        assert (await client.get("/v1/models/b")).json()["id"] == "b"
        assert (await client.get("/v1/models/c")).status_code == 404
        assert (await client.get("/slots?model=b")).json() == {}, "a loaded model's own"
        assert 'noa_lab_router_starts_total{model="b"} 1' in (await client.get("/metrics")).text
        assert (await client.post("/models/unload", json={"model": "b"})).json()["success"]
        assert app.servers.calls == [("start", "b"), ("stop", "b")]

    play(script, test)


def test_unload_is_refused_while_the_model_is_at_work():
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        begun.set()
        await go_on.wait()
        await connection.answer(b"{}")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        asking = asyncio.ensure_future(client.post("/completion", json={"model": "a"}))
        await begun.wait()
        answer = await client.post("/models/unload", json={"model": "a"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (409, "model_busy")
        go_on.set()
        assert (await asking).status_code == 200

    play(script, test)


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b'{"model": "x"}', 404, "model_not_found"),
        (b'{"model": 3}', 400, "invalid_request_error"),
        (b"{", 400, "invalid_request_error"),
        (b"[]", 400, "invalid_request_error"),
    ],
)
def test_bad_requests_are_answered_in_llama_servers_form(content, status, kind):
    async def script(connection: Connection) -> None:
        raise AssertionError("nothing is sent on")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        for path in ("/completion", "/models/load", "/models/unload"):
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == (status, kind)
            assert error["message"]

    play(script, test)


def test_refusals_say_why():
    async def script(connection: Connection) -> None:
        raise AssertionError("nothing is sent on")

    async def test(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        answer = await client.post("/completion", json={"model": "a"})
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert (error["type"], error["needed_bytes"], error["budget_bytes"]) == ("model_too_large", 10, 5)

    play(script, test, policy=Policy(5))

    async def failing(client: httpx.AsyncClient, upstream: ScriptedUpstream, app: RunningApp) -> None:
        app.servers.failing.add("a")
        answer = await client.post("/completion", json={"model": "a"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "model_failed")
        assert "bad model" in answer.json()["error"]["reason"]
        assert answer.headers["retry-after"]
        status = (await client.get("/v1/models")).json()["data"][0]["status"]
        assert status["value"] == "failed"
        assert "bad model" in status["reason"]

    play(script, failing)
