"""Simulated studies with clusters: equal and unequal ones, with inputs that are alike in them or not.

A seeded part runs each time; all of it with `lab.py test --full`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from scipy import stats

from noa_lab.experiments.statistics._clusters import Units, units_of
from noa_lab.experiments.statistics._intervals import mean_interval
from noa_lab.experiments.statistics._needed import missing_units
from noa_lab.experiments.statistics._pairing import Pairs

COUNTS = (10, 12, 20, 50)
SIZES = ("equal", "mixed", "one large", "heavy tail")


@dataclass(frozen=True)
class Setting:
    """Paired 0/1 scores in clusters; `alike` is the correlation of two inputs of one cluster, on the latent scale."""

    clusters: int
    sizes: str
    alike: float
    p: float
    difference: float

    def members(self, rng: np.random.Generator) -> np.ndarray:
        """The cluster of each input."""
        if self.sizes == "equal":
            sizes = np.full(self.clusters, 6)
        elif self.sizes == "mixed":
            sizes = np.minimum(rng.geometric(0.15, self.clusters), 40)
        elif self.sizes == "one large":
            sizes = np.full(self.clusters, 3)
            sizes[0] = 3 * self.clusters
        else:
            sizes = np.minimum((rng.pareto(1.2, self.clusters) * 3 + 1).astype(int), 100)
        return np.repeat(np.arange(self.clusters), sizes)

    def draw(self, rng: np.random.Generator, members: np.ndarray, draws: int) -> np.ndarray:
        """Differences, one row a study. The arms share half of what the inputs of a cluster share."""
        common = rng.standard_normal((draws, self.clusters))
        scores = []
        for mean in (self.p, self.p - self.difference):
            own = rng.standard_normal((draws, self.clusters))
            shared = math.sqrt(self.alike / 2) * (common + own)
            noise = math.sqrt(1 - self.alike) * rng.standard_normal((draws, len(members)))
            scores.append((shared[:, members] + noise < stats.norm.ppf(mean)).astype(float))
        return scores[0] - scores[1]


def _settings() -> Iterator[Setting]:
    for clusters, sizes, alike, (p, difference) in product(
        COUNTS, SIZES, (0.0, 0.3, 0.7), ((0.5, 0.0), (0.9, 0.0), (0.9, 0.1), (0.8, 0.3))
    ):
        yield Setting(clusters, sizes, alike, p, difference)


def _units(row: np.ndarray, members: np.ndarray) -> Units:
    return units_of(row, [""] * len(row), [str(member) for member in members])


def _study(setting: Setting, draws: int, seed: int) -> tuple[float, float]:
    """Share of intervals that hold the difference, and share that exclude 0."""
    rng = np.random.default_rng([seed, *map(ord, setting.sizes), setting.clusters, int(setting.alike * 10)])
    members = setting.members(rng)
    held = excluded = 0
    for row in setting.draw(rng, members, draws):
        found = mean_interval(_units(row, members), kind="graded", low=-1, high=1)
        held += found.low <= setting.difference <= found.high
        excluded += not found.low <= 0 <= found.high
    return held / draws, excluded / draws


def test_a_part_of_the_study() -> None:
    settings = list(_settings())
    chosen = [settings[index] for index in np.random.default_rng(7).choice(len(settings), 12, replace=False)]
    results = {each: _study(each, 150, 1) for each in chosen}
    for setting, (coverage, excluded) in results.items():
        assert coverage >= 0.90, setting
        assert setting.difference or excluded <= 0.10, setting
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("clusters", COUNTS)
def test_the_whole_study(clusters: int, sizes: str) -> None:
    chosen = [each for each in _settings() if each.clusters == clusters and each.sizes == sizes]
    results = {each: _study(each, 2_000, 2) for each in chosen}
    for setting, (coverage, excluded) in results.items():
        print(f"{setting} coverage {coverage:.4f} excluded {excluded:.4f}")
    for setting, (coverage, excluded) in results.items():
        assert coverage >= 0.935, (setting, coverage)
        assert setting.difference or excluded <= 0.065, (setting, excluded)
    assert np.mean([coverage for coverage, _ in results.values()]) >= 0.945


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
@pytest.mark.parametrize("alike", [0.0, 0.3, 0.7])
def test_about_how_many_more_clusters(sizes: str, alike: float) -> None:
    setting, margin = Setting(24, sizes, alike, 0.7, 0.0), 0.05
    rng = np.random.default_rng([3, int(alike * 10)])
    members = setting.members(rng)
    spread = setting.draw(rng, members, 4_000).mean(axis=1).var()
    right = (1.959964 + 0.841621) ** 2 * spread * setting.clusters / margin**2
    found = []
    for row in setting.draw(rng, members, 200):
        pairs = Pairs(row, np.zeros_like(row), _units(row, members))
        found.append(setting.clusters + (missing_units(pairs, margin, 0.95) or 0))
    assert np.median(found) == pytest.approx(right, rel=0.25)
