"""The API key: who can read it, and to whom it is sent."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import psutil
import pytest
from server_fakes import the_record

from noa_lab.errors import ServerError
from noa_lab.server._record import record_folder
from noa_lab.server._serve import _prove_ours


def test_records_are_private(serve, bare_home):
    serve()
    assert bare_home.servers.stat().st_mode & 0o777 == 0o700
    folder = record_folder(bare_home, "tiny")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "record.json").stat().st_mode & 0o777 == 0o600
    assert (bare_home.logs / "tiny.log").stat().st_mode & 0o777 == 0o600


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


def in_terminal(command, environment):
    """What a command prints into a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:
            pass  # how Linux says that nobody has the terminal any more
        os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


def test_a_terminal_is_shown_the_key_and_a_pipe_is_not(serve, bare_home):
    key = str(serve().api_key)
    command = [sys.executable, "-m", "noa_lab.cli", "status", "--show-key"]
    environment = {**os.environ, "NOA_LAB_HOME": str(bare_home.root)}
    assert in_terminal(command, environment).split() == ["tiny", key]
    piped = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert piped.returncode == 2
    assert key not in piped.stdout + piped.stderr
    assert "terminal" in piped.stderr
