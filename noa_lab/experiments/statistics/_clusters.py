"""Inputs that belong together: what a mean over inputs is worth when they come in clusters.

The mean stays the mean over inputs. What is clustered is its error, as in cluster-robust standard errors (for evaluations: E. Miller,
arXiv 2411.00640): each cluster contributes the sum of its deviations, and the clusters are the independent units. With few or unequal
clusters the plain formula is too bold: with 10 clusters of very unequal sizes its 95 % intervals held the truth in 54 to 90 % of our
simulated studies. So the error is that of R. M. Bell and D. F. McCaffrey ("CR2", Survey Methodology 28, 2002, 169-181), with their
degrees of freedom; for equal clusters both are what Student's t on the clusters' means gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = ["Units", "units_of"]


@dataclass(frozen=True, slots=True)
class Units:
    """Independent numbers whose mean is the mean over inputs.

    Attributes:
        values: One number for each input, or for each cluster: the mean plus the cluster's share of the deviation from it, times the
            number of clusters.
        means: One number for each input, or each cluster's own mean.
        keys: The inputs' ids, or the clusters' names.
        degrees: Degrees of freedom of Student's t.
        inflation: By how much the standard error of `values` is too small.
        stretch: How much further than the scores' own range the values can reach (largest cluster over the mean one).
        clustered: Whether there are clusters.
    """

    values: Numbers
    means: Numbers
    keys: tuple[str, ...]
    degrees: float
    inflation: float
    stretch: float
    clustered: bool

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over inputs; NaN without any."""
        return float(self.values.mean()) if len(self.values) else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN with fewer than two units."""
        count = len(self.values)
        return float(self.values.std(ddof=1)) / math.sqrt(count) * self.inflation if count > 1 else math.nan


def units_of(values: Numbers, keys: Sequence[str], clusters: Sequence[str | None] | None = None) -> Units:
    """The units of a mean over inputs.

    Args:
        values: One number for each input.
        keys: The inputs' ids.
        clusters: Each input's cluster, None for one that is alone; no clusters at all where this is None.
    """
    if clusters is None:
        return Units(values, values, tuple(keys), max(len(values) - 1.0, 0.0), 1.0, 1.0, clustered=False)
    # The prefix keeps an input's id apart from a cluster of the same name.
    names = [f"input {key}" if name is None else f"cluster {name}" for key, name in zip(keys, clusters, strict=True)]
    return _clustered(values, names)


def _clustered(values: Numbers, names: Sequence[str]) -> Units:
    import numpy as np

    keys = list(dict.fromkeys(names))
    places = {key: place for place, key in enumerate(keys)}
    codes = np.array([places[name] for name in names], dtype=int)
    count = len(keys)
    if count < 2:
        alone = values.mean(keepdims=True) if count else values
        return Units(alone, alone, tuple(keys), 0.0, 1.0, 1.0, clustered=True)
    sizes = np.bincount(codes, minlength=count).astype(float)
    shares = sizes / sizes.sum()
    mean, sums = values.mean(), np.bincount(codes, values, count)
    deviations = count * (sums / sizes.sum() - shares * mean)
    squares = float((deviations**2).sum())
    adjusted = float((deviations**2 / (1.0 - shares)).sum()) * (count - 1) / count
    inflation = math.sqrt(adjusted / squares) if squares > 0.0 else 1.0
    stretch = float(sizes.max() / sizes.mean())
    return Units(mean + deviations, sums / sizes, tuple(keys), _degrees(shares), inflation, stretch, clustered=True)


def _degrees(shares: Numbers) -> float:
    """Bell and McCaffrey's degrees of freedom, (tr A)^2 / tr A^2, for a mean, with the inputs' errors taken for independent.

    There A has shares_c on its diagonal and shares_c shares_d / sqrt((1 - shares_c) (1 - shares_d)) elsewhere.
    """
    weights = shares**2 / (1.0 - shares)
    elsewhere = float(weights.sum()) ** 2 - float((weights**2).sum())
    return 1.0 / (float((shares**2).sum()) + elsewhere)
