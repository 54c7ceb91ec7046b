"""`tune`: what is measured decides, is remembered for model, machine and build, and is what servers start with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from noa_lab import server
from noa_lab.errors import Cancelled, ServerError
from noa_lab.events import CancelToken
from noa_lab.server import ServerSettings, find_tuned, forget_tuned, tune
from noa_lab.server.tuning import _tune
from noa_lab.server.tuning._choice import candidates, fastest, smallest_near_best


@pytest.fixture
def bench(fake, monkeypatch):
    """The fake runtime with a llama-bench, on a machine with four cores."""
    program = fake.folder / "llama-bench"
    source = Path(__file__).with_name("fake_llama_bench.py").read_text(encoding="utf-8")
    program.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
    program.chmod(0o755)
    here = replace(_tune.machine(), cores=4, physical_cores=4)
    monkeypatch.setattr(_tune, "machine", lambda: here)
    fake.runtime = replace(fake.runtime, threads=1, tools=("llama-server", "llama-bench"))
    return fake


# --- choosing


def test_candidates_are_powers_of_two_and_what_the_machine_has():
    assert candidates(1, 1) == [1]
    assert candidates(12, 6) == [1, 2, 4, 6, 8, 12]
    assert candidates(4, 8, 3) == [1, 2, 3, 4]


def test_the_default_stays_unless_another_is_clearly_faster():
    assert fastest({1: 100.0, 2: 102.0}, 1) == 1
    assert fastest({1: 100.0, 2: 110.0}, 1) == 2
    assert fastest({1: 100.0, 2: 90.0}, 4) == 1


def test_more_slots_must_bring_more():
    assert smallest_near_best({1: 100.0, 2: 180.0, 4: 185.0, 8: 186.0}) == 2
    assert smallest_near_best({1: 100.0, 2: 90.0}) == 1


# --- tuning


def test_it_finds_the_fastest_and_servers_start_with_it(bench, bare_home, serve):
    heard = []
    found = tune(bench.runtime, bench.model, home=bare_home, rounds=2, report=heard.append)
    assert (found.threads, found.threads_batch, found.ubatch_size, found.batch_size) == (2, 4, 1024, 1024)
    assert found.slots in (1, 2, 4, 8)
    assert set(found.speeds) == {"threads", "threads_batch", "ubatch_size", "slots"}
    assert found.speeds["threads"] == {"1": 70.0, "2": 100.0, "4": 40.0}
    assert heard[-1].finished
    assert any("round 2 of 2" in progress.message for progress in heard)
    assert find_tuned(bare_home, bench.runtime, bench.model) == found
    assert server.servers(bare_home) == []  # the one it measured with was elsewhere, and is gone
    bench.runtime = replace(bench.runtime)
    running = serve(ServerSettings(slots=1))
    assert (running.settings.threads, running.settings.ubatch_size, running.settings.slots) == (2, 1024, 1)
    assert running.origins["threads"] == "tuned for this model"
    assert running.origins["slots"] == "given"
    assert running.status().origins == running.origins


def test_the_order_of_a_round_is_another_one_each_time(bench, bare_home):
    tune(bench.runtime, bench.model, home=bare_home, rounds=4)
    lines = (bench.folder / "benched").read_text().splitlines()
    orders = {
        line.split("-t ")[1].split()[0] for line in lines if "-t " in line and "," in line.split("-t ")[1].split()[0]
    }
    assert len(orders) > 1
    assert {tuple(sorted(order.split(","))) for order in orders} == {("1", "2", "4")}


def test_forgetting_brings_the_defaults_back(bench, bare_home, serve):
    tune(bench.runtime, bench.model, home=bare_home, rounds=1)
    assert forget_tuned(bare_home, bench.runtime, bench.model)
    assert not forget_tuned(bare_home, bench.runtime, bench.model)
    assert serve().origins["threads"] == "measured at install"


def test_few_slots_are_tried_where_few_fit(bench, bare_home):
    found = tune(bench.runtime, bench.model, home=bare_home, rounds=1, most_slots=2)
    assert set(found.speeds["slots"]) == {"1", "2"}


def test_a_failing_bench_is_named_and_leaves_nothing(bench, bare_home):
    (bench.folder / "bench_fails").touch()
    with pytest.raises(ServerError, match="failed to load model") as caught:
        tune(bench.runtime, bench.model, home=bare_home)
    assert "verify" in caught.value.fix
    assert find_tuned(bare_home, bench.runtime, bench.model) is None


def test_cancelling_leaves_nothing(bench, bare_home):
    token = CancelToken()

    def report(progress):
        if "requests at once" in progress.message:
            token.cancel()

    with pytest.raises(Cancelled):
        tune(bench.runtime, bench.model, home=bare_home, rounds=1, report=report, cancel=token)
    assert find_tuned(bare_home, bench.runtime, bench.model) is None


@pytest.mark.real
@pytest.mark.full
def test_the_real_model_is_tuned(bare_home, runtime, model):
    found = tune(runtime, model, home=bare_home, rounds=1)
    assert found.threads >= 1
    assert all(speed > 0 for speeds in found.speeds.values() for speed in speeds.values())
    with server.serve(runtime, model, home=bare_home) as running:
        assert running.settings.threads == found.threads
        assert running.settings.slots == found.slots
