"""A llama-server that dies or hangs: noticed, started again with its port and key, given up after three failures in a row; on the fake."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time

import psutil
import pytest
from server_fakes import gone_within, halt, is_clean, the_record, wait_until

from noa_lab import server
from noa_lab.errors import ServerError, ServerExited, StreamBroken, Unreachable
from noa_lab.inference import CompletionRequest
from noa_lab.server import ServerSettings, _server

PROMISE = 2.0
QUICK_TO_JUDGE = ServerSettings(hang_seconds=1.0)
ASK = CompletionRequest(prompt="Once", max_tokens=3)


def back(running, pid, seconds=15.0):
    """Wait until the server is ready again as another process."""
    wait_until(lambda: running.state == "ready" and running.pid not in (0, pid), seconds)


# --- crashes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_is_noticed_named_and_repaired(serve, bare_home, number):
    running = serve()
    before = (running.pid, running.base_url, str(running.api_key))
    os.kill(running.pid, number)
    wait_until(lambda: running.restarts == 1)  # its state is "starting" for a moment only, which may be missed
    back(running, before[0])
    status = running.status()
    assert (status.state, status.restarts) == ("ready", 1)
    assert signal.Signals(number).name in status.last_failure
    assert (running.base_url, str(running.api_key)) == before[1:]
    assert all(check.ok for check in server.test_server(running.base_url, running.api_key))
    assert "starting it again (2 of 3)" in "\n".join(running.logs())


def test_after_three_failures_in_a_row_it_stops_and_says_why(serve, bare_home, fake):
    running = serve()
    for _ in range(2):
        pid = running.pid
        os.kill(pid, signal.SIGKILL)
        back(running, pid)
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: running.state == "crashed")
    status = running.status()
    assert status.state == "crashed"
    assert "3 times in a row" in status.reason
    assert "SIGKILL" in status.reason
    assert fake.starts == 3
    [listed] = server.servers(bare_home)
    assert (listed.state, listed.pid) == ("crashed", None)
    record = the_record(bare_home)
    assert record.api_key == ""
    assert server.find(bare_home, "tiny") is None
    again = serve()
    assert (again.state, again.name, again.joined) == ("ready", "tiny", False)


def test_a_kept_server_is_started_again_without_any_holder(holder, bare_home):
    one = holder(keep=True).ready()
    one.kill()
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: (record := the_record(bare_home)).state == "ready" and record.process.pid != one.pid, 15)
    attached = server.attach(bare_home, "tiny")
    assert attached.restarts == 1
    assert attached.base_url == one.base_url
    attached.follow()
    attached.release()


def test_stopping_between_two_starts_ends_it(serve, bare_home, monkeypatch):
    running = serve()
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: running.restarts == 1)
    server.stop(bare_home, "tiny")
    wait_until(lambda: running.state == "stopped")
    assert is_clean(bare_home)


def test_stopping_a_crashed_one_forgets_it(serve, bare_home, fake):
    running = serve()
    fake.behave(
        exit=1, say=["gguf_init_from_reader: failed to read header"]
    )  # a restart would not help: it is not tried
    os.kill(running.pid, signal.SIGSEGV)
    wait_until(lambda: running.state == "crashed", 15)
    assert "header" in running.status().reason
    assert fake.starts == 2
    server.stop(bare_home, "tiny")
    assert is_clean(bare_home)


@pytest.mark.parametrize("how", ["pdeathsig", "guard"])
def test_sigkill_of_the_watcher_ends_the_server(serve, bare_home, monkeypatch, how):
    monkeypatch.setattr("noa_lab.server._spawn.death_watch_for", lambda platform: how)
    running = serve()
    first = running.pid
    os.kill(first, signal.SIGKILL)
    back(running, first)  # the second one is watched over as well
    os.kill(the_record(bare_home).watcher.pid, signal.SIGKILL)
    gone_within(running.pid, PROMISE)
    wait_until(lambda: running.state == "crashed")
    assert "watcher" in running.status().reason
    # A killed process lets go of its connections before it is gone.
    wait_until(lambda: server.servers(bare_home) == [] and is_clean(bare_home))


def test_sigterm_of_the_watcher_ends_the_server_in_order(serve, bare_home):
    running = serve()
    os.kill(the_record(bare_home).watcher.pid, signal.SIGTERM)
    gone_within(running.pid, PROMISE)
    wait_until(lambda: running.state == "stopped")
    assert "SIGTERM" in running.status().reason


# --- while it loads


@pytest.mark.parametrize(
    ("behaviour", "kind", "code", "starts"),
    [
        (
            {
                "exit": 1,
                "say": ["gguf_init_from_reader: failed to read header", "common_init_: failed to load model 'x'"],
            },
            "model",
            1,
            1,
        ),
        ({"exit": 1, "say": ["ggml: failed to allocate buffer of size 99"]}, "memory", 1, 1),
        ({"exit": 7}, "other", 7, 3),
        ({"signal": signal.SIGILL}, "cpu", -4, 1),
        ({"signal": signal.SIGABRT, "say": ["GGML_ASSERT(x) failed"]}, "crash", -6, 3),
    ],
)
def test_an_early_end_says_why_and_is_tried_again_where_that_may_help(
    serve, fake, bare_home, behaviour, kind, code, starts
):
    fake.behave(**behaviour)
    with pytest.raises(ServerExited) as caught:
        serve()
    assert caught.value.fields["kind"] == kind
    assert caught.value.fields["exit_code"] == code
    assert any("loading model" in line for line in caught.value.fields["log_tail"])
    assert caught.value.fix
    assert fake.starts == starts
    assert is_clean(bare_home)


def test_two_crashes_while_loading_are_survived(serve, fake):
    fake.behave(signal=signal.SIGKILL, bad_starts=2)
    heard = []
    running = serve(report=heard.append)
    assert running.state == "ready"
    assert running.restarts == 2
    assert any("starting it again (3 of 3)" in progress.message for progress in heard)


def test_a_stop_while_loading_is_a_hang(serve, fake, bare_home):
    fake.behave(load_seconds=60)
    made = []
    thread = threading.Thread(target=lambda: made.append(serve(QUICK_TO_JUDGE)))
    thread.start()
    wait_until(lambda: fake.starts == 1 and the_record(bare_home).process is not None)
    fake.behave()
    os.kill(the_record(bare_home).process.pid, signal.SIGSTOP)
    thread.join(20)
    assert made
    assert made[0].state == "ready"
    assert "sign of life" in made[0].status().last_failure


def test_a_program_that_cannot_run_is_named(serve, fake, bare_home):
    (fake.folder / "llama-server").write_bytes(b"not a program")
    with pytest.raises(ServerExited, match="could not be started"):
        serve()
    assert is_clean(bare_home)


def test_a_watcher_that_cannot_start_is_named(serve, monkeypatch, bare_home):
    monkeypatch.setattr(
        "noa_lab.server._spawn._watcher_command", lambda how: [sys.executable, "-c", "raise SystemExit('no module')"]
    )
    with pytest.raises(ServerError, match="no module"):
        serve()
    assert is_clean(bare_home)


# --- hangs


def test_a_stopped_server_is_noticed_and_replaced(serve):
    running = serve(QUICK_TO_JUDGE)
    pid = running.pid
    start = time.perf_counter()
    os.kill(pid, signal.SIGSTOP)
    back(running, pid, 1.0 + 5.0 + 5.0)
    assert (
        time.perf_counter() - start < 1.0 + 5.0 + 5.0
    )  # the budget, 5 s to notice, and time to start on a busy machine
    assert "stopped by a signal" in running.status().last_failure


def test_a_loop_that_does_not_turn_is_a_hang(serve, fake):
    running = serve(QUICK_TO_JUDGE)
    pid = running.pid
    (fake.folder / "stall").touch()  # /health goes on answering
    wait_until(lambda: running.pid != pid, 10)
    (fake.folder / "stall").unlink()
    back(running, pid)
    assert "sign of life" in running.status().last_failure


def test_requests_that_do_not_advance_are_a_hang(serve, fake):
    running = serve(QUICK_TO_JUDGE)
    pid = running.pid
    (fake.folder / "busy").touch()
    wait_until(lambda: running.pid != pid, 10)
    (fake.folder / "busy").unlink()
    back(running, pid)
    assert "have not advanced" in running.status().last_failure


# --- the waiting request


def ask_in_background(client):
    result = []

    def work():
        try:
            result.append(client.completion(ASK))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, result


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_request_without_a_token_is_answered_once_after_the_restart(serve, fake, number):
    running = serve(QUICK_TO_JUDGE)
    fake.let_pass(0)
    thread, result = ask_in_background(running.client())
    wait_until(lambda: fake.requests == 1, 10)
    halt(running.pid, number)
    fake.let_pass(None)
    thread.join(20)
    assert result[0].content == " t0 t1 t2"
    assert fake.requests == 2


def test_a_request_is_not_sent_again_to_one_that_is_still_dying(serve, monkeypatch):
    """A killed process has no port any more while it can still be seen: that must not use up the attempts."""
    running = serve()
    answers = iter([False] * 5)
    monkeypatch.setattr(_server, "owns_port", lambda mark, port: next(answers, True))
    assert asyncio.run(running._recover(Unreachable("gone", fix="", url=""))) == running.base_url
    assert next(answers, "all used") == "all used"


def test_a_request_with_a_token_is_never_sent_again(serve, fake):
    running = serve()
    fake.let_pass(1)
    stream = iter(running.client().stream(ASK))
    assert next(stream) == " t0"
    pid = running.pid
    halt(pid, signal.SIGKILL)
    fake.let_pass(None)
    with pytest.raises(StreamBroken) as caught:
        list(stream)
    assert caught.value.fields["text"] == " t0"
    back(running, pid)
    assert fake.requests == 1


def test_a_request_in_the_gap_waits_for_the_restart(serve, fake):
    running = serve()
    client = running.client()
    os.kill(running.pid, signal.SIGKILL)
    assert client.completion(ASK).content == " t0 t1 t2"
    assert fake.requests == 1


def test_a_waiting_request_fails_by_name_when_the_server_is_given_up(serve, fake):
    running = serve()
    fake.let_pass(0)
    thread, result = ask_in_background(running.client())
    wait_until(lambda: fake.requests == 1, 10)
    fake.behave(exit=9)
    os.kill(running.pid, signal.SIGKILL)
    thread.join(20)
    assert isinstance(result[0], ServerExited)
    assert "3 times in a row" in str(result[0])
    assert "exit code 9" in str(result[0])


def test_a_request_to_a_server_that_was_stopped_fails_by_name(serve, bare_home):
    running = serve()
    client = running.client()
    server.stop(bare_home, "tiny")
    with pytest.raises(ServerExited, match=f"stopped by process {os.getpid()}"):
        client.completion(ASK)


def test_a_request_after_letting_go_fails(serve):
    running = serve()
    client, pid = running.client(), running.pid
    running.release()
    gone_within(pid, PROMISE)
    with pytest.raises(Unreachable):
        client.completion(ASK)


def test_memory_and_peak_are_of_the_present_process(serve):
    running = serve()
    status = running.status()
    assert status.memory_bytes == pytest.approx(psutil.Process(running.pid).memory_info().rss, rel=0.5)
    assert status.memory_peak_bytes >= status.memory_bytes > 1 << 20
