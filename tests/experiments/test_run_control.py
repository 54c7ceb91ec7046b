"""Pausing, cancelling, waiting for a run and watching it from elsewhere."""

from __future__ import annotations

import threading
import time

import pytest
from comparison_rig import CONTAINS, Held, Rig, grid, run_to_end, wait_for

from noa_lab.errors import BadInput, Cancelled, RequestRefused, RunBusy, RunUnfinished
from noa_lab.events import Progress
from noa_lab.experiments import open_run, score, start
from noa_lab.experiments.execution import _runner
from noa_lab.experiments.store._labels import ask
from noa_lab.testing import Reply


def test_pause_lets_cells_in_flight_finish_and_resume_does_the_rest(store):
    held = Held(after=3)
    rig = Rig(held, slots=2)
    run = start(grid(10), [CONTAINS], store=store, engine_for=rig)
    wait_for(lambda: len(rig.calls) >= 4)
    run.pause()
    held.go.set()
    wait_for(lambda: not run.running)
    assert run.status == "paused"
    assert {call.outcome for call in rig.calls} == {"done"}
    assert run.progress().done == len(rig.calls) < 20
    assert rig.closed == ["m"]
    with pytest.raises(RunUnfinished, match="is paused"):
        run.result()
    run.resume()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_a_pause_can_be_taken_back(store):
    held = Held(after=0)
    rig = Rig(held, slots=1)
    run = start(grid(3), store=store, engine_for=rig)
    wait_for(lambda: bool(rig.calls))
    run.pause()
    assert run.status == "pausing"
    run.resume()
    held.go.set()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_pausing_and_resuming_at_any_moment_asks_everything_once(store):
    rig = Rig(delay=0.002, slots=3)
    run = start(grid(30), [CONTAINS], store=store, engine_for=rig)
    for trial in range(15):
        time.sleep(0.003 * (trial % 5))
        run.pause()
        time.sleep(0.002 * (trial % 3))
        run.resume()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_cancel_stops_requests_in_flight_within_a_second(store):
    for tag in (
        "one",
        "two",
        "three",
    ):  # what else the machine does may take its time once or twice, but not from every cancel
        rig = Rig(lambda prompt, config: Reply("yes", delay=60 if "item 3" in prompt[-1].content else 0))
        run = start(grid(6, tag=tag), store=store, engine_for=rig)
        wait_for(
            lambda rig=rig: sum(c.outcome == "running" and "item 3" in c.prompt[-1].content for c in rig.calls) == 2
        )
        begun = time.monotonic()
        run.cancel()
        wait_for(lambda run=run: not run.running)
        took = time.monotonic() - begun
        if took < 1.0:
            break
    assert took < 1.0
    assert run.status == "cancelled"
    assert [call.outcome for call in rig.calls].count("cancelled") == 2
    done = run.progress().done
    assert run.progress().pending == 12 - done > 0
    assert run.progress().running == 0
    with pytest.raises(Cancelled):
        run.result()
    healed = Rig()
    again = run_to_end(store, grid(6, tag=tag), healed, scorers=())
    assert again.run_id == run.run_id
    assert len(healed.calls) == 12 - done


def test_cancelling_at_any_moment_loses_nothing(store):
    for trial in range(12):
        rig = Rig(delay=0.003)
        run = start(grid(20), [CONTAINS], store=store, engine_for=rig)
        time.sleep(0.004 * trial)
        run.cancel()
        wait_for(lambda run=run: not run.running)
        frame = run.cells()
        assert set(frame["status"]) <= {"done", "pending"}
        assert (frame["status"] == "done").sum() == run.progress().done
    assert run_to_end(store, grid(20), Rig()).progress().done == 40


@pytest.mark.parametrize("from_elsewhere", [False, True])
@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_model_that_is_being_opened_is_given_up(store, verb, state, from_elsewhere):
    opening = threading.Event()

    def engine_for(model, wish):
        opening.set()
        wish.cancel.wait(30)
        wish.cancel.check("Loading")

    run = start(grid(3), [CONTAINS], store=store, engine_for=engine_for)
    assert opening.wait(10)
    if from_elsewhere:
        ask(store, run.run_id, verb)
    else:
        getattr(run, verb)()
    wait_for(lambda: not run.running)
    assert run.status == state
    assert run.progress().pending == 6
    with pytest.raises((Cancelled, RunUnfinished)):
        run.result()
    assert run_to_end(store, grid(3), Rig()).run_id == run.run_id


def test_a_pause_asked_for_elsewhere_can_be_taken_back_here(store, monkeypatch):
    monkeypatch.setattr(_runner, "_WISH_SECONDS", 0.02)
    held = Held(after=0)
    rig = Rig(held, slots=1)
    run = start(grid(3), store=store, engine_for=rig)
    wait_for(lambda: bool(rig.calls))
    ask(store, run.run_id, "pause")
    wait_for(lambda: run.status == "pausing")
    run.resume()
    held.go.set()
    assert run.result(timeout=30).status == "done"
    assert rig.opened == ["m"], "it was paused once more"


def test_progress_says_how_far_the_opening_of_a_model_is(store):
    rig, go_on = Rig(delay=0.02), threading.Event()

    def engine_for(model, wish):
        wish.report(Progress("Download m", "from the hub", done=43, total=100, unit="bytes"))
        assert go_on.wait(10)
        return rig(model, wish)

    run = start(grid(20), store=store, engine_for=engine_for)
    wait_for(lambda: run.progress().opening == "Download m 43%: from the hub")
    go_on.set()
    wait_for(lambda: run.progress().done > 0)
    assert run.progress().opening == ""
    run.result(timeout=30)


def test_ctrl_c_in_result_cancels_the_run(store, monkeypatch):
    run = start(grid(4), store=store, engine_for=Rig(delay=60))
    monkeypatch.setattr(run, "_wait", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert run.status == "cancelled"
    assert not run.running


def test_result_with_a_timeout_leaves_the_run_alone(store):
    held = Held(after=0)
    run = start(grid(4), store=store, engine_for=Rig(held))
    with pytest.raises(RunUnfinished, match="0 of 8"):
        run.result(timeout=0.05)
    assert run.running
    held.go.set()
    run.result(timeout=30)


def test_starting_a_grid_that_is_running_here_gives_the_same_run(store):
    held = Held(after=0)
    rig = Rig(held)
    run = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    second = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    assert second.run_id == run.run_id
    with pytest.raises(RunBusy, match="other scorers"):
        start(grid(5), [score.max_words(3)], store=store, engine_for=rig)
    held.go.set()
    second.result(timeout=30)
    assert set(rig.asked.values()) == {1}
    assert rig.opened == ["m"]


def test_a_run_opened_without_engines_can_only_be_read(store):
    rig = Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"])
    run = run_to_end(store, grid(2), rig)
    opened = open_run(store, run.run_id)
    assert len(opened.cells()) == 4
    with pytest.raises(BadInput, match="only be read"):
        opened.resume()
