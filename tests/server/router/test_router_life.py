"""A router is held, joined, kept, watched and ended like a server, and takes its models' servers with it."""

from __future__ import annotations

import os
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
from server_fakes import command_lines, wait_until

from noa_lab import server
from noa_lab.errors import PortTaken, ServerError, ServerMissing, SetupError, UnknownModel
from noa_lab.inference import InferenceConfig
from noa_lab.server._http import ask, ask_json
from noa_lab.server._identity import is_alive
from noa_lab.server._record import read_records
from noa_lab.server.router._sockets import CannotBind, open_sockets
from noa_lab.server.router._start import _prove_ours

PROMISE = 2.0


@pytest.fixture
def start(bare_home, fake_plan):
    """Starts the router of the test's plan, or joins it."""

    def call(plan=None, **options):
        return server.start_router(plan or fake_plan, home=bare_home, **options)

    return call


def complete(router, model: str | None = None) -> str:
    """The name of the model that answered."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port_of(router))
    body = '{"prompt": "x"}' if model is None else f'{{"prompt": "x", "model": "{model}"}}'
    headers = {"Authorization": f"Bearer {router.api_key}", "Content-Type": "application/json"}
    connection.request("POST", "/completion", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    name = answer.getheader("X-Noa-Lab-Model")
    connection.close()
    assert name is not None
    return name


def port_of(router) -> int:
    return int(router.base_url.rsplit(":", 1)[1])


def routers() -> list[str]:
    return command_lines("-m noa_lab.server.router")


def left(home) -> list[str]:
    """What is there of servers and routers."""
    records = [f"{record.name} {record.state} {record.reason}" for record in read_records(home)]
    return records + [line for line in routers() if str(home.root) in line]


def all_gone(home) -> bool:
    return not left(home)


def ends_in_time(home) -> None:
    """The processes are promised to be gone within 2 s; what was written of them goes with the next turn of their watchers."""
    wait_until(
        lambda: (
            not any(is_alive(record.process) for record in read_records(home))
            and not any(str(home.root) in line for line in routers())
        ),
        PROMISE,
    )
    wait_until(lambda: all_gone(home))


# --- using it


def test_a_build_with_a_known_fault_is_not_shown_to_other_machines(start, bare_home, fake_plan):
    plan = replace(fake_plan, host="0.0.0.0", allow_remote=True)
    with pytest.raises(SetupError, match="CVE-2026-107183"):
        start(replace(plan, runtime=replace(plan.runtime, build_number=11312)))
    assert left(bare_home) == []
    with start(replace(plan, runtime=replace(plan.runtime, build_number=12000))) as router:
        assert router.names == ("a", "b")


def test_models_start_on_their_first_request_and_end_with_the_router(start, bare_home):
    with start() as router:
        assert [one.name for one in server.servers(bare_home)] == ["router"], "nothing is loaded yet"
        assert complete(router) == "a"
        assert complete(router, "b") == "b"
        found = {one.name: one for one in server.servers(bare_home)}
        assert set(found) == {"router", "a", "b"}
        assert found["a"].held_by == (f"router (pid {router.pid})",)
        status = found["router"]
        assert (status.kind, status.state, status.model, status.slots_total) == ("router", "ready", "a, b", 2)
        assert status.pid == router.pid
        assert status.memory_bytes > 10**6
        assert [one["status"]["value"] for one in router.models()] == ["loaded", "loaded"]
    ends_in_time(bare_home)


def test_it_is_joined_by_who_wants_the_same_and_ends_with_the_last(start, bare_home):
    first = start()
    second = start()
    assert second.joined
    assert second.pid == first.pid
    assert str(second.api_key) == str(first.api_key)
    first.release()
    assert complete(second) == "a"
    second.release()
    ends_in_time(bare_home)


def test_it_can_be_had_by_its_name_alone(start, bare_home):
    with start() as router:
        again = server.attach(bare_home, "router")
        assert isinstance(again, server.Router)
        assert (again.pid, again.names, again.default) == (router.pid, ("a", "b"), "a")
        assert (again.model.name, again.settings.context_size) == ("a", 64)
        assert complete(again, "b") == "b"
        again.release()
    with pytest.raises(ServerMissing):
        server.attach(bare_home, "router")


def test_other_models_or_bounds_make_another_router(start, fake_plan):
    with start() as first, start(replace(fake_plan, default="b")) as second:
        assert (first.name, second.name) == ("router", "router-2")
        assert complete(second) == "b"
        assert "router" in second.notes[-1]


def test_a_server_that_is_up_with_the_same_settings_is_joined_and_survives(start, fake_plan, bare_home):
    planned = fake_plan.models[0]
    with server.serve(fake_plan.runtime, planned.file, planned.settings, home=bare_home) as held:
        with start() as router:
            assert complete(router) == "a"
            assert len(held.status().held_by) == 2
            unloaded = ask(
                router.base_url, "/models/unload", api_key=str(router.api_key), body={"model": "a"}, timeout=10
            )
            assert unloaded[0] == 200
        assert held.status().state == "ready"


def test_stop_ends_all_of_it_whoever_holds_it(start, router_holder, bare_home):
    holder = router_holder().ready()
    server.stop(bare_home, "router")
    ends_in_time(bare_home)
    with pytest.raises(ServerMissing):
        server.stop(bare_home, "router")
    holder.kill()


def test_its_log_tells_what_happened_and_holds_no_key(start, bare_home):
    with start() as router:
        complete(router)
        ask(router.base_url, "/completion", api_key="a wrong key", body={})
        wait_until(lambda: any("loaded a in" in line for line in router.logs(50)))
        lines = "\n".join(router.logs(50))
        key = str(router.api_key)
    assert "listening on" in lines
    assert "loaded a in" in lines
    assert key not in lines
    assert all(key not in path.read_text(errors="replace") for path in bare_home.logs.iterdir())
    assert list(server.read_log(bare_home, "router", lines=1))


def test_logs_go_where_the_file_says_each_to_its_own(start, fake_plan, tmp_path):
    file = tmp_path / "mine" / "server.log"
    with start(replace(fake_plan, logging=server.LogSettings(file=file, level="warning"))) as router:
        complete(router)
        complete(router, "b")
    assert sorted(path.name for path in file.parent.iterdir()) == ["server-a.log", "server-b.log", "server.log"]
    assert "loaded a in" not in file.read_text(), "it is no warning"


def test_no_secret_is_on_a_command_line_in_the_plan_or_readable_by_others(start, bare_home):
    with start() as router:
        complete(router)
        key = str(router.api_key)
        folder = bare_home.servers / "router"
        assert key not in (folder / "plan.json").read_text()
        assert stat.S_IMODE((folder / "plan.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "record.json").stat().st_mode) == 0o600
        assert key not in repr(router) + router._repr_html_() + repr(router.api_key)
        ours = command_lines("noa_lab.server.router", "noa_lab.server._watch", "llama-server")
        assert not [line for line in ours if key in line]
        models = {record.name: record.api_key for record in read_records(bare_home)}
        assert len(set(models.values())) == 2, "each model's server has a key of its own"


# --- ends of all kinds


def test_a_killed_holder_takes_it_along_with_its_servers(router_holder, bare_home):
    holder = router_holder().ready()
    holder.kill()
    ends_in_time(bare_home)


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_killed_holders(router_holder, bare_home, part):
    for _ in range(25):
        holder = router_holder().ready()
        holder.kill()
        ends_in_time(bare_home)


@pytest.mark.parametrize("who", ["router", "watcher"])
def test_a_killed_router_or_watcher_leaves_no_server_behind(router_holder, bare_home, who):
    holder = router_holder().ready()
    (record,) = [one for one in read_records(bare_home) if one.name == "router"]
    children = [one.process for one in read_records(bare_home) if one.kind == "server"]
    assert len(children) == 2
    mark = record.process if who == "router" else record.watcher
    assert mark is not None
    os.kill(mark.pid, signal.SIGKILL)
    wait_until(lambda: not any(child and psutil.pid_exists(child.pid) for child in children), PROMISE)
    holder.kill()
    server.stop_all(bare_home)


def test_a_router_that_crashes_is_started_again_at_its_address(start, bare_home):
    with start() as router:
        complete(router)
        old, address = router.pid, router.base_url
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: router.state == "ready" and router.pid not in (0, old))
        assert router.base_url == address
        assert complete(router, "b") == "b"
        assert complete(router, "a") == "a"
    ends_in_time(bare_home)


def test_an_engine_asks_again_when_its_router_was_killed(start, fake):
    with start() as router, router.engine("b") as engine, ThreadPoolExecutor(1) as pool:
        fake.let_pass(0)
        asking = pool.submit(engine.generate, "Once", InferenceConfig(max_tokens=3))
        wait_until(lambda: fake.requests == 1, 20)
        os.kill(router.pid, signal.SIGKILL)
        fake.let_pass(None)
        assert asking.result(30).text == " t0 t1 t2"
        assert fake.requests == 2


def test_a_kept_one_stays_and_is_joined_again(router_holder, start, bare_home):
    holder = router_holder("", keep=True).ready()
    holder.process.wait(10)
    with start() as router:
        assert router.joined
        assert router.pid == holder.pid
        assert complete(router, "b") == "b"
        router.follow()
    ends_in_time(bare_home)


def test_it_ends_in_time_with_a_client_that_never_lets_go(start, bare_home):
    router = start()
    with socket.create_connection(("127.0.0.1", port_of(router))) as stuck:
        stuck.sendall(b"POST /hang HTTP/1.1\r\nHost: localhost\r\n")
        router.release()
        ends_in_time(bare_home)


def test_a_model_that_crashes_is_started_again_for_the_next_request(start, bare_home):
    with start() as router:
        complete(router)
        (record,) = [one for one in read_records(bare_home) if one.name == "a"]
        assert record.process is not None
        os.kill(record.process.pid, signal.SIGKILL)
        assert complete(router) == "a"


def test_a_model_that_does_not_load_is_refused_with_the_reason(start, fake, bare_home):
    fake.behave(exit=1, say=["error loading model: the file is broken"])
    with start() as router:
        status, body = ask(router.base_url, "/completion", api_key=str(router.api_key), body={"model": "a"}, timeout=30)
        assert status == 503
        assert b"the file is broken" in body


# --- its port


@contextmanager
def listening(port: int = 0):
    with socket.create_server(("127.0.0.1", port)) as thief:
        yield thief.getsockname()[1]


def test_a_taken_port_names_its_holder(start, fake_plan, bare_home):
    with listening() as port:
        with pytest.raises(PortTaken) as caught:
            start(replace(fake_plan, port=port))
        assert caught.value.fields["pid"] == os.getpid()
        assert caught.value.fields["port"] == port
        assert f"(pid {os.getpid()})" in caught.value.message
        assert "NOA_LAB_SERVER__PORT" in caught.value.fix
    wait_until(lambda: all_gone(bare_home))
    with start(replace(fake_plan, port=port)) as router:
        assert router.base_url == f"http://127.0.0.1:{port}"


def test_a_port_of_our_own_router_is_named_by_how_to_stop_it(start, fake_plan):
    with start() as router:
        taken = replace(fake_plan, port=port_of(router), default="b")
        with pytest.raises(PortTaken) as caught:
            start(taken)
        assert "noa-lab stop router" in caught.value.fix


def test_loopback_is_always_listened_on():
    sockets = open_sockets("127.0.0.2", 0, reuse=False)
    try:
        first, second = (one.getsockname() for one in sockets)
        assert (first[0], second[0]) == ("127.0.0.1", "127.0.0.2")
        assert first[1] == second[1]
        with pytest.raises(CannotBind):
            open_sockets("127.0.0.1", first[1], reuse=False)
    finally:
        for one in sockets:
            one.close()
    (one,) = open_sockets("localhost", 0, reuse=False)
    assert one.getsockname()[0] == "127.0.0.1"
    one.close()


def test_what_answers_has_to_be_our_router(start, fake_plan, bare_home):
    with start() as router:
        (record,) = read_records(bare_home)
        _prove_ours(record, fake_plan)
        with pytest.raises(ServerError, match="does not belong"):
            _prove_ours(record.changed(port=1), fake_plan)
        with pytest.raises(ServerError, match="serves a, b"):
            _prove_ours(record, replace(fake_plan, models=fake_plan.models[:1]))
        assert ask_json(router.base_url, "/health") == {"status": "ok"}


def test_an_unknown_name_is_refused_before_anything_is_sent(start):
    with start() as router, pytest.raises(UnknownModel):
        router._resolve("c")
