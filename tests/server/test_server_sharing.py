"""Who asks for the same gets the same server: joining, several at once, what holds and what does not."""

from __future__ import annotations

import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_fakes import gone_within, the_record, wait_until

from noa_lab import server
from noa_lab.server import ServerSettings
from noa_lab.server._channel import Channel, ChannelEnded, connect, listen
from noa_lab.server._holding import hold
from noa_lab.server._peers import Peers

PROMISE = 2.0
"""Seconds within which a server is gone after its last holder's death."""


# --- joining


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
    wait_until(lambda: two.status().holders == 1)
    assert two.state == "ready"


def test_a_server_is_held_by_what_it_has_handed_out(serve, fake, bare_home):
    engine = server.serve(fake.runtime, fake.model, home=bare_home).engine()
    pid = the_record(bare_home).process.pid
    gc.collect()
    [status] = server.servers(bare_home)
    assert (status.state, status.holders) == ("ready", 1)
    engine.close()
    del engine
    gc.collect()
    gone_within(pid, PROMISE)


def test_joining_waits_for_one_that_is_ending(serve, fake):
    fake.behave(deaf=True)
    first = serve()
    first.release()  # takes a second to end
    second = serve()
    assert second.name == "tiny"
    assert second.pid != first.pid


def test_a_joiner_outlives_the_starter_that_gave_up(serve, fake, holder, bare_home):
    fake.behave(load_seconds=3)
    first = holder()
    wait_until(lambda: (record := the_record(bare_home)) is not None and record.process is not None)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(serve)
        wait_until(lambda: server.servers(bare_home)[0].holders == 2)
        first.kill()
        running = joining.result()
    assert running.joined
    assert running.state == "ready"
    wait_until(lambda: running.status().holders == 1)


def test_a_joiner_hears_what_changed_while_it_connected(serve, bare_home):
    """The answer to "hold" is the news; what stands in the record on disk may be older, and is not said again."""
    serve()
    held = hold(the_record(bare_home).changed(state="starting"))
    assert held is not None
    channel, answered = held
    channel.close()
    assert answered.state == "ready"


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


# --- the connection


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


def test_a_holder_that_did_not_read_for_long_hears_every_change(tmp_path):
    """As a notebook that nobody uses while its server is started again and again: what it reads last has to be how things are."""
    listener, _ = listen("unix", tmp_path)
    peers = Peers(listener, "secret", lambda peer, message: None)
    ours, theirs = socket.socketpair()
    peers.add(theirs, {"pid": 1})
    for number in range(200):
        peers.tell_holders({"event": "state", "number": number, "padding": "x" * 3000})
        for done in range(10):
            peers.tell_holders({"event": "progress", "done": done})
    channel, heard = Channel(ours), []
    deadline = time.monotonic() + 10
    while 199 not in heard and time.monotonic() < deadline:
        message = channel.receive(0)
        if message is None:
            peers.turn(0)
        elif message["event"] == "state":
            heard.append(message["number"])
    assert heard == list(range(200))
    channel.close()
    peers.close()


def test_a_connection_without_the_secret_gets_nothing(serve, bare_home):
    running = serve()
    stranger = connect(the_record(bare_home).address, 1)
    stranger.send({"op": "stop", "id": 1, "secret": "guess"})
    with pytest.raises(ChannelEnded):
        stranger.receive(20)
    stranger.close()
    assert running.status().state == "ready"
