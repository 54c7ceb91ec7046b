"""Several arms over one baseline; arms that are models or samplings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from verdict_data import cells_of

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics import ScoreFacts, verdict, verdicts


def _cells(prompts: int = 4, inputs: int = 40, **options: object) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    names = ["plain", *(f"p{number}" for number in range(1, prompts))]
    lifts = dict(zip(names, [0.0, 0.35, 0.3, *[0.0] * prompts], strict=False))
    hard = rng.random(inputs)
    scores = {name: (rng.random(inputs) * 0.6 + hard * 0.4 < 0.5 + lifts[name]).astype(int) for name in names}
    return cells_of({name: list(map(int, values)) for name, values in scores.items()}, **options)  # type: ignore[arg-type]


def test_one_of_several_prompts_is_judged_as_one_of_several() -> None:
    cells = _cells()
    alone = verdict(cells, "p1", over="plain", on="contains", family=["p1"])
    among = verdict(cells, "p1", over="plain", on="contains")
    assert (alone.comparisons, among.comparisons) == (1, 3)
    assert among.interval[0] < alone.interval[0]
    assert among.interval[1] > alone.interval[1]
    assert among.difference == alone.difference
    assert among.confidence == alone.confidence == 0.95
    assert "95 % interval" in among.sentence
    assert "all 3 comparisons at once" in among.sentence
    assert "at once" not in alone.sentence


def test_all_say_the_same_as_one_by_one() -> None:
    cells = _cells()
    found = verdicts(cells)
    assert [each.arm for each in found] == ["p1", "p2", "p3"]
    assert {each.over for each in found} == {"plain"}
    for each in found:
        assert each == verdict(cells, each.arm, over="plain", on="contains")
    assert found[0].outcome == "better"
    assert found.of("p2") is found[1]
    assert found[:2][1] == found[1]
    assert list(found.frame()["outcome"]) == [each.outcome for each in found]
    assert json.loads(json.dumps(found.as_dicts(), allow_nan=False))[0]["comparisons"] == 3


def test_the_outcome_agrees_with_the_interval() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = {f"p{k}": list(map(int, rng.random(25) < 0.3 + 0.15 * k)) for k in range(4)}
        for each in verdicts(cells_of(scores)):  # type: ignore[arg-type]
            low, high = each.interval
            assert (each.outcome == "better") == (low > 0)
            assert (each.outcome == "worse") == (high < 0)


def test_more_prompts_need_more_inputs() -> None:
    few, many = _cells(2), _cells(6)
    one = verdict(few, "p1", over="plain", on="contains", margin=0.01)
    five = verdict(many, "p1", over="plain", on="contains", margin=0.01)
    assert one.more_inputs is None or five.more_inputs is None or five.more_inputs > one.more_inputs


def test_an_arm_without_answers_does_not_widen_the_others() -> None:
    cells = _cells(3)
    cells.loc[cells["prompt"] == "p2", "status"] = "pending"
    found = verdicts(cells)
    assert found.of("p1").comparisons == 1
    assert found.of("p2").outcome == "not enough data"
    assert found.of("p2").n_inputs == 0


def test_p_values_are_adjusted_by_holm() -> None:
    found = verdicts(_cells())
    smallest = min(found, key=lambda each: each.p_value)
    assert smallest.p_adjusted == pytest.approx(min(3 * smallest.p_value, 1))
    assert all(each.p_adjusted >= each.p_value for each in found)


def test_several_scorers_are_families_of_their_own() -> None:
    cells = _cells(3)
    cells["score.short"] = 1 - cells["score.contains"]
    cells["score.empty"] = None
    found = verdicts(cells)
    assert [(each.on, each.arm) for each in found] == [
        ("contains", "p1"),
        ("contains", "p2"),
        ("short", "p1"),
        ("short", "p2"),
    ]
    assert {each.comparisons for each in found} == {2}
    assert len(verdicts(cells, on="short")) == 2
    assert found.of("p1", "short").difference == pytest.approx(-found.of("p1", "contains").difference)
    with pytest.raises(UnknownName):
        found.of("p1")
    with pytest.raises(UnknownName, match="plain"):
        found.of("plain", "short")


def test_what_is_known_of_a_scorer_is_used() -> None:
    cells = cells_of({"a": [5] * 40, "b": [5] * 40}, name="stars")
    facts = {"stars": ScoreFacts(bounds=(1, 5))}
    assert verdicts(cells, margin=0.5, facts=facts)[0].outcome == "same"
    assert verdicts(cells, margin=0.5)[0].outcome == "not enough data"


def test_models_and_samplings_are_arms_too() -> None:
    one = cells_of({"plain": [0] * 12 + [1] * 12, "persona": [0] * 10 + [1] * 14})
    cells = pd.concat([one, one.assign(model="big", **{"score.contains": 1})])
    found = verdict(cells, "big", over="m", on="contains", by="model")
    assert found.outcome == "better"
    assert found.by == "model"
    assert found.n_inputs == 24
    assert found.difference == pytest.approx((12 + 10) / 48)
    two = pd.concat([one, one.assign(sampling=1, **{"score.contains": 0})])
    assert verdict(two, 1, over=0, on="contains", by="sampling").outcome == "worse"  # type: ignore[arg-type]
    only = verdict(cells, "big", over="m", on="contains", by="model", where={"prompt": "persona"})
    assert only.difference == pytest.approx(10 / 24)
    assert verdicts(cells, by="model")[0].arm == "big"


def test_a_small_table_of_ones_own_is_enough() -> None:
    frame = pd.DataFrame(
        {"prompt": ["a", "b"] * 20, "input_id": [n // 2 for n in range(40)], "score.good": [0, 1] * 20}
    )
    assert verdict(frame, "b", over="a", on="good").outcome == "better"
    with pytest.raises(BadInput, match="input_id"):
        verdict(frame.drop(columns="input_id"), "b", over="a", on="good")


def test_wrong_questions() -> None:
    cells = _cells(3)
    with pytest.raises(UnknownName, match="axis"):
        verdict(cells, "p1", over="plain", on="contains", by="colour")  # type: ignore[arg-type]
    with pytest.raises(UnknownName):
        verdict(cells, "p1", over="plain", on="contains", family=["p1", "p9"])
    with pytest.raises(UnknownName):
        verdicts(cells, over="p7")
    with pytest.raises(UnknownName):
        verdicts(cells, on=["contains", "contians"])
    assert len(verdicts(cells.iloc[:0])) == 0
    assert str(verdicts(cells.query("prompt == 'plain'"))) == "There is nothing to compare."


def test_the_table_in_a_notebook_is_escaped() -> None:
    cells = cells_of({"plain": [0] * 12, "<b>": [1] * 12, "c": [0, 1] * 6})
    html = verdicts(cells)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt; over plain" in html
    assert "hold all at once" in html
