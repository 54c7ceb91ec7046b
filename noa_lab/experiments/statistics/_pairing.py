"""From cells to pairs: one number for each input and arm, repeats averaged first, only where both arms have an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics._intervals import Kind

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

__all__ = ["LATENCY_COLUMNS", "Pairs", "arm_values", "kind_of", "pair", "score_names", "score_range", "select"]

LATENCY_COLUMNS = ("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms")
"""Times of a run in which several cells share the machine: shares of it, never compared between arms."""

_SETTING = ["input_id", "model", "sampling"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What two arms scored on the same inputs.

    Attributes:
        first: Mean score of the first arm for each unit.
        second: The same for the second arm.
        unit: "inputs", or "clusters" where inputs come in groups and were averaged within them.
        inputs: Inputs with a pair.
        missing: Inputs of the run (or of the chosen part of it) without one.
        kind: What the numbers are.
        low: The smallest that a score can be.
        high: The largest that a score can be.
        missing_first: Inputs on which the first arm has no score at all.
        missing_second: The same for the second arm.
        models: Models that the pairs are averaged over.
        samplings: Samplings that they are averaged over.
        range_known: Whether the range is that of the scorer, or 0 to 1; False where it is only what was seen.
        flat: Whether no arm's scores differ among themselves.
    """

    first: Numbers
    second: Numbers
    unit: str
    inputs: int
    missing: int
    kind: Kind
    low: float
    high: float
    missing_first: int = 0
    missing_second: int = 0
    models: int = 1
    samplings: int = 1
    range_known: bool = True
    flat: bool = False


def score_names(cells: pd.DataFrame) -> list[str]:
    """The scorers that the cells have a column for."""
    return [str(column).removeprefix("score.") for column in cells.columns if str(column).startswith("score.")]


def select(cells: pd.DataFrame, where: Mapping[str, Any] | None) -> pd.DataFrame:
    """The cells whose columns have the wanted values.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        where: Column -> value, or a list of allowed values; an input's variable may be named without its `input.`.

    Raises:
        UnknownName: For a column that there is not.
        BadInput: When nothing is left.
    """
    if not where:
        return cells
    columns = [str(column) for column in cells.columns]
    for name, wanted in where.items():
        column = name if name in columns else f"input.{name}"
        if column not in columns:
            raise UnknownName.among("column", name, columns, where="where")
        allowed = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        found = cells[column]
        cells = cells[found.isin(allowed)]
        if cells.empty:
            known = ", ".join(repr(value) for value in list(dict.fromkeys(found.astype(str)))[:8])
            raise BadInput(
                f"No cell has {name} = {wanted!r}.",
                fix=f"Choose among: {known or 'nothing, the cells are already used up by the other conditions'}.",
                field=f"where.{name}",
                value=wanted,
            )
    return cells


def _scored(cells: pd.DataFrame, score: str) -> pd.DataFrame:
    """The done cells that have the score, a finite number, as `value`, with what they are averaged and paired by."""
    import pandas as pd

    done = cells[cells["status"].astype(str) == "done"]
    frame = pd.DataFrame({"prompt": done["prompt"].astype(str), "input_id": done["input_id"].astype(str)})
    for column in ("model", "sampling"):
        frame[column] = done[column].astype(str) if column in done else ""
    frame["value"] = pd.to_numeric(done[f"score.{score}"].map(_number), errors="coerce").astype(float)
    frame["cluster"] = done.get("input.cluster")
    return frame[frame["value"].abs() < math.inf]


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]  # a bool, a number, or pandas' NA


def pair(cells: pd.DataFrame, first: str, second: str, score: str, bounds: tuple[float, float] | None = None) -> Pairs:
    """Pair two prompts by input.

    Repeats are averaged within input, model and sampling; only the models and samplings that both arms have answers for count,
    averaged within the input; inputs of one cluster are averaged too, so that a cluster counts once.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        first: One prompt's name.
        second: The other's.
        score: A scorer's name.
        bounds: The smallest and the largest score that the scorer can give, where that is known.
    """
    frame = _scored(cells[cells["prompt"].astype(str).isin([first, second])], score)
    low, high, known = score_range(frame["value"].to_numpy(), bounds)
    means = frame.groupby([*_SETTING, "prompt"], sort=False)["value"].mean().unstack("prompt")
    both = means.reindex(columns=[first, second]).dropna()
    by_input = both.groupby(level="input_id", sort=False).mean()
    total = cells["input_id"].astype(str).nunique()
    clusters = frame.dropna(subset=["cluster"]).groupby("input_id", sort=False)["cluster"].first()
    units = _by_cluster(by_input, clusters)
    scored = frame.groupby("prompt")["input_id"].nunique()
    return Pairs(
        first=units[first].to_numpy(dtype=float),
        second=units[second].to_numpy(dtype=float),
        unit="inputs" if clusters.empty else "clusters",
        inputs=len(by_input),
        missing=total - len(by_input),
        kind=kind_of(frame["value"].to_numpy(), units.to_numpy(dtype=float), (low, high)),
        low=low,
        high=high,
        missing_first=total - int(scored.get(first, 0)),
        missing_second=total - int(scored.get(second, 0)),
        models=both.index.get_level_values("model").nunique(),
        samplings=both.index.get_level_values("sampling").nunique(),
        range_known=known,
        flat=bool((frame.groupby("prompt")["value"].nunique() <= 1).all()),
    )


def _by_cluster(by_input: pd.DataFrame, clusters: pd.Series[Any]) -> pd.DataFrame:
    """Means of the clusters; an input without one is a cluster of its own."""
    import numpy as np

    if clusters.empty:
        return by_input
    known = clusters.astype(str).to_dict()
    # The prefix keeps an input's id apart from a cluster of the same name.
    names = [f"cluster {known[each]}" if each in known else f"input {each}" for each in map(str, by_input.index)]
    return by_input.groupby(np.array(names, dtype=object), sort=False).mean()


def arm_values(
    cells: pd.DataFrame, score: str, bounds: tuple[float, float] | None = None
) -> tuple[Numbers, Kind, float, float]:
    """One arm's mean score for each input (or cluster), what the numbers are, and the range that scores have.

    Args:
        cells: The cells of one arm.
        score: A scorer's name.
        bounds: The smallest and the largest score that the scorer can give, where that is known.
    """
    frame = _scored(cells, score)
    low, high, _ = score_range(frame["value"].to_numpy(), bounds)
    by_input = frame.groupby(_SETTING, sort=False)["value"].mean().groupby(level="input_id", sort=False).mean()
    clusters = frame.dropna(subset=["cluster"]).groupby("input_id", sort=False)["cluster"].first()
    numbers = _by_cluster(by_input.to_frame(), clusters)["value"].to_numpy(dtype=float)
    return numbers, kind_of(frame["value"].to_numpy(), numbers, (low, high)), low, high


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
