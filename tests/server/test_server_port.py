"""The port of a server: nobody else gets it while it may be asked there, it is free afterwards, and a taken one names its holder."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from dataclasses import replace

import pytest
from server_fakes import gone_within, wait_until

from noa_lab import server
from noa_lab.errors import PortTaken, ServerError, ServerExited, ServerMissing
from noa_lab.inference import CompletionRequest
from noa_lab.server import ServerSettings
from noa_lab.server._port import PortInUse, port_taken, reserve_port

PROMISE = 2.0
ASK = CompletionRequest(prompt="Once", max_tokens=3)
NOT_HERE = "192.0.2.1"
"""An address that no machine has (RFC 5737)."""


def test_nobody_gets_the_port_while_the_server_is_down(serve):
    running = serve()
    pid, port = running.pid, int(running.base_url.rpartition(":")[2])
    os.kill(pid, signal.SIGKILL)
    taken = 0
    while running.state != "ready" or running.pid in (0, pid):
        for reuse in (False, True):
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
                try:
                    thief.bind(("127.0.0.1", port))
                    taken += 1
                except OSError:
                    pass
        time.sleep(0.002)
    assert taken == 0


def test_nobody_gets_the_port_while_an_engine_might_send_its_key_there(serve, bare_home):
    client = serve().client()
    port = int(client.base_url.rpartition(":")[2])
    server.stop(bare_home, "tiny")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", port))
    with pytest.raises(ServerExited):
        client.completion(ASK)


def test_a_chosen_port_is_had_again_after_a_stop(serve, bare_home):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = serve(ServerSettings(port=port))
    server.test_server(one.base_url, one.api_key)  # connections that linger
    server.stop(bare_home, "tiny")
    assert serve(ServerSettings(port=port)).base_url == one.base_url


def test_a_chosen_port_is_had_and_a_taken_one_names_its_holder(serve):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            serve(ServerSettings(port=port))
        assert caught.value.fields["pid"] == os.getpid()
        assert f"pid {os.getpid()}" in str(caught.value)
    running = serve(ServerSettings(port=port))
    assert running.base_url == f"http://127.0.0.1:{port}"
    with pytest.raises(PortTaken, match="noa_lab's own tiny"):
        serve(ServerSettings(port=port, slots=1))


def test_one_that_shares_the_port_is_noticed(serve):
    running = serve()
    with socket.socket() as sharer:
        sharer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharer.bind(("127.0.0.1", int(running.base_url.rpartition(":")[2])))
        sharer.listen()
        with pytest.raises(ServerError, match="another program listens"):
            serve()


def can_be_had(port):
    """Whether a program that asks for this port alone gets it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("end", ["stop", "release"])
def test_the_port_is_free_after_the_end_while_the_server_is_still_named(serve, end):
    running = serve()
    pid, port = running.pid, int(running.base_url.rpartition(":")[2])
    engine = running.engine()
    getattr(running, end)()
    gone_within(pid, PROMISE)
    assert not can_be_had(port), "the engine would send its key there"
    engine.close()
    del engine
    gc.collect()
    wait_until(lambda: can_be_had(port))  # its watcher lets go of it after llama-server's end


def test_what_was_let_go_of_hands_nothing_out(serve):
    running = serve()
    running.release()
    for ask in (running.engine, running.client):
        with pytest.raises(ServerMissing, match="let go of") as caught:
            ask()
        assert "joined" in caught.value.fix


def test_an_address_of_another_machine_is_not_called_taken():
    for port in (0, 54321):
        with pytest.raises(PortInUse, match="cannot be opened"):
            reserve_port(NOT_HERE, port)
        error = port_taken(NOT_HERE, port, ours=None, elsewhere="choose another port")
        assert "no address of this machine" in error.message
        assert "taken" not in error.message
        assert (error.fields["pid"], error.fields["program"]) == (None, None)


def test_a_server_on_an_address_of_another_machine_is_refused_by_name(serve, fake):
    fake.runtime = replace(fake.runtime, build_number=99999)  # a build that may be reached by others
    with pytest.raises(PortTaken, match=f"A port on {NOT_HERE} cannot be opened"):
        serve(ServerSettings(host=NOT_HERE, allow_remote=True))
