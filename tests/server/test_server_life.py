"""Promise 3 on the fake llama-server: it starts, answers, stops, and ends with its last holder, whatever ends that one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import psutil
import pytest
from server_fakes import gone_within, is_clean, nothing_runs, the_record, wait_until

from noa_lab import server
from noa_lab.errors import Cancelled, ServerNotReady
from noa_lab.events import CancelToken
from noa_lab.server import ServerSettings

PROMISE = 2.0
"""Seconds within which a server is gone after its last holder's death."""


# --- start, use, stop


def test_it_starts_answers_and_stops(serve, bare_home):
    heard = []
    running = serve(report=heard.append)
    assert running.state == "ready"
    assert not running.joined
    assert heard[-1].finished
    assert any("reading the model" in progress.message for progress in heard)
    assert all(check.ok for check in server.test_server(running.base_url, running.api_key))
    # On the CPU a batch is one step.
    assert running.settings == ServerSettings(threads=2, threads_batch=2, batch_size=512)
    pid = running.pid
    running.stop()
    assert running.state == "released"
    assert running.status().state == "stopped"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert is_clean(bare_home)
    assert server.servers(bare_home) == []
    running.stop()  # twice does nothing


def test_the_block_lets_go(serve, bare_home):
    with serve() as running:
        pid = running.pid
    gone_within(pid, PROMISE)
    wait_until(lambda: is_clean(bare_home))


def test_status_tells_the_truth(serve, bare_home, fake):
    running = serve(ServerSettings(slots=3))
    status = running.status()
    assert (status.state, status.slots_busy, status.slots_total) == ("ready", 0, 3)
    assert status.tokens_per_second == 20.0
    assert status.memory_bytes > 1 << 20
    assert 0 < status.uptime_seconds < 60
    assert status.holders == 1
    assert f"pid {os.getpid()}" in status.held_by[0]
    (fake.folder / "busy").touch()
    [listed] = server.servers(bare_home)
    assert (listed.state, listed.slots_busy) == ("busy", 1)
    assert running.api_key not in json.dumps(listed.as_dict())


def test_a_deep_home_works(tmp_path, fake):
    from noa_lab.paths import Home

    home = Home(tmp_path / ("deep" * 20) / ("deeper" * 15))
    with server.serve(fake.runtime, fake.model, home=home) as running:
        address = the_record(home).address
        assert str(home.root) not in address
        assert running.status().holders == 1
    gone_within(running.pid, PROMISE)
    wait_until(lambda: not os.path.exists(os.path.dirname(address.removeprefix("unix:"))))


# --- holders that die


@pytest.mark.parametrize("trial", range(5))
def test_sigkill_of_the_only_holder_ends_the_server(holder, bare_home, trial, record_property):
    one = holder().ready()
    one.kill()
    record_property("seconds", gone_within(one.pid, PROMISE))
    wait_until(lambda: is_clean(bare_home))


@pytest.mark.full
@pytest.mark.parametrize("trial", range(100))
def test_sigkill_of_the_only_holder_a_hundred_times(holder, bare_home, trial):
    one = holder().ready()
    one.kill()
    gone_within(one.pid, PROMISE)
    wait_until(lambda: is_clean(bare_home))


@pytest.mark.parametrize("trial", range(3))
def test_the_server_ends_with_its_second_holder(holder, bare_home, trial):
    one, two = holder().ready(), holder().ready()
    assert (one.pid, one.joined, two.joined) == (two.pid, False, True)
    one.kill()
    wait_until(lambda: server.servers(bare_home)[0].holders == 1)
    assert server.servers(bare_home)[0].state == "ready"
    two.kill()
    gone_within(two.pid, PROMISE)


def test_a_server_that_is_deaf_to_sigterm_still_ends_in_time(holder, fake):
    fake.behave(deaf=True)
    one = holder().ready()
    one.kill()
    gone_within(one.pid, PROMISE)


def test_a_stopped_server_still_ends_in_time(holder):
    one = holder().ready()
    os.kill(one.pid, signal.SIGSTOP)
    one.kill()
    gone_within(one.pid, PROMISE)


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.3, 0.45, 0.6])
def test_sigkill_while_starting_leaves_nothing(holder, fake, bare_home, tmp_path, delay):
    fake.behave(load_seconds=30)
    one = holder()
    time.sleep(delay)  # the moment, whatever it then is that is under way
    one.kill()
    wait_until(lambda: nothing_runs(tmp_path))
    assert server.servers(bare_home) == []
    assert is_clean(bare_home)


def test_children_of_a_holder_do_not_hold(holder, bare_home):
    one = holder("""
        child = subprocess.Popen(["sleep", "60"], close_fds=False, start_new_session=True)
        fork = os.fork()
        if fork == 0:
            os.setsid()
            wait()
        say(child.pid, fork)
        wait()
    """).ready()
    children = [int(word) for word in one.line().split()]
    one.kill()
    try:
        assert all(psutil.Process(child).is_running() for child in children)
        gone_within(one.pid, PROMISE)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_does_not_let_go(serve):
    running = serve()
    child = os.fork()
    if child == 0:
        running.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert running.state == "ready"
    assert running.status().holders == 1


def test_an_interrupt_of_the_group_reaches_neither_watcher_nor_server(holder, bare_home):
    one = holder("""
        signal.signal(signal.SIGINT, lambda *_: say("interrupted"))
        say("waiting")
        while True:
            time.sleep(0.05)
    """).ready()
    assert one.line() == "waiting\n"
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.line() == "interrupted\n"
    record = the_record(bare_home)
    for pid in (record.watcher.pid, record.process.pid):
        assert os.getsid(pid) != os.getsid(one.process.pid)
    assert server.servers(bare_home)[0].pid == one.pid


# --- keep


def test_a_kept_server_stays_and_is_found_again(holder, bare_home):
    one = holder("running.keep(); say('kept'); wait()").ready()
    assert one.line() == "kept\n"
    one.kill()
    wait_until(lambda: server.servers(bare_home)[0].holders == 0)
    [status] = server.servers(bare_home)
    assert (status.state, status.holders, status.keep) == ("ready", 0, True)
    two = holder("running.follow(); say('follows'); wait()").ready()
    assert (two.pid, two.joined) == (one.pid, True)
    assert two.line() == "follows\n"
    two.kill()
    gone_within(two.pid, PROMISE)


def test_keep_from_the_start_survives_the_holder(holder, bare_home):
    one = holder(keep=True).ready()
    one.kill()
    wait_until(lambda: server.servers(bare_home)[0].holders == 0)
    attached = server.attach(bare_home, "tiny")
    assert attached.pid == one.pid
    assert attached.model.name == "tiny"
    attached.follow()
    attached.release()
    gone_within(one.pid, PROMISE)


# --- giving up


def test_a_timeout_releases_everything(serve, fake, bare_home):
    fake.behave(load_seconds=30)
    with pytest.raises(ServerNotReady) as caught:
        serve(timeout=0.5)
    assert isinstance(caught.value, TimeoutError)
    wait_until(lambda: is_clean(bare_home), PROMISE)


def test_cancel_releases_everything(serve, fake, bare_home):
    fake.behave(load_seconds=30)
    token = CancelToken()
    threading.Timer(0.5, token.cancel).start()
    with pytest.raises(Cancelled):
        serve(cancel=token)
    wait_until(lambda: is_clean(bare_home), PROMISE)


def test_an_interrupt_while_starting_releases_everything(serve, fake, bare_home):
    fake.behave(load_seconds=30)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        serve()
    wait_until(lambda: is_clean(bare_home), PROMISE)
