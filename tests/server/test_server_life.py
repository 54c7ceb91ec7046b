"""Promise 3 on the fake llama-server: joining, ending with the last holder, crashes, watchers that die, records that lie."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import threading
import time

import psutil
import pytest
from server_fakes import gone_within, is_clean, the_record, wait_until

from noa_lab import server
from noa_lab.errors import BadInput, Cancelled, ServerError, ServerMissing, ServerNotReady
from noa_lab.events import CancelToken
from noa_lab.server import ServerSettings
from noa_lab.server._holding import hold
from noa_lab.server._identity import own_mark
from noa_lab.server._record import record_folder, write_record
from noa_lab.server._serve import _prove_ours

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


def test_two_settings_are_two_servers(serve):
    heard = []
    one, two = serve(), serve(ServerSettings(slots=1), report=heard.append)
    assert (one.name, two.name) == ("tiny", "tiny-2")
    assert one.pid != two.pid
    assert one.api_key != two.api_key
    assert any("other settings" in note and "tiny-2" in note for note in two.notes)
    assert any("other settings" in progress.message for progress in heard)
    assert serve(ServerSettings(slots=1)).pid == two.pid


def test_equal_settings_share_one_server(serve):
    one, two = serve(), serve()
    assert two.joined
    assert (two.pid, two.api_key) == (one.pid, one.api_key)
    one.release()
    time.sleep(0.3)
    assert two.state == "ready"
    assert two.status().holders == 1


def test_a_server_is_held_by_what_it_has_handed_out(serve, fake, bare_home):
    engine = server.serve(fake.runtime, fake.model, home=bare_home).engine()
    pid = the_record(bare_home).process.pid
    gc.collect()
    time.sleep(0.2)
    assert server.servers(bare_home)[0].state == "ready"
    engine.close()
    del engine
    gc.collect()
    gone_within(pid, PROMISE)


def test_joining_waits_for_one_that_is_ending(serve, fake):
    fake.behave(deaf=True)
    first = serve()
    first.release()  # takes a second to end
    start = time.perf_counter()
    second = serve()
    assert second.name == "tiny"
    assert second.pid != first.pid
    assert time.perf_counter() - start < 4


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
    time.sleep(0.3)
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
def test_sigkill_while_starting_leaves_nothing(holder, fake, bare_home, delay):
    fake.behave(load_seconds=30)
    one = holder()
    time.sleep(delay)
    one.kill()
    wait_until(lambda: server.servers(bare_home) == [] and is_clean(bare_home), PROMISE + 0.5)


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
    time.sleep(0.3)
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
    time.sleep(0.3)
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
    time.sleep(0.2)
    attached = server.attach(bare_home, "tiny")
    assert attached.pid == one.pid
    assert attached.model.name == "tiny"
    attached.follow()
    attached.release()
    gone_within(one.pid, PROMISE)


# --- whose it is


def test_a_server_of_2024_that_does_not_name_its_model_is_known_by_its_port(serve, fake):
    fake.behave(props={"default_generation_settings": {"n_ctx": 512}, "total_slots": 2})
    assert serve().status().state == "ready"


@pytest.mark.parametrize("props", [{"model_path": "/another/model.gguf"}, {"something": "else"}])
def test_what_answers_for_another_model_is_not_ours(serve, fake, props):
    fake.behave(props=props)
    with pytest.raises(ServerError, match="not the server that noa_lab started"):
        serve()


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


def test_a_joiner_outlives_the_starter_that_gave_up(serve, fake, holder, bare_home):
    fake.behave(load_seconds=3)
    first = holder()
    wait_until(lambda: (record := the_record(bare_home)) is not None and record.process is not None, 15)
    starter_dies = threading.Timer(0.2, first.kill)
    starter_dies.start()
    running = serve()
    assert running.joined
    assert running.state == "ready"
    starter_dies.join()


# --- several at once


def test_four_processes_at_once_get_one_server(holder, bare_home):
    holders = [holder() for _ in range(4)]
    ready = [one.ready() for one in holders]
    assert len({one.pid for one in ready}) == 1
    assert sum(not one.joined for one in ready) == 1
    assert server.servers(bare_home)[0].holders == 4


def test_eight_threads_at_once_get_one_server(serve):
    made = []
    threads = [threading.Thread(target=lambda: made.append(serve())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({one.pid for one in made}) == 1


@pytest.mark.parametrize("variant", ["tcp", "connect"])
def test_the_ways_of_other_systems_work(serve, bare_home, monkeypatch, variant):
    if variant == "connect":
        monkeypatch.setattr("noa_lab.server._spawn.inherits_connections", lambda os_name: False)
    monkeypatch.setattr("noa_lab.server._spawn.transport_for", lambda os_name: "tcp")
    one, two = serve(), serve()
    assert the_record(bare_home).address.startswith("tcp:")
    assert (two.joined, two.pid) == (True, one.pid)
    assert one.status().holders == 2
    one.release()
    two.release()
    gone_within(one.pid, PROMISE)


def test_a_connection_without_the_secret_gets_nothing(serve, bare_home):
    from noa_lab.server._channel import ChannelEnded, connect

    running = serve()
    stranger = connect(the_record(bare_home).address, 1)
    stranger.send({"op": "stop", "id": 1, "secret": "guess"})
    with pytest.raises(ChannelEnded):
        stranger.receive(1)
    stranger.close()
    assert running.status().state == "ready"


# --- records


def test_records_are_private(serve, bare_home):
    serve()
    assert bare_home.servers.stat().st_mode & 0o777 == 0o700
    folder = record_folder(bare_home, "tiny")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "record.json").stat().st_mode & 0o777 == 0o600
    assert (bare_home.logs / "tiny.log").stat().st_mode & 0o777 == 0o600


def test_a_stale_record_is_cleaned_and_a_stranger_with_its_pid_is_spared(serve, bare_home):
    running = serve()
    record = the_record(bare_home)
    running.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        lie = record.changed(
            process=type(own_mark())(stranger.pid, "ticks:1"), watcher=type(own_mark())(stranger.pid, "ticks:1")
        )
        write_record(record_folder(bare_home, "tiny"), lie)
        assert server.servers(bare_home) == []
        assert is_clean(bare_home)
        assert stranger.poll() is None
        stranger.kill()


def test_an_orphan_of_ours_is_ended_after_proof(serve, bare_home):
    from noa_lab.server._identity import mark_of

    running = serve()
    record = the_record(bare_home)
    running.stop()
    with subprocess.Popen(["sleep", "60"]) as orphan:
        dead = type(own_mark())(2**22 - 1, "ticks:1")
        write_record(record_folder(bare_home, "tiny"), record.changed(process=mark_of(orphan.pid), watcher=dead))
        assert server.servers(bare_home) == []
        assert orphan.wait(2) == -signal.SIGKILL


def test_a_record_of_another_machine_is_left_alone(serve, bare_home):
    running = serve()
    record = the_record(bare_home)
    running.stop()
    write_record(record_folder(bare_home, "tiny"), record.changed(here="elsewhere/boot/ns"))
    assert server.servers(bare_home)[0].state == "elsewhere"
    assert serve().name == "tiny-2"
    with pytest.raises(ServerError, match="another machine"):
        server.stop(bare_home, "tiny")


def test_rubbish_in_the_folder_does_not_matter(serve, bare_home):
    (bare_home.servers / "tiny").mkdir()
    (bare_home.servers / "tiny" / "record.json").write_text("{")
    (bare_home.servers / ".gone-tiny-1-2").mkdir()
    assert serve().name == "tiny"


def test_a_hung_watcher_is_shown_and_can_be_stopped(serve, bare_home):
    running = serve()
    record = the_record(bare_home)
    os.kill(record.watcher.pid, signal.SIGSTOP)
    assert server.servers(bare_home)[0].state == "unresponsive"
    server.stop(bare_home, "tiny")
    gone_within(running.pid, PROMISE)
    assert is_clean(bare_home)


# --- by name


def test_stop_by_name_tells_the_other_holders(serve, bare_home):
    running = serve()
    server.stop(bare_home, "tiny")
    wait_until(lambda: running.state == "stopped", 1)
    assert "process" in running.status().reason
    with pytest.raises(ServerMissing):
        running.keep()


def test_names_that_are_not_up_offer_the_nearest(serve, bare_home):
    serve()
    with pytest.raises(ServerMissing) as caught:
        server.stop(bare_home, "tinny")
    assert "tiny" in caught.value.fix
    with pytest.raises(ServerMissing):
        server.attach(bare_home, "../tiny")
    with pytest.raises(ServerMissing):
        server.read_log(bare_home, "../../etc/passwd")
    assert server.find(bare_home, "nothing") is None


def test_stop_all(serve, bare_home):
    serve()
    serve(ServerSettings(slots=1))
    assert server.stop_all(bare_home) == ["tiny", "tiny-2"]
    assert is_clean(bare_home)


# --- secrets and logs


def test_the_key_shows_nowhere(serve, fake, bare_home):
    fake.behave(say=["somebody prints KEY here"])
    running = serve()
    key = str(running.api_key)
    record = the_record(bare_home)
    for pid in (running.pid, record.watcher.pid):
        line = " ".join(psutil.Process(pid).cmdline())
        assert key not in line
        assert record.secret not in line
    assert key not in running.log.read_text()
    assert "somebody prints [redacted] here" in running.log.read_text()
    seen = [
        repr(running),
        running._repr_html_(),
        repr(running.api_key),
        repr(running.status()),
        *running.logs(),
        repr(record),
    ]
    assert not any(key in text for text in seen)
    assert len(key) >= 32
    assert str(running.api_key) == f"{running.api_key}" == key
    with pytest.raises(ServerError) as caught:
        _prove_ours(record.changed(port=1))
    assert key not in str(caught.value)


def test_no_key_is_sent_to_a_port_that_is_not_the_servers(serve, bare_home):
    import socket

    from noa_lab.server._status import _measure

    serve()
    record = the_record(bare_home)
    with socket.create_server(("127.0.0.1", 0)) as thief:
        lie = record.changed(port=thief.getsockname()[1])
        with pytest.raises(ServerError, match="does not belong"):
            _prove_ours(lie)
        assert _measure(lie)["slots_busy"] == 0
        thief.settimeout(0.1)
        with pytest.raises(TimeoutError):
            thief.accept()


def test_logs_are_readable_by_name_also_afterwards(serve, bare_home):
    running = serve()
    assert any("listening on" in line for line in running.logs())
    running.stop()
    assert any("listening on" in line for line in server.read_log(bare_home, "tiny", lines=20))
    assert len(list(server.read_log(bare_home, "tiny", lines=1))) == 1


def test_following_a_log_ends_with_the_server(serve, bare_home):
    running = serve()
    lines = server.read_log(bare_home, "tiny", lines=0, follow=True)
    threading.Timer(0.3, running.stop).start()
    seen = list(lines)
    assert any("llama-server ended" in line for line in seen)


# --- foreign servers


def test_a_foreign_server_is_only_talked_to():
    results = server.test_server("http://127.0.0.1:9")
    assert [(one.name, one.ok) for one in results] == [("health", False), ("completion", False)]
    assert all(one.detail and one.ms >= 0 for one in results)
    for wrong in ("127.0.0.1:8080", "ftp://x", "http://", "http://x:abc"):
        with pytest.raises(BadInput):
            server.test_server(wrong)


def test_a_wrong_key_is_named(serve):
    running = serve()
    health, completion = server.test_server(running.base_url, "wrong")
    assert (health.ok, completion.ok) == (True, False)
    assert "Invalid API Key" in completion.detail


# --- no leaks


def test_cycles_leave_no_descriptors_threads_or_files(bare_home, fake):
    def cycle():
        with server.serve(fake.runtime, fake.model, home=bare_home) as running:
            running.status()
        gone_within(running.pid, PROMISE)

    cycle()
    before = (psutil.Process().num_fds(), threading.active_count())
    for _ in range(8):
        cycle()
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    wait_until(lambda: is_clean(bare_home))


def test_a_joiner_hears_what_changed_while_it_connected(serve, bare_home):
    """The answer to "hold" is the news; what stands in the record on disk may be older, and is not said again."""
    serve()
    held = hold(the_record(bare_home).changed(state="starting"))
    assert held is not None
    channel, answered = held
    channel.close()
    assert answered.state == "ready"
