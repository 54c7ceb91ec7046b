"""Verdicts: what is compared, what is refused, and numbers that others have published."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from verdict_data import cells_of

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics import verdict
from noa_lab.experiments.statistics._clusters import units_of
from noa_lab.experiments.statistics._intervals import (
    mean_interval,
    participation,
    score_interval,
    student_interval,
)
from noa_lab.experiments.statistics._needed import needed

Z = 1.959963984540054


def _differences(first_only: int, second_only: int, count: int) -> np.ndarray:
    return np.array([1.0] * first_only + [-1.0] * second_only + [0.0] * (count - first_only - second_only))


def _scores(first_only: int, second_only: int, both: int, neither: int) -> dict[str, list[int]]:
    a = [1] * first_only + [0] * second_only + [1] * both + [0] * neither
    b = [0] * first_only + [1] * second_only + [1] * both + [0] * neither
    return {"plain": b, "persona": a}


# Intervals


@pytest.mark.parametrize(
    ("counts", "quantile", "published"),
    [
        (
            (1, 7, 21),
            Z,
            (-0.517, -0.026),
        ),  # airway reactivity: Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014
        ((0, 1, 44), 1.6448536269514722, (-0.096, 0.037)),  # contact lenses, 90 %: Tango 1998
    ],
)
def test_tangos_interval_as_published(
    counts: tuple[int, int, int], quantile: float, published: tuple[float, float]
) -> None:
    assert score_interval(_differences(*counts), -1, 1, quantile) == pytest.approx(published, abs=6e-4)


def _tango_by_the_book(b: int, c: int, n: int, critical: float) -> tuple[float, float]:
    """Tango's closed form of the constrained estimate, and a root finder: another way to the same numbers."""

    def statistic(delta: float) -> float:
        linear, constant = -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
        q = (math.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
        return (b - c - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))

    tiny = 1e-10
    low = optimize.brentq(lambda d: statistic(d) - critical, -1 + tiny, (b - c) / n - tiny, xtol=1e-14)
    high = optimize.brentq(lambda d: statistic(d) + critical, (b - c) / n + tiny, 1 - tiny, xtol=1e-14)
    return low, high


@pytest.mark.parametrize(
    ("b", "c", "n"), [(5, 2, 24), (0, 0, 24), (9, 0, 10), (40, 20, 160), (1, 1, 200), (3, 90, 100)]
)
def test_for_pairs_of_0_and_1_it_is_tangos(b: int, c: int, n: int) -> None:
    assert score_interval(_differences(b, c, n), -1, 1, Z) == pytest.approx(_tango_by_the_book(b, c, n, Z), abs=1e-9)


@pytest.mark.parametrize(("passed", "count"), [(17, 24), (0, 10), (10, 10), (1, 200)])
def test_for_single_0_and_1_it_is_wilsons(passed: int, count: int) -> None:
    values = np.array([1.0] * passed + [0.0] * (count - passed))
    assert score_interval(values, 0, 1, Z) == pytest.approx(
        proportion_confint(passed, count, method="wilson"), abs=1e-9
    )


def test_equal_values_are_not_certainty() -> None:
    for kind, value in product(("binary", "graded"), (0.0, 0.3)):
        found = mean_interval(units_of(np.full(24, value), list(map(str, range(24)))), kind=kind, low=-1, high=1)  # type: ignore[arg-type]
        assert found.low < value - 0.1
        assert found.high > value + 0.1


def test_the_interval_does_not_depend_on_scale_or_sign() -> None:
    values = np.random.default_rng(1).beta(0.4, 0.4, 30) - 0.3
    low, high = score_interval(values, -1, 1, 2.0)
    assert score_interval(-values, -1, 1, 2.0) == pytest.approx((-high, -low), abs=1e-9)
    assert score_interval(10 * values + 5, -5, 15, 2.0) == pytest.approx((10 * low + 5, 10 * high + 5), abs=1e-8)
    assert student_interval(-values, 2.0) == pytest.approx(tuple(-x for x in reversed(student_interval(values, 2.0))))


def test_students_interval_nears_the_plain_one() -> None:
    values = np.random.default_rng(1).normal(0.1, 0.2, 4000)
    half = Z * values.std(ddof=1) / math.sqrt(4000)
    assert student_interval(values, Z) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-4)


def test_participation() -> None:
    assert participation(np.array([0.0] * 20 + [1.0] * 3)) == pytest.approx(3)
    assert participation(np.zeros(5)) == 0
    assert participation(np.array([0.0] * 20 + [1e-200] * 3)) == pytest.approx(3)


@pytest.mark.parametrize("effect", [0.1, 0.2, 0.5])
def test_needed_agrees_with_statsmodels(effect: float) -> None:
    exact = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert needed(1.0, effect) == pytest.approx(exact, abs=1.5)


# Outcomes


def test_better_and_worse() -> None:
    cells = cells_of(_scores(10, 1, 8, 5))
    found = verdict(cells, "persona", over="plain", on="contains")
    assert found.outcome == "better"
    assert found.difference == pytest.approx(9 / 24)
    assert (found.mean, found.mean_over) == pytest.approx((18 / 24, 9 / 24))
    assert found.n_inputs == 24
    assert found.n_missing == 0
    assert found.more_inputs is None
    assert found.p_value == pytest.approx(mcnemar([[8, 10], [1, 5]], exact=True).pvalue, abs=1e-9)
    assert "Tango" in found.method
    low, high = found.interval
    assert found.sentence == (
        f"persona is better than plain on contains: +0.38 (95 % interval {low:+.2f} to {high:+.2f}, n = 24 inputs)."
    )
    back = verdict(cells, "plain", over="persona", on="score.contains")
    assert back.outcome == "worse"
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_same_needs_many_inputs() -> None:
    few = verdict(cells_of(_scores(0, 0, 24, 0)), "persona", over="plain", on="contains")
    assert few.outcome == "not enough data"
    assert few.interval[1] > 0.1
    assert few.more_inputs == needed(math.sqrt(0.05 * 0.95), 0.05) - 24
    many = verdict(cells_of(_scores(0, 0, 100, 0)), "persona", over="plain", on="contains")
    assert many.outcome == "same"
    assert "within a margin of 0.05" in many.sentence


def test_a_difference_within_the_margin_is_same_though_not_zero() -> None:
    found = verdict(cells_of(_scores(60, 20, 2_000, 0)), "persona", over="plain", on="contains")
    assert found.interval[0] > 0
    assert found.outcome == "same"


def test_below_ten_inputs_nothing_is_concluded() -> None:
    found = verdict(cells_of(_scores(9, 0, 0, 0)), "persona", over="plain", on="contains")
    assert found.interval[0] > 0
    assert found.outcome == "not enough data"
    planned = needed(math.sqrt(0.05 * 0.95), 0.05) - 9
    assert found.more_inputs == planned
    assert found.sentence.endswith(
        f"at least 1 more inputs are needed for any verdict and, planned from the margin alone, about {planned} for 80 % power to see "
        "a difference of 0.05."
    )


@pytest.mark.parametrize("scores", [(0, 0, 2, 0), (1, 0, 1, 0), (1, 1, 0, 0), (2, 0, 0, 0)])
def test_with_a_few_inputs_the_outlook_does_not_depend_on_their_scores(scores: tuple[int, int, int, int]) -> None:
    found = verdict(cells_of(_scores(*scores)), "persona", over="plain", on="contains")
    assert found.more_inputs == needed(math.sqrt(0.05 * 0.95), 0.05) - 2
    wide = verdict(cells_of(_scores(*scores)), "persona", over="plain", on="contains", margin=0.6)
    assert wide.more_inputs == 8
    assert wide.sentence.endswith("; at least 8 more inputs are needed for any verdict.")


def test_with_a_few_inputs_of_an_unknown_range_only_the_minimum_is_promised() -> None:
    cells = cells_of({"plain": [20, 300], "persona": [25, 7]}, name="words")
    assert verdict(cells, "persona", over="plain", on="words").more_inputs == 8
    known = verdict(cells, "persona", over="plain", on="words", margin=5, bounds=(0, 1000))
    assert known.more_inputs == needed(math.sqrt(5 * 995), 5) - 2


def test_more_inputs_looks_at_the_margin_not_at_the_effect() -> None:
    small = verdict(cells_of(_scores(6, 4, 14, 0)), "persona", over="plain", on="contains", margin=0.1)
    large = verdict(cells_of(_scores(7, 3, 14, 0)), "persona", over="plain", on="contains", margin=0.1)
    assert small.outcome == large.outcome == "not enough data"
    assert small.more_inputs == pytest.approx(large.more_inputs, rel=0.15)
    assert small.more_inputs == pytest.approx((1.96 + 0.8416) ** 2 * (10 / 24) / 0.01 - 24, rel=0.1)


def test_enough_power_but_no_answer() -> None:
    # The difference is half the margin: n suffices for the margin, yet the interval holds both 0 and the margin.
    near = verdict(cells_of(_scores(69, 51, 1_080, 0)), "persona", over="plain", on="contains", margin=0.03)
    assert near.outcome == "not enough data"
    assert near.more_inputs is None
    assert "close to the margin" in near.sentence


# What is compared


def test_repeats_count_once() -> None:
    once = verdict(cells_of(_scores(10, 1, 8, 5)), "persona", over="plain", on="contains")
    thrice = verdict(cells_of(_scores(10, 1, 8, 5), repeats=3), "persona", over="plain", on="contains")
    assert thrice == once
    mixed = cells_of({"plain": [[0, 0, 1]] * 12, "persona": [[1, 1, 0]] * 6 + [[1, 0, 0]] * 6})
    found = verdict(mixed, "persona", over="plain", on="contains")
    assert found.n_inputs == 12
    assert found.difference == pytest.approx(1 / 6)


def test_only_pairs_count_and_the_rest_is_reported() -> None:
    cells = cells_of(_scores(10, 1, 8, 5))
    cells.loc[cells["cell_id"] == "persona-0-0", "status"] = "failed"
    cells.loc[cells["cell_id"] == "plain-1-0", "status"] = "pending"
    cells["score.contains"] = cells["score.contains"].astype(object)
    cells.loc[cells["cell_id"] == "plain-2-0", "score.contains"] = None
    found = verdict(cells, "persona", over="plain", on="contains")
    assert (found.n_inputs, found.n_missing) == (21, 3)
    assert found.difference == pytest.approx((7 - 1) / 21)
    assert (found.n_missing_arm, found.n_missing_over) == (1, 2)
    assert "3 of 24 inputs left out (no score in both)" in found.sentence
    assert found.warning == ""


def test_an_arm_that_fails_where_it_would_lose_is_no_clean_winner() -> None:
    cells = cells_of({"plain": [0] * 12 + [1] * 28, "persona": [1] * 40})
    cells.loc[(cells["prompt"] == "persona") & cells["input_id"].isin([f"i{n}" for n in range(12, 40)]), "status"] = (
        "failed"
    )
    found = verdict(cells, "persona", over="plain", on="contains")
    assert found.outcome == "better"
    assert "28 of 40 inputs left out (no score in both)" in found.sentence
    assert (
        "Warning: persona has no score on 28 of 40 inputs, plain on 0; this holds for the 12 inputs" in found.sentence
    )
    assert found.as_dict()["warning"] == found.warning
    back = verdict(cells, "plain", over="persona", on="contains")
    assert back.outcome == "worse"
    assert "Warning: persona has no score on 28" in back.sentence


@pytest.mark.parametrize(
    ("arm", "over", "warned"),
    [(8, 0, False), (9, 0, True), (0, 9, True), (6, 3, True), (6, 4, False), (10, 10, False)],
)
def test_the_rule_of_the_warning(arm: int, over: int, warned: bool) -> None:
    cells = cells_of({"plain": [0] * 40, "persona": [1] * 40})
    lost = [f"persona-{number}-0" for number in range(arm)] + [f"plain-{39 - number}-0" for number in range(over)]
    cells.loc[cells["cell_id"].isin(lost), "status"] = "failed"
    found = verdict(cells, "persona", over="plain", on="contains")
    assert (found.n_missing_arm, found.n_missing_over, found.n_missing) == (arm, over, arm + over)
    assert bool(found.warning) == ("Warning" in found.sentence) == warned


def test_a_score_that_is_not_finite_is_missing() -> None:
    cells = cells_of({"plain": [0.0] * 12 + [math.inf, math.nan, 0.0], "persona": [1.0] * 14 + [-math.inf]})
    found = verdict(cells, "persona", over="plain", on="contains")
    assert (found.n_inputs, found.n_missing, found.difference) == (12, 3, 1.0)
    assert found.interval[1] <= 1


def test_what_was_pooled_is_said() -> None:
    one = cells_of(_scores(10, 1, 8, 5))
    two = pd.concat([one, one.assign(model="n")])
    assert "over" not in verdict(one, "persona", over="plain", on="contains").sentence
    both = verdict(pd.concat([two, two.assign(sampling=1)]), "persona", over="plain", on="contains")
    assert (both.n_models, both.n_samplings) == (2, 2)
    assert both.sentence.endswith("n = 24 inputs); over 2 models, 2 samplings.")
    assert "; over 2 models." in verdict(two, "persona", over="plain", on="contains").sentence
    # A model on which one arm has no answer at all is in no pair.
    two.loc[(two["model"] == "n") & (two["prompt"] == "plain"), "status"] = "failed"
    assert verdict(two, "persona", over="plain", on="contains").n_models == 1


def test_samplings_are_paired_before_they_are_averaged() -> None:
    cells = pd.concat(
        [cells_of(_scores(6, 0, 6, 0)), cells_of(_scores(6, 0, 6, 0)).assign(sampling=1, prompt=lambda f: f["prompt"])]
    )
    cells = cells[~((cells["prompt"] == "persona") & (cells["sampling"] == 1) & (cells["input_id"] == "i0"))]
    assert verdict(cells, "persona", over="plain", on="contains").difference == pytest.approx(0.5)


def test_clusters_count_once() -> None:
    scores = _scores(40, 10, 50, 0)
    clusters = [f"doc{number % 12}" for number in range(100)]
    found = verdict(cells_of(scores, clusters=clusters), "persona", over="plain", on="contains")
    assert (found.n_inputs, found.n_clusters) == (100, 12)
    assert "100 inputs in 12 clusters" in found.sentence
    few = verdict(
        cells_of(scores, clusters=[f"doc{number % 9}" for number in range(100)]), "persona", over="plain", on="contains"
    )
    assert few.outcome == "not enough data"
    assert "clusters" in few.sentence
    own = verdict(cells_of(scores, clusters=["one"] * 5 + [None] * 95), "persona", over="plain", on="contains")
    assert own.n_clusters == 96


def test_where() -> None:
    cells = pd.concat([cells_of(_scores(10, 1, 8, 5)), cells_of(_scores(1, 10, 8, 5)).assign(model="other")])
    assert verdict(cells, "persona", over="plain", on="contains").difference == pytest.approx(0)
    assert verdict(cells, "persona", over="plain", on="contains", where={"model": "m"}).outcome == "better"
    assert verdict(cells, "persona", over="plain", on="contains", where={"text": ["text 1", "text 2"]}).n_inputs == 2
    with pytest.raises(BadInput, match="No cell has model"):
        verdict(cells, "persona", over="plain", on="contains", where={"model": "x"})
    with pytest.raises(UnknownName) as caught:
        verdict(cells, "persona", over="plain", on="contains", where={"modle": "m"})
    assert caught.value.fields["nearest"] == "model"


def test_scores_with_a_range_of_their_own() -> None:
    rng = np.random.default_rng(4)
    plain = rng.normal(50, 8, 40)
    cells = cells_of({"plain": list(plain), "persona": list(plain + rng.normal(6, 3, 40))}, name="words")
    found = verdict(cells, "persona", over="plain", on="words", margin=1)
    assert found.outcome == "better"
    assert found.interval[0] == pytest.approx(5, abs=0.7)


@pytest.mark.parametrize("persona", [5, 7])
def test_equal_scores_of_an_unknown_range_decide_nothing(persona: int) -> None:
    cells = cells_of({"plain": [5] * 40, "persona": [persona] * 40}, name="stars")
    found = verdict(cells, "persona", over="plain", on="stars")
    assert found.outcome == "not enough data"
    assert all(math.isnan(end) for end in found.interval)
    assert "their range is not known" in found.method
    assert found.more_inputs is None
    assert "no interval, n = 40 inputs" in found.sentence
    assert "nothing follows for other inputs" in found.sentence
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["interval"] == [None, None]


def test_equal_scores_of_a_known_range_are_worth_something() -> None:
    cells = cells_of({"plain": [5] * 40, "persona": [5] * 40}, name="stars")
    found = verdict(cells, "persona", over="plain", on="stars", bounds=(1, 5), margin=0.5)
    assert found.outcome == "same"
    assert -0.5 < found.interval[0] < -0.2
    assert "score interval" in found.method
    narrow = verdict(cells, "persona", over="plain", on="stars", bounds=(1, 5), margin=0.05)
    assert narrow.outcome == "not enough data"


def test_bounds_are_not_believed_against_the_scores() -> None:
    cells = cells_of({"plain": [9] * 40, "persona": [9] * 40}, name="stars")
    assert math.isnan(verdict(cells, "persona", over="plain", on="stars", bounds=(1, 5)).interval[0])


def test_0_and_1_of_a_wider_range_are_graded() -> None:
    cells = cells_of({"plain": [0, 1] * 12, "persona": [1, 1] * 12}, name="stars")
    wide = verdict(cells, "persona", over="plain", on="stars", bounds=(0, 10))
    assert "Tango" not in wide.method
    assert "Tango" in verdict(cells, "persona", over="plain", on="stars").method


def test_nothing_to_pair() -> None:
    cells = cells_of({"plain": [1] * 12, "persona": [0] * 12})
    cells.loc[cells["prompt"] == "persona", "status"] = "failed"
    found = verdict(cells, "persona", over="plain", on="contains")
    assert found.outcome == "not enough data"
    assert (found.n_inputs, found.n_missing) == (0, 12)
    assert found.interval == (-1, 1)
    assert "no input has an answer from both" in found.sentence
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["difference"] is None
    assert plain["sentence"] == found.sentence


def test_dtypes_of_real_runs() -> None:
    cells = cells_of(_scores(10, 1, 8, 5))
    wanted = verdict(cells, "persona", over="plain", on="contains")
    for dtype in ("float64", "Int64", "boolean", "object", "bool"):
        assert verdict(cells.astype({"score.contains": dtype}), "persona", over="plain", on="contains") == wanted


# What is refused


def test_unknown_names() -> None:
    cells = cells_of(_scores(10, 1, 8, 5))
    for arm, over, on, near in (
        ("persna", "plain", "contains", "persona"),
        ("persona", "plan", "contains", "plain"),
        ("persona", "plain", "contain", "contains"),
    ):
        with pytest.raises(UnknownName) as caught:
            verdict(cells, arm, over=over, on=on)
        assert caught.value.fields["nearest"] == near


@pytest.mark.parametrize("column", ["total_ms", "ttft_ms", "decode_ms"])
def test_a_latency_verdict_is_refused(column: str) -> None:
    with pytest.raises(BadInput, match="shares of it") as caught:
        verdict(cells_of(_scores(10, 1, 8, 5)), "persona", over="plain", on=column)
    assert "latency pass" in caught.value.fix


@pytest.mark.parametrize(
    "wrong", [{"margin": 0}, {"margin": -1}, {"margin": math.nan}, {"confidence": 1}, {"confidence": 95}]
)
def test_wrong_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        verdict(cells_of(_scores(10, 1, 8, 5)), "persona", over="plain", on="contains", **wrong)


def test_an_arm_is_not_compared_with_itself() -> None:
    with pytest.raises(BadInput, match="itself"):
        verdict(cells_of(_scores(10, 1, 8, 5)), "plain", over="plain", on="contains")


def test_html_is_escaped() -> None:
    cells = cells_of({"<b>": [1] * 12, "plain": [0] * 12})
    html = verdict(cells, "<b>", over="plain", on="contains")._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
