"""Verdicts on times: only in a latency pass, as paired ratios."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from verdict_data import cells_of

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics import verdict, verdicts
from noa_lab.experiments.statistics._latency import ratio_interval, spread


def _timed(factor: float, inputs: int = 30, repeats: int = 3, noise: float = 0.05, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cells = cells_of({"plain": [1] * inputs, "long": [1] * inputs}, repeats=repeats)
    base = {f"i{number}": value for number, value in enumerate(rng.uniform(100, 900, inputs))}
    slow = cells["prompt"].map({"plain": 1.0, "long": factor})
    cells["total_ms"] = cells["input_id"].map(base) * slow * np.exp(rng.normal(0, noise, len(cells)))
    cells["executor"] = "latency"
    return cells


def test_slower_is_worse() -> None:
    found = verdict(_timed(1.3), "long", over="plain", on="total_ms")
    assert found.outcome == "worse"
    assert found.scale == "ratio"
    assert found.difference == pytest.approx(0.3, abs=0.04)
    assert found.interval[0] < 0.3 < found.interval[1]
    assert found.sentence.startswith("long is slower than plain on total_ms: +")
    assert "% time" in found.sentence
    assert "ms" in found.sentence
    back = verdict(_timed(1.3), "plain", over="long", on="total_ms")
    assert back.outcome == "better"
    assert "plain is faster than long" in back.sentence
    assert 1 + back.difference == pytest.approx(1 / (1 + found.difference))


def test_the_same_within_the_margin() -> None:
    found = verdict(_timed(1.0, inputs=60), "long", over="plain", on="total_ms")
    assert found.outcome == "same"
    assert "within a margin of 5 %" in found.sentence


def test_noise_needs_more_inputs() -> None:
    found = verdict(_timed(1.05, inputs=12, noise=0.4), "long", over="plain", on="total_ms")
    assert found.outcome == "not enough data"
    assert found.more_inputs is not None
    assert "a difference of 5 %" in found.sentence
    few = verdict(_timed(2.0, inputs=9), "long", over="plain", on="total_ms")
    assert few.outcome == "not enough data"
    assert few.more_inputs == 1


def test_a_stall_changes_little() -> None:
    cells = _timed(1.0, inputs=30, repeats=1)
    calm = verdict(cells, "long", over="plain", on="total_ms")
    cells.loc[cells.index[-1], "total_ms"] = 1e7
    assert verdict(cells, "long", over="plain", on="total_ms").difference == pytest.approx(calm.difference, abs=0.02)


@pytest.mark.parametrize("executors", [["lanes"], ["latency", "lanes"], None])
def test_times_that_were_shares_are_refused(executors: list[str] | None) -> None:
    cells = _timed(1.3)
    if executors is None:
        cells = cells.drop(columns="executor")
    else:
        cells["executor"] = [executors[number % len(executors)] for number in range(len(cells))]
    with pytest.raises(BadInput, match="shares of it") as caught:
        verdict(cells, "long", over="plain", on="total_ms")
    assert ("where=" in caught.value.fix) == (executors == ["latency", "lanes"])


def test_only_the_cells_in_question_have_to_be_of_a_latency_pass() -> None:
    cells = pd.concat([_timed(1.3), _timed(1.0).assign(prompt="other", executor="lanes")])
    assert verdict(cells, "long", over="plain", on="total_ms", family=["long"]).outcome == "worse"
    mixed = pd.concat([_timed(1.3), _timed(9.0).assign(executor="lanes")])
    found = verdict(mixed, "long", over="plain", on="total_ms", where={"executor": "latency"})
    assert found.difference == pytest.approx(0.3, abs=0.04)


def test_cells_without_a_time_are_left_out() -> None:
    cells = _timed(1.3)
    cells.loc[cells["cell_id"].str.startswith("long-0"), "total_ms"] = math.nan
    cells.loc[cells["cell_id"].str.startswith("long-1-"), "total_ms"] = 0.0
    assert verdict(cells, "long", over="plain", on="total_ms").n_inputs == 28
    with pytest.raises(UnknownName, match="ttft_ms"):
        verdict(cells, "long", over="plain", on="ttft_ms")


def test_several_prompts_are_a_family() -> None:
    cells = pd.concat([_timed(1.3), _timed(1.1, seed=2).query("prompt == 'long'").assign(prompt="longer")])
    one = verdict(cells, "long", over="plain", on="total_ms", family=["long"])
    both = verdicts(cells, over="plain", on="total_ms").of("long")
    assert both.comparisons == 2
    assert both.interval[0] < one.interval[0]


def test_clusters_give_one_ratio_each() -> None:
    cells = _timed(1.3, inputs=60)
    cells["input.cluster"] = [f"d{int(each[1:]) % 15}" for each in cells["input_id"]]
    found = verdict(cells, "long", over="plain", on="total_ms")
    assert found.outcome == "worse"
    assert found.n_clusters == 15


@pytest.mark.parametrize("count", [10, 25])
def test_the_interval_is_what_the_signed_rank_test_does_not_reject(count: int) -> None:
    logs = np.random.default_rng(count).normal(0.1, 0.3, count)
    centre, found = ratio_interval(logs, 0.95)
    low, high = math.log1p(found.low), math.log1p(found.high)
    for end, inside in ((low, 1e-9), (high, -1e-9)):
        assert stats.wilcoxon(logs - (end + inside), method="exact").pvalue > 0.05
        assert stats.wilcoxon(logs - (end - inside), method="exact").pvalue <= 0.05
    assert low < math.log1p(centre) < high


def test_for_many_inputs_counting_and_the_normal_distribution_agree() -> None:
    from noa_lab.experiments.statistics import _latency

    exact = _latency._rank(60, 0.025)
    original, _latency._EXACT = _latency._EXACT, 0
    try:
        assert _latency._rank(60, 0.025) == pytest.approx(exact, abs=3)
    finally:
        _latency._EXACT = original
    assert ratio_interval(np.random.default_rng(1).normal(0, 0.1, 3_000), 0.95)[1].high < 0.02


def test_coverage_with_wild_noise() -> None:
    rng = np.random.default_rng(5)
    held = alarms = 0
    for _ in range(1_000):
        logs = 0.2 + 0.1 * rng.standard_t(1.5, 15)
        _, found = ratio_interval(logs, 0.95)
        held += found.low <= math.expm1(0.2) <= found.high
        _, nothing = ratio_interval(logs - 0.2, 0.95)
        alarms += not nothing.low <= 0 <= nothing.high
    assert held / 1_000 >= 0.935
    assert alarms / 1_000 <= 0.065


def test_too_few_for_the_confidence() -> None:
    _, found = ratio_interval(np.array([0.1, 0.2, 0.3]), 0.95)
    assert found.high == math.inf
    assert "too few" in found.method
    centre, none = ratio_interval(np.array([]), 0.95)
    assert math.isnan(centre)
    assert math.isnan(none.low)


def test_the_spread_is_that_of_the_middle_half() -> None:
    logs = np.random.default_rng(6).normal(0, 0.2, 4_000)
    logs[:40] = 50
    assert spread(logs) == pytest.approx(0.2 / math.sqrt(3 / math.pi), rel=0.05)
