"""Is one prompt answered faster than another? Ratios of paired times, from a latency pass only.

For each input the ratio of the two times is taken, on a log scale, where a slow outlier of one arm weighs as much as one of the other.
The typical ratio is J. L. Hodges and E. L. Lehmann's estimate, the median of all means of two inputs; its interval is the one that
F. Wilcoxon's signed-rank test does not reject (Annals of Mathematical Statistics 34, 1963, 598-611). It is exact for any number of
inputs and any noise that does not prefer an arm, as in pairs that were measured in turn; outliers cannot widen it much.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from noa_lab.errors import BadInput
from noa_lab.experiments.statistics._intervals import Interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = ["LATENCY_EXECUTOR", "is_latency_pass", "log_ratios", "ratio_interval", "require_latency_pass", "spread"]

LATENCY_EXECUTOR = "latency"
"""What `executor` says of cells that were timed alone: one request at a time, no reuse, arms in turn."""

_EXACT = 60
"""Up to this many inputs the signed-rank distribution is counted out; beyond it the normal one agrees."""

_MOST = 2_000
_EFFICIENCY = 3 / math.pi
"""Of the signed-rank estimate relative to the mean, for normal noise."""


def _executors(cells: pd.DataFrame) -> set[str]:
    """How the answers were asked for."""
    done = cells[cells["status"].astype(str) == "done"] if "status" in cells else cells
    return set(done["executor"].astype(str)) if "executor" in done else set()


def is_latency_pass(cells: pd.DataFrame) -> bool:
    """Whether all times of these cells can be compared."""
    return _executors(cells) == {LATENCY_EXECUTOR}


def require_latency_pass(cells: pd.DataFrame, column: str) -> None:
    """Make sure that all times were taken in a latency pass.

    Raises:
        BadInput: When some cell shared the machine.
    """
    if not is_latency_pass(cells):
        mixed = LATENCY_EXECUTOR in _executors(cells)
        raise BadInput(
            f"A verdict on {column!r} is refused: the cells of this run shared the machine, so that their times are shares of it.",
            fix=f'Choose those of the latency pass: where={{"executor": "{LATENCY_EXECUTOR}"}}.'
            if mixed
            else "Compare latency in a latency pass: one request at a time, no reuse, arms interleaved.",
            field="on",
            value=column,
        )


def log_ratios(frame: pd.DataFrame, first: str, second: str) -> tuple[Numbers, Numbers, Numbers]:
    """Paired times of two arms.

    Args:
        frame: What `scored` made of the cells, its values being times above 0.
        first: One arm.
        second: The other.

    Returns:
        For each input (or cluster): the log of the ratio of the times, and the median times of both arms. Repeats give their median,
        settings and the inputs of a cluster the median of their ratios.
    """
    import numpy as np

    frame = frame[frame["arm"].isin([first, second]) & (frame["value"] > 0)]
    cells = frame.groupby(["input_id", "setting", "arm"], sort=False)["value"].median()
    both = cells.unstack("arm").reindex(columns=[first, second]).dropna()
    both["ratio"] = np.log(both[first]) - np.log(both[second])
    by_input = both.groupby(level="input_id", sort=False).median()
    found = frame.dropna(subset=["cluster"]).groupby("input_id", sort=False)["cluster"].first()
    if not found.empty:
        named = {str(key): f"cluster {value}" for key, value in found.items()}
        by_input = by_input.groupby(
            [named.get(str(key), f"input {key}") for key in by_input.index], sort=False
        ).median()
    numbers = by_input[["ratio", first, second]].to_numpy(dtype=float)
    return numbers[:, 0], numbers[:, 1], numbers[:, 2]


def ratio_interval(logs: Numbers, confidence: float) -> tuple[float, Interval]:
    """The typical ratio minus 1, and its interval.

    Args:
        logs: Logs of the ratios, one for each input.
        confidence: The share of such intervals that shall hold the true one.
    """
    import numpy as np

    method = "Hodges-Lehmann estimate of the paired ratios, Wilcoxon's signed-rank interval"
    if len(logs) == 0:
        return math.nan, Interval(math.nan, math.nan, "no interval: there are no pairs")
    # Thousands of inputs have millions of pairs of inputs; two thousand of them say it closely enough.
    logs = logs if len(logs) <= _MOST else np.random.default_rng(1).choice(logs, _MOST, replace=False)
    rows, columns = np.triu_indices(len(logs))
    walsh = np.sort((logs[rows] + logs[columns]) / 2)
    rank = _rank(len(logs), (1 - confidence) / 2)
    centre = math.expm1(float(np.median(walsh)))
    if rank == 0:
        return centre, Interval(-1.0, math.inf, f"{method}: too few inputs for this confidence")
    return centre, Interval(math.expm1(float(walsh[rank - 1])), math.expm1(float(walsh[-rank])), method)


def _rank(count: int, tail: float) -> int:
    """The largest k with P(signed-rank sum < k) <= tail."""
    import numpy as np
    from scipy.special import ndtri

    if count <= _EXACT:
        chances = np.ones(1)
        for step in range(1, count + 1):
            shifted = np.zeros(len(chances) + step)
            shifted[: len(chances)] += chances / 2
            shifted[step:] += chances / 2
            chances = shifted
        return int(np.searchsorted(np.cumsum(chances), tail * (1 + 1e-12), side="right"))
    mean, deviation = count * (count + 1) / 4, math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return max(math.floor(mean + float(ndtri(tail)) * deviation), 0)


def spread(logs: Numbers) -> float:
    """The deviation of the log ratios that their interval rests on: that of a normal distribution with the same middle half."""
    import numpy as np

    low, high = np.quantile(logs, (0.25, 0.75)) if len(logs) else (0.0, 0.0)
    return float(high - low) / 1.3489795 / math.sqrt(_EFFICIENCY)
