"""The pump: commands from any thread, none lost, none twice, one writer; and it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from noa_lab.widgets._pump import Pump


@pytest.fixture
def made():
    pumps = []

    def make(publish=lambda: None, failed=lambda error: None):
        pumps.append(Pump("noa-lab panel test", publish=publish, failed=failed))
        return pumps[-1]

    yield make
    for pump in pumps:
        pump.close(timeout=30)
        assert not pump.alive


def eventually(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


def test_commands_from_many_threads_all_run_once_in_each_threads_order(made):
    seen = []
    pump = made()

    def send(sender):
        for number in range(500):
            assert pump.submit(lambda number=number: seen.append((sender, number, threading.get_ident())))
            if number % 100 == 0:
                time.sleep(0.001)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pump.settle()
    assert len(seen) == 8 * 500
    for sender in range(8):
        assert [number for who, number, _ in seen if who == sender] == list(range(500))
    assert len({thread for _, _, thread in seen}) == 1


def test_no_command_is_lost_while_the_thread_is_ending(made, monkeypatch):
    monkeypatch.setattr("noa_lab.widgets._pump._LINGER", 0.001)
    seen = []
    pump = made()
    for number in range(300):
        pump.submit(lambda number=number: seen.append(number))
        time.sleep(0.001 if number % 2 else 0.0015)
    assert pump.settle()
    assert seen == list(range(300))


def test_publishing_is_coalesced_and_the_last_change_is_published(made):
    published = []
    state = {"value": 0}
    pump = made(publish=lambda: published.append((pump._published, state["value"])))

    def change():
        state["value"] += 1
        pump.invalidate()
        return len(published) >= 5

    eventually(change)
    assert pump.settle()
    assert 5 <= len(published) < state["value"]
    assert min(later - earlier for (earlier, _), (later, _) in pairwise(published)) > 0.099
    assert published[-1][1] == state["value"]


def test_a_flood_of_commands_does_not_starve_publishing(made):
    published = []
    pump = made(publish=lambda: published.append(1))
    stop = time.monotonic() + 30
    pump.invalidate()

    def flood():
        if len(published) < 3 and time.monotonic() < stop:
            pump.invalidate()
            pump.submit(flood)

    pump.submit(flood)
    assert pump.settle(60)
    assert len(published) >= 3


def test_settling_sees_nothing_half_done(made):
    half, gate, job, seen = threading.Event(), threading.Event(), ["work"], []
    pump = made()

    def over():
        job[0] = ""
        half.set()
        gate.wait(30)
        job[0] = "look"

    def quiet():
        seen.append(job[0])
        return not job[0]

    pump.submit(over)
    assert half.wait(30)
    assert not pump.settle(0.05, quiet=quiet)
    gate.set()
    assert not pump.settle(0.05, quiet=quiet)
    assert "" not in seen


def test_what_a_command_raises_is_handed_on_and_the_next_command_runs(made):
    errors, seen = [], []
    pump = made(failed=errors.append)
    pump.submit(lambda: 1 / 0)
    pump.submit(lambda: seen.append(1))
    assert pump.settle()
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert seen == [1]


def test_the_thread_ends_when_idle_and_starts_again(made):
    seen = []
    pump = made()
    assert not pump.alive
    pump.submit(lambda: seen.append(1))
    assert pump.settle()
    eventually(lambda: not pump.alive)
    pump.submit(lambda: seen.append(2))
    assert pump.settle()
    assert seen == [1, 2]


def test_later_runs_once_and_the_newest_replaces_the_one_before(made):
    seen = []
    pump = made()
    gate = threading.Event()
    pump.submit(lambda: gate.wait(30))  # both are planned before it looks
    pump.later(0.05, lambda: seen.append("first"))
    pump.later(0.1, lambda: seen.append("second"))
    gate.set()
    eventually(lambda: seen)
    eventually(lambda: not pump.alive)
    assert seen == ["second"]


def test_close_takes_no_more_commands_and_can_come_from_the_pump_itself(made):
    pump = made()
    pump.submit(pump.close)
    eventually(lambda: not pump.alive)
    assert pump.submit(lambda: None) is False


def test_panels_and_work_do_not_keep_the_interpreter_from_ending():
    program = """
import sys; sys.path.insert(0, "tests/widgets")
import threading
from panel_fakes import FakeLab
from noa_lab.widgets import SetupPanel
lab = FakeLab(); lab.gate = threading.Event()
panel = SetupPanel(lab); panel.press("install")
while panel._job is None: pass
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
