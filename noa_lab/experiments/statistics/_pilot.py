"""From a first small run to the plan of the next one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, NotEnoughData
from noa_lab.experiments.statistics._clusters import units_of
from noa_lab.experiments.statistics._needed import MIN_UNITS, POWER
from noa_lab.experiments.statistics._power import InputPlan, plan_inputs
from noa_lab.experiments.statistics._scores import Axis, scored, select

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plan_from"]


def plan_from(
    cells: pd.DataFrame,
    arm: str,
    *,
    over: str,
    on: str,
    margin: float | None = None,
    power: float = POWER,
    repeats: int | None = None,
    where: Mapping[str, Any] | None = None,
    by: Axis = "prompt",
    **options: Any,
) -> InputPlan:
    """`plan_inputs` with the deviation, the share of chance and the likeness within clusters that a run has shown.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        arm: An arm.
        over: The baseline.
        on: A scorer's name.
        margin: See `plan_inputs`.
        power: See `plan_inputs`.
        repeats: Of the run to be planned; default: as many as the cells have.
        where: See `verdict`.
        by: See `verdict`.
        options: Others of `plan_inputs`: `inputs`, `confidence`, `prompts`.

    Raises:
        BadInput: When the cells are of several models or samplings.
        NotEnoughData: When there are fewer than 10 pairs, or their scores do not differ at all.
    """
    frame = scored(select(cells, where), f"score.{on.removeprefix('score.')}", by)
    frame = frame[frame["arm"].isin([str(arm), str(over)])]
    if frame["setting"].nunique() > 1:
        raise BadInput(
            "The cells are of several models or samplings, whose differences are not noise.",
            fix='Choose one: where={"model": ..., "sampling": 0}.',
            field="where",
            value=where,
        )
    places = frame.groupby(["input_id", "arm"], sort=False)["value"]
    both = [str(arm), str(over)]
    means = places.mean().unstack("arm").reindex(columns=both).dropna()
    counts = places.size().unstack("arm").reindex(columns=both).loc[means.index]
    differences = means[str(arm)] - means[str(over)]
    if len(differences) < MIN_UNITS or not (variance := float(differences.var())):
        raise NotEnoughData(
            f"{len(differences)} pairs of scores, or scores that do not differ, say nothing about how much others will.",
            fix="Plan without them: plan_inputs(margin, disagree=...).",
            pairs=len(differences),
        )
    within = places.var().unstack("arm").reindex(columns=both)
    chance = float(within.mean().sum()) if within.notna().any().all() else None
    average = float((1 / counts).mean().mean())
    noise = 0.0 if chance is None else min(chance, variance / average)
    total = variance + noise * (1 - average)
    found = units_of(differences.to_numpy(dtype=float), _keys(differences), _clusters(frame, differences))
    size = len(differences) / len(found)
    design = found.standard_error**2 * len(differences) / variance
    return plan_inputs(
        margin,
        power=power,
        repeats=max(round(1 / average), 1) if repeats is None else repeats,
        deviation=math.sqrt(total),
        by_chance=noise / total,
        cluster_size=size,
        alike=min(max((design - 1) / (size - 1), 0.0), 1.0) if size > 1 else 0.0,
        **options,
    )


def _keys(differences: pd.Series[float]) -> list[str]:
    return [str(key) for key in differences.index]


def _clusters(frame: pd.DataFrame, differences: pd.Series[float]) -> list[str | None] | None:
    known = frame.dropna(subset=["cluster"]).groupby("input_id", sort=False)["cluster"].first()
    return None if known.empty else [str(known[key]) if key in known else None for key in _keys(differences)]
