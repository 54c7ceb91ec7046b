"""What is printed cannot drive the terminal, and Ctrl-C ends a command in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from noa_lab.cli import _status, _terminal
from noa_lab.events import Progress
from noa_lab.server import ServerStatus
from noa_lab.tables import printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\r\x08"


def test_controls_and_bidi_are_replaced():
    shown = printable(f"a{HOSTILE}b\n\tc")
    assert shown.startswith("a\ufffd")
    assert shown.endswith("b\n\tc")
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r\x08")


def test_what_a_server_has_said_cannot_drive_the_terminal(capsys):
    hostile = "error loading model: \x1b]0;title\x07 \x9b2J"
    one = ServerStatus("a", "crashed", "m", reason=hostile, last_failure=hostile, restarts=1, notes=(hostile,))
    _status._print_remarks(one)
    _status._print_all(one)
    out = capsys.readouterr().out
    assert out.count("error loading model") == 3
    assert not {"\x1b", "\x07", "\x9b"} & set(out)


def test_tables_show_texts_as_they_are(capsys):
    _terminal.print_table("run [/wrong] x", ["[red]name[/red]", f"p{HOSTILE}"], [["[/b]", f"x{HOSTILE}"]])
    out = capsys.readouterr().out
    assert "run [/wrong] x" in out
    assert "[red]name[/red]" in out
    assert "[/b]" in out
    assert "\x1b]" not in out
    assert "\x07" not in out


def test_progress_says_how_fast_and_how_long():
    line = _terminal.TerminalReport()._line(Progress("Get", "", 40e6, 100e6, "bytes", rate=4e6), time.monotonic())
    assert "40.0 MB of 100.0 MB  40%  4.0 MB/s  15 s left" in line


GRID = (
    'name: {name}\nprompts: {{"[/b] p": "Say {{{{ word }}}}.", q: "{{{{ word }}}}?"}}\ninputs: [{{word: "{word}"}}]\n'
)
REST = 'sampling: [{temperature: 0, max_tokens: 4}]\nscorers: [{contains: "{{ word }}"}]\n'


@pytest.mark.real
def test_resume_belongs_to_its_file(noa_lab, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(GRID.format(name="first [/wrong]", word="one") + REST)
    second.write_text(GRID.format(name="second", word="two") + REST)
    assert noa_lab("compare", second, "--resume").returncode == 2, "nothing to continue"
    done = noa_lab("compare", first)
    assert done.returncode == 0, done.stderr
    assert "[/b] p" in done.stdout
    run_id = done.stdout.rpartition("Run: ")[2].split()[0]
    refused = noa_lab("compare", second, "--resume", run_id)
    assert refused.returncode == 2
    assert run_id in refused.stderr
    assert noa_lab("compare", first, "--resume", run_id, "--fresh").returncode == 2
    again = noa_lab("compare", first, "--resume")
    assert again.returncode == 0
    assert f"Run: {run_id}" in again.stdout


def interrupted(*arguments: object, until: str) -> tuple[int, str, str]:
    """Start a command, wait for `until` on standard output, send Ctrl-C; exit code, output, errors."""
    process = subprocess.Popen(
        [sys.executable, "-m", "noa_lab.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    seen = ""
    end = time.monotonic() + 100
    while until not in seen and time.monotonic() < end and (piece := process.stdout.read(1)):
        seen += piece
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    return process.returncode, seen + out, errors


@pytest.mark.real
def test_ctrl_c_lets_go_of_a_served_model(home):
    code, out, errors = interrupted("serve", until="Ctrl-C lets go of it")
    assert code == 0, errors
    assert "Let go of smollm2-135m" in out


@pytest.mark.real
def test_ctrl_c_stops_an_answer(home):
    # Greedy: what is drawn might hold no 4, or be over too soon.
    counting = ("generate", "Count: 1 2 3", "--max-tokens", 2000, "--temperature", 0)
    code, _, errors = interrupted(*counting, until="4")
    assert code == 130
    assert "Stopped." in errors
    assert "Traceback" not in errors
