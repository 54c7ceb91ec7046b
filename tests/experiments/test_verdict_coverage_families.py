"""Simulated studies of several prompts over one baseline: all intervals of a family hold together.

A seeded part runs each time; all of it with `lab.py test --full`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from scipy import stats

from noa_lab.experiments.statistics._clusters import Units
from noa_lab.experiments.statistics._intervals import Interval, mean_interval
from noa_lab.experiments.statistics._simultaneous import correlations, holm, joint_confidence, joint_quantile

SIZES = (10, 20, 50, 200)


@dataclass(frozen=True)
class Setting:
    """`prompts` prompts and a baseline; `spread` 0 is single 0/1 scores, else graded ones (Beta, of that concentration)."""

    n: int
    prompts: int
    p: float
    difference: float
    correlation: float
    spread: float

    def draw(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Differences over the baseline (study, prompt, input), and the true ones; every second prompt is worse."""
        true = np.where(np.arange(self.prompts) % 2, -self.difference, 0.0)
        common = rng.standard_normal((draws, 1, self.n))
        own = rng.standard_normal((draws, self.prompts + 1, self.n))
        ranks = stats.norm.cdf(math.sqrt(self.correlation) * common + math.sqrt(1 - self.correlation) * own)
        means = np.concatenate([[self.p], self.p + true])
        if not self.spread:
            scores = (ranks < means[None, :, None]).astype(float)
            return scores[:, 1:] - scores[:, :1], true
        grid = np.linspace(0, 1, 2001)
        scores = np.empty_like(ranks)
        for place, mean in enumerate(means):
            quantiles = stats.beta.ppf(grid, mean * self.spread, (1 - mean) * self.spread)
            scores[:, place] = np.interp(ranks[:, place], grid, quantiles)
        found = scores[:, 1:] - scores[:, :1]
        return found, true if not self.difference else found.mean(axis=(0, 2))


def _settings() -> Iterator[Setting]:
    for n, prompts, p, difference, correlation, spread in product(
        SIZES, (2, 5), (0.5, 0.9), (0.0, 0.2), (0.0, 0.6), (0.0, 2.0)
    ):
        yield Setting(n, prompts, p, difference, correlation, spread)


def _units(row: np.ndarray) -> Units:
    return Units(row, row, tuple(map(str, range(len(row)))), len(row) - 1.0, 1.0, 1.0, clustered=False)


@functools.cache
def _single(wins: int, losses: int, count: int, confidence: float) -> Interval:
    row = np.repeat([1.0, -1.0, 0.0], [wins, losses, count - wins - losses])
    return mean_interval(_units(row), kind="binary", low=-1, high=1, confidence=confidence)


def _interval(units: Units, confidence: float, graded: bool) -> Interval:
    row = units.values
    if graded:
        return mean_interval(units, kind="graded", low=-1, high=1, confidence=confidence)
    return _single(int((row > 0).sum()), int((row < 0).sum()), len(row), confidence)


def _study(setting: Setting, draws: int, seed: int) -> tuple[float, float]:
    """Share of families whose intervals all hold, and share in which a prompt that does not differ is called better or worse."""
    rng = np.random.default_rng([seed, setting.n, setting.prompts, int(setting.p * 10), int(setting.spread)])
    studies, true = setting.draw(rng, draws)
    held = wrong = 0
    for rows in studies:
        family = [_units(row) for row in rows]
        joint = joint_confidence(family, 0.95)
        found = [_interval(units, joint, bool(setting.spread)) for units in family]
        held += all(each.low <= one <= each.high for each, one in zip(found, true, strict=True))
        nothing = np.abs(true) < 1e-12 if not setting.difference else np.arange(setting.prompts) % 2 == 0
        wrong += any(none and not each.low <= 0 <= each.high for each, none in zip(found, nothing, strict=True))
    return held / draws, wrong / draws


def test_a_part_of_the_study() -> None:
    settings = list(_settings())
    chosen = [settings[index] for index in np.random.default_rng(7).choice(len(settings), 8, replace=False)]
    results = {each: _study(each, 60, 1) for each in chosen}
    for setting, (coverage, wrong) in results.items():
        assert coverage >= 0.85, setting
        assert wrong <= 0.15, setting
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("prompts", [2, 5])
@pytest.mark.parametrize("n", SIZES)
def test_the_whole_study(n: int, prompts: int) -> None:
    results = {each: _study(each, 2_000, 2) for each in _settings() if (each.n, each.prompts) == (n, prompts)}
    for setting, (coverage, wrong) in results.items():
        print(f"{setting} coverage {coverage:.4f} wrong {wrong:.4f}")
    for setting, (coverage, wrong) in results.items():
        assert coverage >= 0.935, (setting, coverage)
        assert wrong <= 0.065, (setting, wrong)
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


@pytest.mark.parametrize(("arms", "degrees"), [(2, 10.0), (4, 20.0), (9, 60.0)])
def test_dunnetts_quantiles(arms: int, degrees: float) -> None:
    matrix = np.full((arms, arms), 0.5)
    np.fill_diagonal(matrix, 1.0)
    critical = joint_quantile(matrix, degrees, 0.95)
    ends = np.full(arms, critical)
    inside = stats.multivariate_t(shape=matrix, df=degrees, seed=1).cdf(ends, lower_limit=-ends)
    assert inside == pytest.approx(0.95, abs=0.001)


def test_between_one_comparison_and_bonferroni() -> None:
    same = np.ones((4, 4))
    assert joint_quantile(same, 30, 0.95) == pytest.approx(stats.t.ppf(0.975, 30), abs=0.02)
    apart = joint_quantile(np.eye(4), 30, 0.95)
    assert apart < stats.t.ppf(1 - 0.025 / 4, 30)
    assert apart == pytest.approx(stats.t.ppf(1 - 0.025 / 4, 30), abs=0.05)


def test_correlations_are_those_of_the_shared_units() -> None:
    rng = np.random.default_rng(2)
    base, first, second = rng.normal(size=(3, 5_000))
    family = [_units(first - base), _units(second - base)]
    assert correlations(family)[0, 1] == pytest.approx(0.5, abs=0.03)
    apart = [family[0], Units(*[second] * 2, tuple(f"x{n}" for n in range(5_000)), 4_999.0, 1.0, 1.0, clustered=False)]
    assert correlations(apart)[0, 1] == 0


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    values = [0.04, 0.001, 0.3, 0.02, 0.9, 0.001]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)
