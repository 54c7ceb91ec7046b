"""From cells to pairs: one number for each input and arm, repeats averaged first, only where both arms have an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.statistics._clusters import Units, units_of
from noa_lab.experiments.statistics._intervals import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = ["ArmValues", "Pairs", "arm_values", "kind_of", "pair", "score_range"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What two arms scored on the same inputs.

    Attributes:
        first: Mean score of the first arm for each input.
        second: The same for the second arm.
        units: Their differences as independent numbers: one for each input, or for each cluster.
        missing: Inputs of the run (or of the chosen part of it) without a pair.
        missing_first: Inputs on which the first arm has no score at all.
        missing_second: The same for the second arm.
        kind: What the differences are.
        low: The smallest that a score can be.
        high: The largest that a score can be.
        range_known: Whether the range is that of the scorer, or 0 to 1; False where it is only what was seen.
        flat: Whether no arm's scores differ among themselves.
        models: Models that the pairs are averaged over.
        samplings: Samplings that they are averaged over.
    """

    first: Numbers
    second: Numbers
    units: Units
    missing: int = 0
    missing_first: int = 0
    missing_second: int = 0
    kind: Kind = "graded"
    low: float = 0.0
    high: float = 1.0
    range_known: bool = True
    flat: bool = False
    models: int = 1
    samplings: int = 1

    @property
    def inputs(self) -> int:
        """Inputs with a pair."""
        return len(self.first)

    @property
    def reach(self) -> float:
        """The largest difference that there can be."""
        return self.high - self.low


def pair(
    frame: pd.DataFrame, first: str, second: str, *, inputs: int, bounds: tuple[float, float] | None = None
) -> Pairs:
    """Pair two arms by input.

    Repeats are averaged within input and setting; only the settings that both arms have answers for count, averaged within the input.

    Args:
        frame: What `scored` made of the cells.
        first: One arm.
        second: The other.
        inputs: Inputs that there should be pairs for.
        bounds: The smallest and the largest score that the scorer can give, where that is known.
    """
    frame = frame[frame["arm"].isin([first, second])]
    low, high, known = score_range(frame["value"].to_numpy(), bounds)
    cells = frame.groupby(["input_id", "setting", "model", "sampling", "arm"], sort=False)["value"].mean()
    both = cells.unstack("arm").reindex(columns=[first, second]).dropna()
    by_input = both.groupby(level="input_id", sort=False).mean()
    numbers = by_input.to_numpy(dtype=float)
    keys, clusters = _keys(by_input), _clusters(frame, by_input)
    answered = frame.groupby("arm")["input_id"].nunique()
    raw = frame["value"].to_numpy()
    return Pairs(
        first=numbers[:, 0],
        second=numbers[:, 1],
        units=units_of(numbers[:, 0] - numbers[:, 1], keys, clusters),
        missing=inputs - len(numbers),
        missing_first=inputs - int(answered.get(first, 0)),
        missing_second=inputs - int(answered.get(second, 0)),
        kind=kind_of(raw, numbers, (low, high)) if clusters is None else "graded",
        low=low,
        high=high,
        range_known=known,
        flat=bool((frame.groupby("arm")["value"].nunique() <= 1).all()),
        models=both.index.get_level_values("model").nunique(),
        samplings=both.index.get_level_values("sampling").nunique(),
    )


@dataclass(frozen=True, slots=True)
class ArmValues:
    """What one arm scored.

    Attributes:
        units: Its mean scores as independent numbers: one for each input, or for each cluster.
        inputs: Inputs with a score.
        kind: What the numbers are.
        low: The smallest that a score can be.
        high: The largest.
    """

    units: Units
    inputs: int
    kind: Kind
    low: float
    high: float


def arm_values(frame: pd.DataFrame, bounds: tuple[float, float] | None = None) -> ArmValues:
    """One arm's mean score for each input, repeats and settings averaged.

    Args:
        frame: What `scored` made of the arm's cells.
        bounds: The smallest and the largest score that the scorer can give, where that is known.
    """
    raw = frame["value"].to_numpy()
    low, high, _ = score_range(raw, bounds)
    cells = frame.groupby(["input_id", "setting"], sort=False)["value"].mean()
    by_input = cells.groupby(level="input_id", sort=False).mean().to_frame()
    numbers = by_input["value"].to_numpy(dtype=float)
    clusters = _clusters(frame, by_input)
    kind = kind_of(raw, numbers, (low, high)) if clusters is None else "graded"
    return ArmValues(units_of(numbers, _keys(by_input), clusters), len(numbers), kind, low, high)


def _keys(by_input: pd.DataFrame) -> list[str]:
    return [str(key) for key in by_input.index]


def _clusters(frame: pd.DataFrame, by_input: pd.DataFrame) -> Sequence[str | None] | None:
    """Each input's cluster; None where no input has one."""
    found: pd.Series[Any] = frame.dropna(subset=["cluster"]).groupby("input_id", sort=False)["cluster"].first()
    if found.empty:
        return None
    known = {str(key): str(value) for key, value in found.items()}
    return [known.get(key) for key in _keys(by_input)]


def kind_of(raw: Numbers, averaged: Numbers, bounds: tuple[float, float]) -> Kind:
    """What the numbers are: 0 and 1 throughout, of a score that knows no others, or anything else, averages of 0 and 1 included."""
    import numpy as np

    single = bounds == (0.0, 1.0) and np.isin(raw, (0.0, 1.0)).all() and np.isin(averaged, (0.0, 1.0)).all()
    return "binary" if single else "graded"


def score_range(raw: Numbers, bounds: tuple[float, float] | None = None) -> tuple[float, float, bool]:
    """The range of a score, and whether that is more than what was seen: `bounds`, else 0 to 1, where all values are in it."""
    low, high = bounds or (0.0, 1.0)
    if len(raw) == 0 or (raw.min() >= low and raw.max() <= high):
        return low, high, True
    return float(raw.min()), float(raw.max()), False
