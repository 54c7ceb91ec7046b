"""Planning: how many inputs a question needs, against published numbers, statsmodels and simulated studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from verdict_data import cells_of

from noa_lab.errors import BadInput, NotEnoughData
from noa_lab.experiments.statistics import plan_from, plan_inputs
from noa_lab.experiments.statistics._clusters import units_of
from noa_lab.experiments.statistics._intervals import mean_interval


@pytest.mark.parametrize(
    ("margin", "repeats", "published"),
    [(0.03, 1, 3876), (0.03, 4, 1696), (0.05, 2, 872), (0.1, 1, 349), (0.05, 10, 453)],
)
def test_the_published_table(margin: float, repeats: int, published: int) -> None:
    """E. Miller, arXiv 2411.00640: the variance of the means 1/9, of each arm's answers 1/6."""
    total = 1 / 9 + 2 / 6
    plan = plan_inputs(margin, deviation=math.sqrt(total), by_chance=(2 / 6) / total, repeats=repeats)
    assert plan.inputs == pytest.approx(published, abs=4)


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2])
def test_agrees_with_statsmodels(margin: float) -> None:
    plan = plan_inputs(margin, deviation=0.5)
    exact = TTestPower().solve_power(effect_size=margin / 0.5, alpha=0.05, power=0.8)
    assert plan.inputs == pytest.approx(exact, abs=1.5)
    assert plan.power_with(plan.inputs) == pytest.approx(0.8, abs=0.01)
    assert plan.power_with(4) < 0.2


def test_clusters_that_say_the_same_throughout_count_as_one_each() -> None:
    plan = plan_inputs(0.3, deviation=0.5, cluster_size=10, alike=1.0)
    exact = TTestPower().solve_power(effect_size=0.3 / 0.5, alpha=0.05, power=0.8)
    assert plan.clusters == pytest.approx(exact, abs=1)
    assert plan.inputs == 10 * plan.clusters
    assert plan.power_with(plan.inputs) == pytest.approx(0.8, abs=0.01)
    back = plan_inputs(inputs=plan.inputs, deviation=0.5, cluster_size=10, alike=1.0)
    assert back.margin == pytest.approx(0.3, rel=0.01)


def test_what_costs_inputs() -> None:
    plain = plan_inputs(0.1)
    assert plan_inputs(0.1, prompts=5).inputs > 1.2 * plain.inputs
    assert plan_inputs(0.1, repeats=4).inputs == pytest.approx(plain.inputs * (0.5 + 0.5 / 4), rel=0.02)
    assert plan_inputs(0.1, repeats=4, by_chance=0.0).inputs == plain.inputs
    assert plan_inputs(0.1, power=0.9).inputs == plain.inputs_same
    clustered = plan_inputs(0.1, cluster_size=5, alike=0.5)
    assert clustered.inputs == pytest.approx(3 * plain.inputs, rel=0.02)
    assert clustered.clusters == math.ceil(clustered.inputs / 5)
    assert plan_inputs(0.9).inputs == 10
    assert plan_inputs(0.9, cluster_size=5).clusters == 10
    assert plan_inputs(0.1, prompts=3, repeats=2).cells == plan_inputs(0.1, prompts=3, repeats=2).inputs * 6


def test_the_other_way_round() -> None:
    plan = plan_inputs(inputs=200)
    assert plan.inputs == pytest.approx(200, abs=1)
    assert plan.margin == pytest.approx(plan_inputs(plan.margin).margin)
    assert "About 200 inputs" in plan.sentence


def test_a_table_and_words() -> None:
    plan = plan_inputs(0.07, prompts=3, cluster_size=4, alike=0.2, repeats=2)
    table = plan.table()
    assert table.loc[0.07, 2] == plan.inputs
    assert list(table.columns) == [1, 2, 4, 8]
    assert (table.diff().dropna() < 0).all().all()
    assert f"{plan.inputs:,} inputs in {plan.clusters:,} clusters, 2 answers each" in plan.sentence
    assert "for each of 2 comparisons" in plan.sentence
    html = plan._repr_html_()
    assert "<th>2 repeats</th>" in html
    assert f"<td>{plan.inputs:,}</td>" in html
    assert plan.as_dict()["inputs"] == plan.inputs


@pytest.mark.parametrize("disagree", [0.15, 0.4])
def test_the_planned_run_has_the_planned_power(disagree: float) -> None:
    plan = plan_inputs(0.1, disagree=disagree)
    rng = np.random.default_rng([1, int(disagree * 100)])
    gained, lost = (disagree + 0.1) / 2, (disagree - 0.1) / 2
    seen = 0
    for wins, losses, rest in rng.multinomial(plan.inputs, [gained, lost, 1 - gained - lost], 120):
        row = np.repeat([1.0, -1.0, 0.0], [wins, losses, rest])
        units = units_of(row, [""] * len(row))
        seen += mean_interval(units, kind="binary", low=-1, high=1).low > 0
    assert seen / 120 == pytest.approx(0.8, abs=0.12)


def test_a_pilot_says_what_to_assume() -> None:
    rng = np.random.default_rng(2)
    inputs, repeats = 1_500, 4
    shared = rng.normal(0, 0.3, inputs)
    own = {name: rng.normal(0, 0.2, inputs) for name in ("plain", "persona")}
    scores: dict[str, Any] = {
        name: (shared + own[name])[:, None] + rng.normal(0, 0.4, (inputs, repeats)) for name in own
    }
    cells = cells_of({name: [list(map(float, row)) for row in values] for name, values in scores.items()}, name="x")
    plan = plan_from(cells, "persona", over="plain", on="x", margin=0.05)
    assert plan.deviation == pytest.approx(math.sqrt(2 * 0.2**2 + 2 * 0.4**2), rel=0.05)
    assert plan.by_chance == pytest.approx(0.8, abs=0.04)
    assert plan.repeats == 4
    assert plan.alike == 0
    more = plan_from(cells, "persona", over="plain", on="x", margin=0.05, repeats=1)
    assert more.inputs > 2 * plan.inputs


def test_a_clustered_pilot() -> None:
    rng = np.random.default_rng(3)
    effect = np.repeat(rng.normal(0, 0.5, 200), 5)
    cells = cells_of(
        {"plain": [0.0] * 1_000, "persona": list(map(float, effect + rng.normal(0, 0.5, 1_000)))},
        name="x",
        clusters=[f"d{n // 5}" for n in range(1_000)],
    )
    plan = plan_from(cells, "persona", over="plain", on="score.x", margin=0.1)
    assert plan.cluster_size == 5
    assert plan.alike == pytest.approx(0.5, abs=0.12)
    assert plan.by_chance == 0


def test_pilots_that_say_nothing() -> None:
    with pytest.raises(NotEnoughData):
        plan_from(cells_of({"a": [1] * 9, "b": [0] * 9}), "b", over="a", on="contains")
    with pytest.raises(NotEnoughData):
        plan_from(cells_of({"a": [1] * 30, "b": [0] * 30}), "b", over="a", on="contains")
    import pandas as pd

    one = cells_of({"a": [1, 0] * 10, "b": [0] * 20})
    with pytest.raises(BadInput, match="several models"):
        plan_from(pd.concat([one, one.assign(model="n")]), "b", over="a", on="contains")


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 0},
        {"margin": -1.0},
        {"power": 1},
        {"prompts": 1},
        {"repeats": 0},
        {"disagree": 0},
        {"by_chance": 2},
        {"inputs": 5},
        {"margin": 0.1, "inputs": 50},
        {"alike": True},
        {"cluster_size": "5"},
        {"deviation": 0},
    ],
)
def test_wrong_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        plan_inputs(**wrong)
    assert caught.value.fix
