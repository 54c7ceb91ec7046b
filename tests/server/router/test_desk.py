"""The desk: places are given, waited for, and given back, whatever happens to clients and servers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from router_fakes import FakeServers, make_plan

from noa_lab.server.router import _desk
from noa_lab.server.router._desk import Desk, Refused
from noa_lab.server.router._model_servers import ModelServers


@contextmanager
def listening() -> Iterator[str]:
    """The address of a port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def holding(name: str, address: str, folder: Path) -> tuple[SimpleNamespace, ModelServers]:
    """A server that is ready at an address, and the real `ModelServers` that hold it."""
    held = SimpleNamespace(base_url=address, api_key="key", state="ready", pid=os.getpid())
    servers = ModelServers(replace(make_plan(), home=str(folder / "home")))
    servers._held[name], servers._numbers[name] = held, 1
    return held, servers


@pytest.fixture
def servers() -> FakeServers:
    return FakeServers()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def state_of(desk: Desk, name: str) -> str:
    return next(one.state for one in desk.states() if one.name == name)


def test_a_place_loads_the_model_and_says_where_it_answers(servers):
    async def main() -> None:
        desk = Desk(make_plan(), servers)
        async with desk.place("a") as first, desk.place("a") as second:
            assert first == second
            assert (first.model, first.api_key) == ("a", "key-of-a")
            assert "key" not in repr(first)
        assert servers.calls == [("start", "a")]

    asyncio.run(main())


def test_models_take_turns_where_memory_holds_one(servers):
    async def main() -> None:
        desk = Desk(make_plan("a", "b", budget=10), servers)

        async def ask(name: str) -> str:
            async with desk.place(name) as address:
                await asyncio.sleep(0.001)
                return address.model

        asked = ["a", "b", "a", "b", "b", "a"]
        assert await asyncio.gather(*map(ask, asked)) == asked
        assert servers.calls == [("start", "a"), ("stop", "a"), ("start", "b")]

    asyncio.run(main())


def test_a_client_that_goes_away_while_it_waits_leaves_nothing_behind(servers):
    async def main() -> None:
        servers.may_start.clear()
        desk = Desk(make_plan(), servers)

        async def ask() -> None:
            async with desk.place("a"):
                pass

        waiting = asyncio.ensure_future(ask())
        await until(lambda: servers.calls == [("start", "a")])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        servers.may_start.set()
        await until(lambda: state_of(desk, "a") == "loaded")
        assert not any(one.waiting or one.running for one in desk.states())

    asyncio.run(main())


def test_everyone_who_waits_for_a_model_that_does_not_load_is_told_why(servers):
    async def main() -> None:
        servers.failing.add("a")
        desk = Desk(make_plan(), servers)
        results = await asyncio.gather(*(_enter(desk, "a") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(one, Refused) and one.why.kind == "model_failed" for one in results)
        assert "bad model" in str(results[0])
        assert servers.calls == [("start", "a")]
        servers.failing.clear()
        await _enter(desk, "a")

    asyncio.run(main())


async def _enter(desk: Desk, name: str) -> None:
    async with desk.place(name):
        pass


def test_a_model_that_fails_in_a_way_that_nobody_expects_is_told_too(servers, monkeypatch):
    def fail(name):
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(servers, "start", fail)
        desk = Desk(make_plan(), servers)
        with pytest.raises(Refused, match="can't start new thread"):
            await asyncio.wait_for(_enter(desk, "a"), 5)
        assert state_of(desk, "a") == "unloaded"

    asyncio.run(main())


def test_a_server_that_goes_between_the_place_and_the_request_is_no_error_of_the_desk(servers, monkeypatch):
    """The request then gets an address where nobody is, which it can deal with."""

    async def main() -> None:
        desk = Desk(make_plan(), servers)
        give = desk._tell

        def give_and_go(request, refused):
            give(request, refused)
            monkeypatch.undo()
            desk._gone("a")

        monkeypatch.setattr(desk, "_tell", give_and_go)
        async with desk.place("a") as address:
            assert (address.model, address.start) == ("a", 1)
            await desk.lost(address)
        await _enter(desk, "a")
        assert servers.calls == [("start", "a"), ("start", "a")]

    asyncio.run(main())


def test_a_server_that_is_gone_is_started_again_for_the_next_request(servers):
    async def main() -> None:
        desk = Desk(make_plan(), servers)
        async with desk.place("a") as address:
            servers.states["a"] = "gone"
            await desk.lost(address)
        async with desk.place("a") as again:
            assert again.start > address.start
            await desk.lost(address)
            assert state_of(desk, "a") == "loaded", "an old address says nothing about the new server"

    asyncio.run(main())


def test_a_server_that_its_watcher_restarts_is_waited_for(servers):
    async def main() -> None:
        desk = Desk(make_plan(), servers)
        async with desk.place("a") as address:
            servers.states["a"] = "unsettled"
            waiting = asyncio.ensure_future(desk.lost(address))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            servers.states["a"] = "up"
            await waiting
        assert servers.calls == [("start", "a")]

    asyncio.run(main())


def test_a_server_that_was_restarted_elsewhere_is_asked_there(tmp_path):
    """Where the system cannot hold a port (Windows), a restart may take another one."""

    async def main(first: str, second: str) -> None:
        held, servers = holding("a", first, tmp_path)
        desk = Desk(make_plan(), servers)
        desk._schedule.models["a"].state = "loaded"
        async with desk.place("a") as before:
            held.base_url = second
            await asyncio.wait_for(desk.lost(before), 5)
        async with desk.place("a") as after:
            assert (before.base_url, after.base_url) == (first, second)

    with listening() as first, listening() as second:
        asyncio.run(main(first, second))


def test_a_server_whose_port_is_closed_is_not_up(tmp_path):
    """One that was killed lets go of its port before it is gone: a request that is sent to it again would be lost."""
    with listening() as address:
        _, servers = holding("a", address, tmp_path)
        assert servers.state("a") == "up"
    assert servers.state("a") == "unsettled"


def test_a_server_that_somebody_stopped_is_noticed_without_a_request(servers, monkeypatch):
    monkeypatch.setattr(_desk, "_LOOK_SECONDS", 0.01)

    async def main() -> None:
        desk = Desk(make_plan(), servers)
        watching = asyncio.ensure_future(desk.watch())
        await _enter(desk, "a")
        servers.states["a"] = "gone"
        await until(lambda: state_of(desk, "a") == "unloaded")
        assert desk.counts["failures", "a"] == 1
        watching.cancel()

    asyncio.run(main())


def test_unloading_waits_for_the_end_and_is_refused_while_it_is_at_work(servers):
    async def main() -> None:
        desk = Desk(make_plan(), servers)
        async with desk.place("a"):
            assert not await desk.unload("a")
        assert await desk.unload("a")
        assert servers.calls == [("start", "a"), ("stop", "a")]
        assert state_of(desk, "a") == "unloaded"
        assert desk.loaded("a") is None
        assert await desk.unload("a"), "there is nothing to do"

    asyncio.run(main())


def test_unused_models_end_by_themselves(servers):
    plan = make_plan()
    policy = type(plan.policy)(100, idle_seconds=0.05)
    plan = type(plan)(**{**{name: getattr(plan, name) for name in plan.__slots__}, "policy": policy})

    async def main() -> None:
        desk = Desk(plan, servers)
        await _enter(desk, "a")
        await until(lambda: ("stop", "a") in servers.calls)

    asyncio.run(main())
