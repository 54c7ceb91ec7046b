"""Errors of means over clustered inputs, against statsmodels and scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from verdict_data import cells_of

from noa_lab.experiments.statistics import verdict
from noa_lab.experiments.statistics._clusters import units_of


def _units(values: np.ndarray, clusters: np.ndarray | None = None):
    names = None if clusters is None else [str(each) for each in clusters]
    return units_of(values, [str(number) for number in range(len(values))], names)


def test_without_clusters_it_is_the_ordinary_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=37)
    units = _units(values)
    assert units.standard_error == pytest.approx(stats.sem(values), abs=1e-12)
    assert units.degrees == 36
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    half = stats.t.ppf(0.975, units.degrees) * units.standard_error
    assert (units.mean - half, units.mean + half) == pytest.approx((low, high), abs=1e-12)


def test_equal_clusters_agree_with_statsmodels_and_with_a_t_test_of_the_means() -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(12), 5)
    values = rng.normal(size=60) + rng.normal(size=12)[clusters]
    units = _units(values, clusters)
    fitted = sm.OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert units.standard_error == pytest.approx(float(fitted.bse[0]), abs=1e-9)
    means = values.reshape(12, 5).mean(axis=1)
    assert units.standard_error == pytest.approx(stats.sem(means), abs=1e-12)
    assert units.degrees == pytest.approx(11, abs=1e-9)
    assert units.mean == pytest.approx(values.mean())
    assert sorted(units.values) == pytest.approx(sorted(means))


def test_unequal_clusters_are_statsmodels_before_the_adjustment() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([1, 1, 2, 3, 5, 8, 13, 2, 2, 4, 1])
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(size=sizes.sum()) + rng.normal(size=len(sizes))[clusters]
    units = _units(values, clusters)
    fitted = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert units.standard_error / units.inflation == pytest.approx(float(fitted.bse[0]), abs=1e-9)
    assert units.mean == pytest.approx(values.mean(), abs=1e-12)


def test_clusters_of_one_agree_with_the_hc2_errors_of_statsmodels() -> None:
    values = np.random.default_rng(4).normal(size=25)
    units = _units(values, np.arange(25))
    assert units.standard_error == pytest.approx(
        float(sm.OLS(values, np.ones(25)).fit(cov_type="HC2").bse[0]), abs=1e-9
    )
    assert units.degrees == pytest.approx(24, abs=1e-9)


def test_bell_and_mccaffrey_by_the_book() -> None:
    """The matrices of their paper, written out for a regression on a constant."""
    rng = np.random.default_rng(5)
    sizes = np.array([2, 7, 3, 1, 4, 9])
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(size=sizes.sum())
    total = len(values)
    ones = np.ones((total, 1))
    hat = ones @ ones.T / total
    residual = np.eye(total) - hat
    columns, error = [], 0.0
    for number in range(len(sizes)):
        rows = clusters == number
        w, v = np.linalg.eigh(residual[np.ix_(rows, rows)])
        adjust = v @ np.diag(1 / np.sqrt(w)) @ v.T
        columns.append(residual[:, rows] @ adjust @ ones[rows] / total)
        error += float((ones[rows].T @ adjust @ (residual @ values)[rows])[0] / total) ** 2
    gram = np.hstack(columns).T @ np.hstack(columns)
    units = _units(values, clusters)
    assert units.standard_error == pytest.approx(math.sqrt(error), abs=1e-9)
    assert units.degrees == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum(), abs=1e-9)


def test_one_large_cluster_is_not_many_inputs() -> None:
    clusters = np.array([0] * 200 + list(range(1, 12)))
    units = _units(np.random.default_rng(6).normal(size=211), clusters)
    assert units.degrees < 2
    assert units.inflation > 1


def test_the_mean_is_over_inputs() -> None:
    scores = {"plain": [0] * 40, "persona": [1] * 28 + [0] * 12}
    clusters = ["a"] * 20 + [f"c{number}" for number in range(20)]
    found = verdict(cells_of(scores, clusters=clusters), "persona", over="plain", on="contains")
    assert found.difference == pytest.approx(28 / 40)
    assert (found.n_inputs, found.n_clusters) == (40, 21)
    assert "cluster-robust" in found.method
    assert found.interval[0] < found.difference < found.interval[1] <= 1


def test_clusters_widen_the_interval_where_inputs_are_alike() -> None:
    rng = np.random.default_rng(7)
    better = np.repeat(rng.random(20) < 0.6, 10).astype(int)
    plain = [0] * 200
    apart = verdict(
        cells_of({"plain": plain, "persona": list(map(int, better))}), "persona", over="plain", on="contains"
    )
    together = verdict(
        cells_of({"plain": plain, "persona": list(map(int, better))}, clusters=[f"d{n // 10}" for n in range(200)]),
        "persona",
        over="plain",
        on="contains",
    )
    assert together.difference == pytest.approx(apart.difference)
    width = (together.interval[1] - together.interval[0]) / (apart.interval[1] - apart.interval[0])
    assert width == pytest.approx(math.sqrt(10), rel=0.3)


def test_below_ten_clusters_nothing_is_concluded() -> None:
    clusters = [f"d{n % 9}" for n in range(900)]
    found = verdict(
        cells_of({"plain": [0] * 900, "persona": [1] * 900}, clusters=clusters), "persona", over="plain", on="contains"
    )
    assert found.outcome == "not enough data"
    assert "at least 1 more clusters" in found.sentence


def test_all_in_one_cluster() -> None:
    found = verdict(
        cells_of({"plain": [0] * 30, "persona": [1] * 30}, clusters=["d"] * 30), "persona", over="plain", on="contains"
    )
    assert found.outcome == "not enough data"
    assert found.interval == (-1, 1)
    assert math.isnan(found.standard_error)
