"""Records that lie, servers by name, and servers that are not ours: what is cleaned up, what is named, what is left alone."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from server_fakes import gone_within, is_clean, the_record, wait_until

from noa_lab import server
from noa_lab.errors import PortTaken, ServerError, ServerMissing
from noa_lab.paths import Home
from noa_lab.server import ServerSettings, _stop
from noa_lab.server._identity import mark_of, own_mark
from noa_lab.server._record import record_folder, write_record

PROMISE = 2.0
"""Seconds within which a server is gone after its last holder's death."""


# --- records


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
    running = serve()
    record = the_record(bare_home)
    running.stop()
    with subprocess.Popen(["sleep", "60"]) as orphan:
        dead = type(own_mark())(2**22 - 1, "ticks:1")
        write_record(record_folder(bare_home, "tiny"), record.changed(process=mark_of(orphan.pid), watcher=dead))
        assert server.servers(bare_home) == []
        assert orphan.wait(20) == -signal.SIGKILL


def test_stopping_one_from_before_a_reboot_signals_nobody(serve, bare_home):
    """Pids and ticks since the start of the machine begin anew with each start: equal ones prove nothing across it."""
    running = serve()
    record = the_record(bare_home)
    running.stop()
    host, _, rest = record.here.partition("/")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        mark = mark_of(stranger.pid)
        old = record.changed(here=f"{host}/another-boot/{rest.partition('/')[2]}", process=mark, watcher=mark)
        write_record(record_folder(bare_home, "tiny"), old)
        with pytest.raises(ServerMissing):
            server.stop(bare_home, "tiny")
        assert stranger.poll() is None
        assert is_clean(bare_home)
        stranger.kill()


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
    wait_until(lambda: running.state == "stopped")
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


def test_one_that_cannot_be_ended_does_not_spare_the_others(serve, bare_home, monkeypatch):
    one, two = serve(), serve(ServerSettings(slots=1))
    end = _stop.end_server

    def refuse(home, record):
        if record.name == one.name:
            raise ServerError("tiny cannot be ended.", fix="")
        end(home, record)

    with monkeypatch.context() as patched:
        patched.setattr(_stop, "end_server", refuse)
        with pytest.raises(ServerError, match="cannot be ended"):
            server.stop_all(bare_home)
    assert one.state == "ready"
    wait_until(lambda: two.state == "stopped")


def test_stop_all(serve, bare_home):
    serve()
    serve(ServerSettings(slots=1))
    assert server.stop_all(bare_home) == ["tiny", "tiny-2"]
    assert is_clean(bare_home)


# --- whose it is


def test_a_server_of_2024_that_does_not_name_its_model_is_known_by_its_port(serve, fake):
    fake.behave(props={"default_generation_settings": {"n_ctx": 512}, "total_slots": 2})
    assert serve().status().state == "ready"


@pytest.mark.parametrize("props", [{"model_path": "/another/model.gguf"}, {"something": "else"}])
def test_what_answers_for_another_model_is_not_ours(serve, fake, props):
    fake.behave(props=props)
    with pytest.raises(ServerError, match="not the server that noa_lab started"):
        serve()


# --- foreign servers


@pytest.fixture
def foreign(bare_home, fake):
    """A llama-server that somebody else has started: the process and its port."""
    command = [fake.folder / "llama-server", "-m", "/their/own.gguf", "--host", "127.0.0.1", "--port", "0", "-np", "1"]
    environment = {**os.environ, "LLAMA_API_KEY": "theirs-and-nobody-elses"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stderr if "listening on" in line)
        yield process, int(said.rpartition(":")[2])
        process.kill()


def seen(home, pid):
    return next((one for one in server.foreign_servers(home) if one.pid == pid), None)


def test_a_foreign_server_is_shown_and_never_ended(foreign, serve, bare_home):
    process, port = foreign
    running = serve()
    one = seen(bare_home, process.pid)
    assert (one.state, one.model, one.base_url) == ("foreign", "own.gguf", f"http://127.0.0.1:{port}")
    assert one.memory_bytes > 1 << 20
    assert "theirs" not in repr(one)
    assert one.name not in [each.name for each in server.servers(bare_home)]
    with pytest.raises(ServerError, match="has not started"):
        server.stop(bare_home, one.name)
    with pytest.raises(PortTaken) as caught:
        serve(ServerSettings(port=port))
    assert caught.value.fields["pid"] == process.pid
    assert server.stop_all(bare_home) == ["tiny"]
    assert running.status().state == "stopped"
    assert process.poll() is None


def test_our_own_are_not_foreign_also_before_their_record_names_them(serve, bare_home):
    running = serve()
    assert seen(bare_home, running.pid) is None
    write_record(record_folder(bare_home, "tiny"), the_record(bare_home).changed(process=None))
    assert seen(bare_home, running.pid) is None


def test_one_of_another_home_is_foreign_and_said_to_be_noa_labs(serve, tmp_path):
    running = serve()
    one = seen(Home(tmp_path / "another"), running.pid)
    assert one.state == "foreign"
    assert "another home" in one.notes[0]
