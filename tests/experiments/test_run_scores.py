"""Scorers of a run: applied to what is stored, made again from the store, and heard by verdicts and reports."""

from __future__ import annotations

import pytest
from comparison_rig import CONTAINS, Rig, grid, run_to_end, wait_for

from noa_lab.errors import BadInput, RequestRefused
from noa_lab.experiments import open_run, score, start


def test_other_scorers_score_the_stored_answers_without_asking(store):
    first, second = Rig(), Rig()
    run = run_to_end(store, grid(3), first)
    again = start(grid(3), [score.max_words(1), score.contains("zzz")], store=store, engine_for=second)
    assert again.run_id == run.run_id
    assert second.opened == []
    frame = again.cells()
    assert (set(frame["score.max_words"]), set(frame["score.contains"])) == ({1.0}, {0.0})
    assert again.scorers == ["max_words", "contains"]
    assert again.status == "done"


def test_a_scorer_that_raises_is_an_error_of_that_score_alone(store):
    def picky(answer, row):
        if row["q"] == "item 1":
            raise ValueError("cannot read this")
        return float("nan") if row["q"] == "item 2" else 0.5

    run = run_to_end(store, grid(3), Rig(), scorers=(CONTAINS, score.function(picky)))
    frame = run.cells().set_index("input_id")
    assert run.status == "done"
    assert (frame["score.contains"] == 1.0).all()
    assert frame["score.picky"].isna().groupby(level=0).all().to_dict() == {"1": False, "2": True, "3": True}
    assert "cannot read this" in frame.loc["2", "score_error.picky"].iloc[0]


def test_a_reopened_run_makes_its_scorers_again(store):
    rig = Rig(delay=0.02)
    run = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    wait_for(lambda: run.progress().done > 1)
    run.cancel()
    wait_for(lambda: not run.running)
    opened = open_run(store, run.run_id, engine_for=Rig())
    opened.resume()
    assert (opened.result(timeout=30).cells()["score.contains"] == 1.0).all()


def test_a_run_with_a_function_scorer_is_resumed_with_the_function(store):
    def mine(answer, row):
        return True

    rig = Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"])
    run = run_to_end(store, grid(2), rig, scorers=(score.function(mine),))
    with pytest.raises(BadInput, match="mine"):
        open_run(store, run.run_id, engine_for=Rig()).resume()
    opened = open_run(store, run.run_id, engine_for=Rig(), scorers=[score.function(mine)])
    opened.resume()
    assert opened.result(timeout=30).status == "done"


def test_the_range_of_a_scorer_reaches_its_verdict_and_report(store, tmp_path):
    def stars(answer, row):
        return 5

    made = grid(12)
    bare = run_to_end(store, made, Rig(), [score.function(stars)])
    assert "range is not known" in bare.verdict("long", over="plain", on="stars", margin=2).method
    known = run_to_end(store, made, Rig(), [score.function(stars, low=1, high=5)])
    assert known.run_id == bare.run_id
    found = known.verdict("long", over="plain", on="score.stars", margin=2)
    assert found.outcome == "same"
    page = known.report(tmp_path / "r.html", margin=2).read_text()
    assert "within a margin of 2" in page
    assert "within a margin of" not in known.report(tmp_path / "r.html").read_text()
