"""Choosing among measured speeds: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["candidates", "fastest", "smallest_near_best"]

CLEAR = 1.03
"""A candidate has to be this many times faster than the default to be chosen; less is noise."""

NEAR = 0.95
"""A share of the best speed that is as good as the best."""


def candidates(cores: int, physical: int, *also: int) -> list[int]:
    """The thread counts that are tried: 1, 2, 4, ... up to `cores`, the physical cores, and `also`."""
    powers = {2**power for power in range(cores.bit_length()) if 2**power <= cores}
    return sorted({*powers, cores, *(each for each in (physical, *also) if 1 <= each <= cores)})


def fastest(speeds: Mapping[int, float], default: int) -> int:
    """The candidate with the highest speed; `default` unless another is clearly faster."""
    best = max(speeds, key=speeds.__getitem__)
    return best if default not in speeds or speeds[best] > CLEAR * speeds[default] else default


def smallest_near_best(speeds: Mapping[int, float]) -> int:
    """The smallest candidate that is about as fast as the fastest: more of it costs memory and brings nothing."""
    enough = NEAR * max(speeds.values())
    return min(value for value, speed in speeds.items() if speed >= enough)
