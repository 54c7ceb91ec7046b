"""Tags, notes, the bin, wishes of other processes and budgets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comparison_rig import Rig, child, grid, wait_for

from noa_lab.errors import BadInput, BudgetSpent, Cancelled, RunBusy, RunUnfinished, UnknownName
from noa_lab.experiments import Budget, Store, delete, list_runs, open_run, purge, restore, start
from noa_lab.experiments.execution import _budget


def finished(store, made=None, **options):
    return start(made or grid(2), store=store, engine_for=Rig(), **options).result(timeout=30)


def test_runs_are_labelled_and_found_by_their_labels(store):
    first, second = finished(store), finished(store, grid(3))
    first.tag("baseline", "paper", "baseline")
    second.tag("paper")
    assert first.tags == ["baseline", "paper"]
    assert {run.run_id for run in list_runs(store, tag="paper")} == {first.run_id, second.run_id}
    assert [run.run_id for run in list_runs(store, tag="baseline")] == [first.run_id]
    assert list_runs(store, tag="baseline")[0].as_dict()["tags"] == ["baseline", "paper"]
    first.untag("paper", "never there")
    assert first.tags == ["baseline"]
    first.note = "Temperature was too high."
    assert open_run(store, first.run_id).note == list_runs(store, tag="baseline")[0].note == "Temperature was too high."


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81])
def test_what_is_no_label_is_refused(store, name):
    run = finished(store)
    with pytest.raises(BadInput, match="tag"):
        run.tag(name)
    assert run.tags == []


def test_a_deleted_run_is_not_listed_not_continued_and_lends_nothing_until_it_is_restored(store):
    run = finished(store)
    delete(store, run.run_id)
    assert list_runs(store) == []
    assert [each.run_id for each in list_runs(store, deleted=True)] == [run.run_id]
    again = finished(store)
    assert again.run_id != run.run_id
    assert not again.cells()["cached"].any()
    delete(store, again.run_id)
    restore(store, run.run_id)
    third = finished(store)
    assert third.run_id == run.run_id
    assert len(run.cells()) == 4


def test_only_what_is_in_the_bin_is_removed_for_good(store):
    run, other = finished(store), finished(store, grid(3))
    run.tag("x")
    with pytest.raises(BadInput, match="not deleted"):
        purge(store, run.run_id)
    delete(store, run.run_id)
    purge(store, run.run_id)
    with pytest.raises(UnknownName):
        open_run(store, run.run_id)
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM tags").scalar() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM cells").scalar() == len(other.cells())


def test_a_run_that_is_executed_is_not_deleted(store):
    run = start(grid(40), store=store, engine_for=Rig(delay=60))
    with pytest.raises(RunBusy, match="cancel"):
        delete(store, run.run_id)
    run.cancel()
    with pytest.raises(Cancelled):
        run.result(timeout=30)
    delete(store, run.run_id)


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_another_process_can_be_asked_to_pause_or_cancel(tmp_path, verb, state):
    path = tmp_path / "runs.db"
    process = child(path, tmp_path / "log", "--inputs", "400", "--delay", "0.02")
    run_id = process.stdout.readline().split()[1]
    with Store(path) as store:
        run = open_run(store, run_id, engine_for=Rig())
        assert run.running
        getattr(run, verb)()
        process.communicate(timeout=60)
        assert run.status == state
        assert 0 <= run.progress().done < 1200
        run.resume()
        wait_for(lambda: run.progress().done == 2400, 240)
        assert run.result(timeout=30).status == "done", "an old wish does not stop a resumed run"


def test_a_run_pauses_when_its_tokens_are_used_up_and_resuming_gives_as_many_again(store):
    run = start(grid(30), store=store, engine_for=Rig("one two three", slots=1), budget=Budget(tokens=100))
    with pytest.raises(BudgetSpent, match="100 tokens") as caught:
        run.result(timeout=30)
    assert isinstance(caught.value, RunUnfinished)
    assert run.status == "paused"
    assert "budget" in run.progress().error
    done = run.progress().done
    assert 0 < done < 60
    run.resume()
    with pytest.raises(BudgetSpent):
        run.result(timeout=30)
    assert run.progress().done > done
    assert finished(store, grid(30)).run_id == run.run_id, "without a budget it goes on to its end"


def test_a_run_pauses_when_its_time_is_up(store, monkeypatch):
    rig = Rig(slots=1)
    # A clock on which every answer takes a second.
    monkeypatch.setattr(_budget, "time", SimpleNamespace(monotonic=lambda: float(len(rig.calls))))
    run = start(grid(60), store=store, engine_for=rig, budget=Budget(minutes=0.5))
    with pytest.raises(BudgetSpent, match=r"0\.5 minutes"):
        run.result(timeout=30)
    assert 25 < run.progress().done < 35


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"tokens": -1}, {"minutes": True}, {"tokens": "many"}])
def test_a_budget_that_cannot_be_is_named(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Budget(**wrong)


def test_copied_answers_cost_nothing(store):
    finished(store, grid(10))
    edited = grid(10, prompts={"plain": "Say yes to {{ q }}", "new": "{{ q }}?"})
    run = start(edited, store=store, engine_for=Rig("a"), budget=Budget(tokens=10_000)).result(timeout=30)
    assert run.progress().cached == 10
