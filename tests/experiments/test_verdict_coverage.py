"""Simulated studies: how often the interval holds the truth, how often nothing looks like something, how good "about N more" is.

A tenth of the draws runs each time; all 2,000 with `lab.py test --full`. The bounds of the short one allow for its noise:
with 200 draws the standard deviation of a coverage of 95 % is 1.5 points, so that a single setting is only caught when it is far off.
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
from scipy.special import gammaln

from noa_lab.experiments.statistics._clusters import Units
from noa_lab.experiments.statistics._intervals import Interval, mean_interval, score_interval
from noa_lab.experiments.statistics._needed import missing_units
from noa_lab.experiments.statistics._pairing import Pairs

SIZES = (10, 20, 24, 50, 200)


@dataclass(frozen=True)
class Setting:
    """One simulated study: `repeats` 0 is a graded score; `spread` is the Beta concentration of the inputs' own pass rates."""

    n: int
    p: float
    difference: float
    correlation: float
    repeats: int
    spread: float

    def draw(self, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
        common = rng.standard_normal((draws, self.n))
        rates = []
        for mean in (self.p, self.p - self.difference):
            own = rng.standard_normal((draws, self.n))
            latent = math.sqrt(self.correlation) * common + math.sqrt(1 - self.correlation) * own
            # Interpolated: the Beta quantile itself takes most of the time of the whole test.
            grid = np.linspace(0, 1, 2001)
            quantiles = stats.beta.ppf(grid, mean * self.spread, (1 - mean) * self.spread)
            rates.append(np.interp(stats.norm.cdf(latent), grid, quantiles))
        if self.repeats == 0:
            return rates[0], rates[1]
        first, second = (rng.binomial(self.repeats, rate) / self.repeats for rate in rates)
        return first, second


def _settings(kinds: tuple[tuple[int, float], ...]) -> Iterator[Setting]:
    for n, p, difference, correlation, (repeats, spread) in product(
        SIZES, (0.5, 0.8, 0.95), (0.0, 0.1, 0.3), (0.0, 0.5, 0.8), kinds
    ):
        yield Setting(n, p, difference, correlation, repeats, spread)


def _units(row: np.ndarray) -> Units:
    return Units(row, row, ("",) * len(row), len(row) - 1.0, 1.0, 1.0, clustered=False)


@functools.cache
def _single(wins: int, losses: int, count: int) -> Interval:
    row = np.repeat([1.0, -1.0, 0.0], [wins, losses, count - wins - losses])
    return mean_interval(_units(row), kind="binary", low=-1, high=1)


def _graded(row: np.ndarray) -> Interval:
    return mean_interval(_units(row), kind="graded", low=-1, high=1)


def _study(setting: Setting, draws: int, seed: int) -> tuple[float, float]:
    """Share of intervals that hold the difference, and share that exclude 0 (false where there is no difference)."""
    rng = np.random.default_rng([seed, setting.n, int(setting.p * 100), int(setting.difference * 100), setting.repeats])
    first, second = setting.draw(rng, draws)
    truth = float((first - second).mean()) if setting.repeats == 0 and setting.difference else setting.difference
    if setting.repeats == 0 and setting.difference:
        # The interpolated quantiles have a mean of their own; a large sample gives it.
        wide = Setting(20_000, setting.p, setting.difference, setting.correlation, 0, setting.spread)
        a, b = wide.draw(rng, 10)
        truth = float((a - b).mean())
    # The order of the inputs does not matter, and few different rows of 0/1 scores are drawn: each is worked out once.
    rows, times = np.unique(np.sort(first - second, axis=1), axis=0, return_counts=True)
    held = excluded = 0
    for row, count in zip(rows, times, strict=True):
        found = _single(int((row > 0).sum()), int((row < 0).sum()), len(row)) if setting.repeats == 1 else _graded(row)
        held += count * (found.low <= truth <= found.high)
        excluded += count * (not found.low <= 0 <= found.high)
    return held / draws, excluded / draws


SINGLE = ((1, 1.0), (1, 20.0))
REPEATED = ((3, 1.0), (3, 5.0), (5, 0.3))
GRADED = ((0, 1.0), (0, 5.0), (0, 0.2), (0, 20.0))


@pytest.mark.parametrize("kinds", [SINGLE, REPEATED, GRADED], ids=["single", "repeated", "graded"])
def test_a_tenth_of_the_study(kinds: tuple[tuple[int, float], ...]) -> None:
    settings = list(_settings(kinds))
    chosen = [settings[index] for index in np.random.default_rng(7).choice(len(settings), 12, replace=False)]
    results = {each: _study(each, 200, 1) for each in chosen}
    for setting, (coverage, excluded) in results.items():
        assert coverage >= 0.90, setting
        assert setting.difference or excluded <= 0.10, setting
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "kind", [(1, 1.0), (1, 20.0), (3, 1.0), (3, 5.0), (5, 0.3), (0, 1.0), (0, 5.0), (0, 0.2), (0, 20.0)], ids=str
)
def test_the_whole_study(kind: tuple[int, float], n: int) -> None:
    results = {each: _study(each, 2_000, 2) for each in _settings((kind,)) if each.n == n}
    lowest, alarms = (
        min(each[0] for each in results.values()),
        max(r[1] for s, r in results.items() if not s.difference),
    )
    mean = np.mean([coverage for coverage, _ in results.values()])
    print(
        f"\n{kind} n={n}: coverage {lowest:.4f} at the least, {mean:.4f} on average; false alarms {alarms:.4f} at the most"
    )
    for setting, (coverage, excluded) in results.items():
        assert coverage >= 0.935, (setting, coverage)
        assert setting.difference or excluded <= 0.065, (setting, excluded)
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


def _exact(n: int, shares: tuple[float, ...]) -> tuple[float, float]:
    """Lowest coverage and highest rate of false alarms for pairs of single 0/1 scores, over every outcome that n pairs can have."""
    critical = float(stats.t.ppf(0.975, n - 1))
    wins, losses = (each.ravel() for each in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    wins, losses = wins[wins + losses <= n], losses[wins + losses <= n]
    rows = [np.repeat([1.0, -1.0, 0.0], [b, c, n - b - c]) for b, c in zip(wins, losses, strict=True)]
    ends = np.array([score_interval(row, -1, 1, critical) for row in rows])
    ways = gammaln(n + 1) - gammaln(wins + 1) - gammaln(losses + 1) - gammaln(n - wins - losses + 1)
    lowest, alarms = 1.0, 0.0
    for share, lean in product(shares, (0.0, 0.25, 0.5, 0.75, 1.0)):
        up, down = share * (1 + lean) / 2, share * (1 - lean) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = ways + np.where(wins > 0, wins * np.log(up), 0) + np.where(losses > 0, losses * np.log(down), 0)
            chance = np.exp(chance + (n - wins - losses) * np.log(1 - share))
        inside = (ends[:, 0] <= up - down + 1e-12) & (ends[:, 1] >= up - down - 1e-12)
        lowest = min(lowest, float(chance[inside].sum()))
        if lean == 0:
            alarms = max(alarms, float(chance[(ends[:, 0] > 0) | (ends[:, 1] < 0)].sum()))
    return lowest, alarms


def test_single_scores_exactly() -> None:
    lowest, alarms = _exact(10, (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9))
    assert lowest >= 0.935
    assert alarms <= 0.065


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n", [20, 24, 50])
def test_single_scores_exactly_with_more_inputs(n: int) -> None:
    lowest, alarms = _exact(n, (0.01, 0.02, 0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    assert lowest >= 0.935
    assert alarms <= 0.065


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("p", [0.5, 0.8])
def test_about_how_many_more(p: float, repeats: int, correlation: float) -> None:
    margin = 0.05
    rng = np.random.default_rng([3, repeats, int(p * 10), int(correlation * 10)])
    a, b = Setting(100_000, p, 0.0, correlation, repeats, 1.0).draw(rng, 1)
    right = (1.959964 + 0.841621) ** 2 * float((a - b).var()) / margin**2
    found = []
    for first, second in zip(*Setting(24, p, 0.0, correlation, repeats, 1.0).draw(rng, 200), strict=True):
        kind = "binary" if repeats == 1 else "graded"
        pairs = Pairs(first, second, _units(first - second), kind=kind)  # type: ignore[arg-type]
        more = missing_units(pairs, margin, 0.95)
        found.append(24 + (more or 0))
    assert np.median(found) == pytest.approx(right, rel=0.25)
