"""Several comparisons with one baseline at once: intervals that shall all hold together.

Each comparison alone gives a false alarm in one of twenty studies; five of them give one in about six. So the intervals of a family
are widened until, with the wanted confidence, *all* of them hold: C. W. Dunnett's procedure (JASA 50, 1955, 1096-1121), with the
correlations of the comparisons as they are in the data (for clusters, of the clusters' contributions). It is never wider than
Bonferroni's. Stepwise procedures such as Holm's find a little more, but have no intervals that agree with what they find.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noa_lab.experiments.statistics._intervals import student_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from noa_lab.experiments.statistics._clusters import Units

    Numbers = NDArray[np.float64]

__all__ = ["correlations", "holm", "joint_confidence", "joint_quantile"]

_POINTS, _STEPS = 8_192, 256
_ROUND = 2_000


def joint_confidence(family: Sequence[Units], confidence: float) -> float:
    """The confidence that each interval of a family needs, so that all of them hold with `confidence`.

    Args:
        family: The differences of each comparison; those with fewer than two units are left out.
        confidence: That all hold.

    Returns:
        `confidence` itself for a family of one.
    """
    counted = [units for units in family if len(units) > 1]
    if len(counted) < 2:
        return confidence
    from scipy.special import stdtr

    degrees = min(units.degrees for units in counted)
    critical = joint_quantile(correlations(counted), degrees, confidence)
    # Rounded up: more digits than the quantile has would only make the same data look different.
    return min(math.ceil((2 * stdtr(degrees, critical) - 1) * _ROUND) / _ROUND, 1 - (1 - confidence) / len(counted))


def correlations(family: Sequence[Units]) -> Numbers:
    """Of the means of several comparisons that share units, estimated from what each unit contributes to them.

    Estimates from few units are drawn towards 0, which only widens the intervals (Z. Sidak, JASA 62, 1967, 626-633).
    """
    import numpy as np

    places = {key: place for place, key in enumerate(dict.fromkeys(key for units in family for key in units.keys))}
    table = np.zeros((len(family), len(places)))
    for row, units in zip(table, family, strict=True):
        row[[places[key] for key in units.keys]] = units.values - units.mean
    lengths = np.sqrt((table**2).sum(axis=1))
    table /= np.where(lengths > 0.0, lengths, 1.0)[:, None]
    least = min(len(units) for units in family)
    found: Numbers = table @ table.T * (least / (least + len(family)))
    np.fill_diagonal(found, 1.0)
    return found


def joint_quantile(correlation: Numbers, degrees: float, confidence: float) -> float:
    """How many standard errors to each side hold `confidence` of the largest of several correlated Student's t.

    The normal part is summed over fixed points (Sobol's), the chi-squared part integrated: good to about 0.005.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import chdtr

    count = len(correlation)
    single = student_quantile(degrees, confidence)
    bonferroni = student_quantile(degrees, 1 - (1 - confidence) / count)
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    largest = np.sort(np.abs(root @ _normal(count)).max(axis=0))
    # Neighbours are averaged: a few hundred values say what all of them say.
    largest = largest.reshape(_STEPS, -1).mean(axis=1)

    def missing(critical: float) -> float:
        return float(chdtr(degrees, degrees * (largest / critical) ** 2).mean()) - (1 - confidence)

    if missing(single) <= 0.0:
        return single
    return bonferroni if missing(bonferroni) >= 0.0 else float(brentq(missing, single, bonferroni, xtol=1e-6))


@functools.lru_cache(maxsize=4)
def _normal(count: int) -> Numbers:
    """Evenly spread points of the normal distribution in `count` dimensions, one a column."""
    import numpy as np
    from scipy.stats import qmc

    points = qmc.MultivariateNormalQMC(np.zeros(count), rng=np.random.default_rng(1)).random(_POINTS)
    return np.ascontiguousarray(points.T)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted by S. Holm's procedure (Scandinavian Journal of Statistics 6, 1979, 65-70), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
