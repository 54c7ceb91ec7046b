"""How many inputs a question needs, and how many more are missing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noa_lab.experiments.statistics._pairing import Pairs

__all__ = ["MIN_UNITS", "POWER", "SAME_POWER", "least_deviation", "missing_units", "needed"]

MIN_UNITS = 10
"""Below this many inputs (or clusters) nothing is concluded."""

POWER = 0.8
"""Probability with which a true difference of the margin shall be seen."""

SAME_POWER = 0.9
""""Same" needs an interval inside the margin from both sides: a power of 80 % leaves 10 % to each."""


def needed(deviation: float, margin: float, *, confidence: float = 0.95, power: float = POWER) -> int:
    """Inputs needed to see a true difference of `margin`.

    n = (z + y)^2 (deviation / margin)^2 + z^2 / 2, with z and y the normal quantiles of (1 + confidence) / 2 and of `power`; the last term
    is W. C. Guenther's allowance for Student's t (American Statistician 35, 1981, 243-244).

    Args:
        deviation: Standard deviation of the differences within a pair.
        margin: The difference that matters: the power is that for seeing it, never for the observed one.
        confidence: Of the interval that will judge.
        power: Probability with which a true difference of `margin` shall be seen.
    """
    z, y = _normal((1 + confidence) / 2), _normal(power)
    return math.ceil((z + y) ** 2 * (deviation / margin) ** 2 + z * z / 2)


def _normal(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


def least_deviation(reach: float, margin: float) -> float:
    """The deviation that a true difference of `margin` has by itself, when it comes from few inputs that differ by all of `reach`."""
    return math.sqrt(max(margin * (reach - margin), 0.0))


def missing_units(pairs: Pairs, margin: float, confidence: float) -> int | None:
    """About how many more inputs (or clusters) would settle a comparison: see `Verdict.more_inputs`.

    The deviation is the one seen, but for single 0/1 scores, or where none was seen, at least `least_deviation`.
    """
    count = len(pairs.units)
    least = least_deviation(pairs.reach, margin)
    if count < MIN_UNITS:
        # What so few have shown of the deviation is noise.
        planned = needed(least, margin, confidence=confidence) if pairs.range_known else 0
        return max(planned, MIN_UNITS) - count
    seen = pairs.units.standard_error * math.sqrt(count)
    deviation = max(seen, least) if pairs.kind == "binary" or seen == 0.0 else seen
    total = max(needed(deviation, margin, confidence=confidence), MIN_UNITS)
    if total > count:
        return total - count
    total = needed(deviation, margin, confidence=confidence, power=SAME_POWER)
    return total - count if total > count else None
