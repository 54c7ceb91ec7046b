"""Child processes: how they end, and that they end with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from noa_lab.errors import Cancelled
from noa_lab.events import CancelToken
from noa_lab.runtime import _process
from noa_lab.runtime._process import Child, clean_environment, describe_exit, run, with_patient_threads

TREE = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]); "
    "print('up', flush=True); time.sleep(600)"
)


def marked(text: str) -> list[psutil.Process]:
    """Processes with this text in their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if text in " ".join(process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]


def gone(text: str, seconds: float = 6.0) -> bool:
    until = time.monotonic() + seconds
    while marked(text):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_output_and_exit_code_come_through(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log.txt"
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.buffer.write(b'\\xff\\n'); sys.exit(3)"
    done = run([sys.executable, "-u", "-c", code], on_line=lines.append, log=log)
    assert (done.returncode, done.timed_out) == (3, False)
    assert lines == ["one", "two", "\ufffd"] == log.read_text().splitlines()


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM"])
def test_a_signal_comes_through_with_its_name(name: str) -> None:
    number = getattr(signal, name)
    done = run([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    assert done.returncode == -number
    assert name in describe_exit(done.returncode)


def test_a_missing_program_is_an_exit_code(tmp_path: Path) -> None:
    done = run([tmp_path / "none"])
    assert done.returncode == 127
    assert "cannot be started" in done.text


def test_what_was_written_while_we_stood_still_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole process may get no processor for seconds, and a command may end meanwhile."""
    read, goes_on = Child._read, threading.Event()
    clock = chain([0.0], repeat(60.0))

    def late(self: Child) -> None:
        goes_on.wait(20)
        read(self)

    monkeypatch.setattr(Child, "_read", late)
    with Child([sys.executable, "-c", "print('one')"]) as child:
        child._process.wait(20)
        monkeypatch.setattr(_process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        assert list(child.lines(on_idle=goes_on.set)) == ["one"]


def test_too_long_ends_the_whole_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"mark-{os.getpid()}-timeout"
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(_process, "time", clock)

    def time_is_up(line: str) -> None:
        # Only now is there a tree.
        clock.monotonic = lambda: 3.0

    done = run([sys.executable, "-c", TREE, mark], seconds=2.0, on_line=time_is_up)
    assert done.timed_out
    assert done.tail == ("up",)
    assert gone(mark)


def test_cancelling_ends_the_whole_tree_within_a_second_or_two() -> None:
    mark = f"mark-{os.getpid()}-cancel"
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {TREE}"
    token = CancelToken()
    asked: list[float] = []

    def cancel_when_up(line: str) -> None:
        asked.append(time.monotonic())
        token.cancel()

    with pytest.raises(Cancelled):
        run([sys.executable, "-c", stubborn, mark], on_line=cancel_when_up, cancel=token)
    assert time.monotonic() - asked[0] < 6
    assert gone(mark)


def test_an_error_in_a_callback_ends_the_child() -> None:
    mark = f"mark-{os.getpid()}-callback"

    def fail(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="up"):
        run([sys.executable, "-c", TREE, mark], on_line=fail)
    assert gone(mark)


def test_when_we_are_killed_the_tree_dies_too() -> None:
    mark = f"mark-{os.getpid()}-orphan"
    ours = (
        "import sys; from noa_lab.runtime._process import run; "
        f"run([sys.executable, '-c', {TREE!r}, {mark!r}], on_line=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", ours], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert marked(mark)
        parent.kill()
    assert gone(mark, 2.0 + 2.5)


@pytest.mark.parametrize("own_session", [False, True], ids=["in its group", "in a session of its own"])
def test_what_a_command_leaves_running_keeps_nobody_waiting(own_session: bool) -> None:
    mark = f"mark-{os.getpid()}-left-{own_session}"
    sleeper = "import time; time.sleep(600)"
    code = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}, sys.argv[1]], "
        f"start_new_session={own_session}); print('up')"
    )
    started = time.monotonic()
    try:
        done = run([sys.executable, "-c", code, mark])
        assert (done.returncode, done.tail) == (0, ("up",))
        assert time.monotonic() - started < 30
        assert own_session or gone(mark)
    finally:
        for process in marked(mark):
            process.kill()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_costs_the_log_and_not_the_command() -> None:
    done = run([sys.executable, "-c", "print('one'); print('two')"], log=Path("/dev/full"), seconds=60)
    assert (done.returncode, done.tail, done.timed_out) == (0, ("one", "two"), False)


def test_ending_twice_is_harmless() -> None:
    with Child([sys.executable, "-c", "print(1)"]) as child:
        assert list(child.lines()) == ["1"]
        child.end()
    assert child.returncode == 0


def test_the_environment_is_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scrubbed = {
        *("LLAMA_ARG_CTX_SIZE", "GGML_X", "CXXFLAGS", "LD_PRELOAD", "CMAKE_ARGS", "AIP_MODE"),
        *("HF_TOKEN", "MY_TOKEN", "OPENAI_API_KEY", "aws_secret_access_key", "DB_PASSWORD"),
    }
    for name in scrubbed:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("KEPT", "yes")
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "1")
    environment = clean_environment(tmp_path, LLAMA_API_KEY="key")
    assert environment["GGML_VK_VISIBLE_DEVICES"] == "1"
    assert environment["KEPT"] == "yes"
    assert environment["LLAMA_API_KEY"] == "key"
    assert environment["XDG_CONFIG_HOME"] == str(tmp_path)
    assert not scrubbed & set(environment)


def test_waiting_threads_soon_sleep_unless_the_environment_says_how_they_wait():
    assert with_patient_threads({"A": "b"}) == {"A": "b", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "500"}
    for own in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "9"}):
        assert with_patient_threads(own) == own
