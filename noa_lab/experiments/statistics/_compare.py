"""Comparing arms: from a table of cells to verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics._intervals import Kind
from noa_lab.experiments.statistics._judged import MAX_FLIPS, Judged, is_judged, judged
from noa_lab.experiments.statistics._latency import require_latency_pass
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._outcome import Question, score_verdict, time_verdict
from noa_lab.experiments.statistics._pairing import Pairs, pair
from noa_lab.experiments.statistics._scores import (
    AXES,
    LATENCY_COLUMNS,
    Axis,
    require_columns,
    score_names,
    scored,
    select,
)
from noa_lab.experiments.statistics._simultaneous import holm, joint_confidence
from noa_lab.experiments.statistics._verdict import Verdict, Verdicts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ScoreFacts", "verdict", "verdicts"]

JUDGE_REACH = 0.5
"""A judge's score is a share of wins over the baseline, which has one half itself."""


@dataclass(frozen=True, slots=True)
class ScoreFacts:
    """What is known of a scorer besides its scores.

    Attributes:
        bounds: The smallest and the largest score that it can give.
        most_flips: Of a pairwise judge: see `Judged`.
    """

    bounds: tuple[float, float] | None = None
    most_flips: float = MAX_FLIPS


def verdict(
    cells: pd.DataFrame,
    arm: str,
    *,
    over: str,
    on: str,
    margin: float = DEFAULT_MARGIN,
    where: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    by: Axis = "prompt",
    family: Sequence[str] | None = None,
    most_flips: float = MAX_FLIPS,
) -> Verdict:
    """Compare two arms, paired by input.

    Repeats, and whatever else the arms have in common (models, samplings), are averaged within an input before any statistics, so that n
    is inputs; where inputs have a cluster, the error is that of independent clusters. Failed, pending and unscored cells are left out,
    never counted as 0; so is a score that is no finite number. Where the cells have more arms, the interval allows for all the
    comparisons with `over` that could be made.

    Args:
        cells: Cells with the columns of `Run.cells()`; at least `prompt`, `input_id` and `score.<name>`.
        arm: The arm in question.
        over: The arm to compare it with.
        on: A scorer's name; or a column of times, for cells of a latency pass.
        margin: The smallest difference that matters, in the score's own units (0.05: five percentage points of a 0/1 score; of times,
            5 %).
        where: Use only the cells with these values, for example `{"model": "smollm2-135m"}`.
        confidence: Of the interval.
        bounds: The smallest and the largest score that the scorer can give. Default: 0 to 1 where all scores are in it, else the range
            that was seen.
        by: What the arms differ in: "prompt", "model" or "sampling".
        family: The arms that are compared with `over` at the same time; default: all that the cells have. `[arm]` for a comparison that
            was the only one planned.
        most_flips: Of a pairwise judge: the share of decided pairs in which the order may have decided.

    Raises:
        UnknownName: For an arm, scorer or column that the cells do not have.
        BadInput: For a margin or confidence out of range, an arm compared with itself, a `where` that fits no cell, or times that were
            not taken in a latency pass.
    """
    require_columns(cells)
    _check_axis(cells, by)
    _check_arms(cells, [arm], over, by)
    _check_numbers(margin, confidence)
    chosen = select(cells, where)
    arms = list(dict.fromkeys([*(_arms(chosen, by) if family is None else map(str, family)), str(arm)]))
    _check_arms(cells, arms := [each for each in arms if each != str(over)], over, by)
    facts = ScoreFacts(bounds, most_flips)
    return _family(chosen, arms, str(over), on, margin, confidence, by, facts)[arms.index(str(arm))]


def verdicts(
    cells: pd.DataFrame,
    *,
    over: str | None = None,
    on: str | Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    margin: float = DEFAULT_MARGIN,
    where: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    by: Axis = "prompt",
    facts: Mapping[str, ScoreFacts] | None = None,
) -> Verdicts:
    """Compare several arms with one baseline, so that all intervals of a scorer hold at once.

    Args:
        cells: As for `verdict`, which also describes the other arguments.
        over: The baseline; default: the first arm of the cells.
        on: A scorer, or several; default: all that have any score.
        arms: The arms to compare with the baseline; default: all others.
        margin: See `verdict`.
        where: See `verdict`.
        confidence: That all intervals of a scorer hold.
        by: See `verdict`.
        facts: What is known of the scorers, by name.

    Raises:
        UnknownName: As `verdict`.
        BadInput: As `verdict`.
    """
    require_columns(cells)
    _check_axis(cells, by)
    _check_numbers(margin, confidence)
    chosen = select(cells, where)
    present = _arms(chosen, by)
    if not present:
        return Verdicts([])
    baseline = present[0] if over is None else str(over)
    others = [each for each in (present if arms is None else map(str, arms)) if each != baseline]
    _check_arms(cells, others, baseline, by)
    names = [on] if isinstance(on, str) else list(on) if on is not None else _with_scores(chosen, baseline, by)
    known = facts or {}
    found: list[Verdict] = []
    for name in names if others else ():
        about = known.get(name.removeprefix("score."), ScoreFacts())
        found += _family(chosen, others, baseline, name, margin, confidence, by, about)
    return Verdicts(found)


def _arms(cells: pd.DataFrame, by: Axis) -> list[str]:
    return list(dict.fromkeys(cells[by].astype(str)))


def _with_scores(cells: pd.DataFrame, baseline: str, by: Axis) -> list[str]:
    """The scorers that have scores; judges that compared with another baseline are left out."""
    names = [name for name in score_names(cells) if cells[f"score.{name}"].notna().any()]
    own = cells[cells[by].astype(str) == baseline]
    return [name for name in names if not is_judged(cells, name) or own[f"score_orders.{name}"].isna().all()]


def _check_axis(cells: pd.DataFrame, by: str) -> None:
    if by not in AXES:
        raise UnknownName.among("axis", str(by), AXES, where="by")
    if by not in cells:
        raise BadInput(
            f"The cells have no column {by!r}.",
            fix=f"Compare by one that they have: {', '.join(axis for axis in AXES if axis in cells)}.",
            field="by",
            value=by,
        )


def _check_arms(cells: pd.DataFrame, arms: Sequence[str], over: str, by: Axis) -> None:
    known = _arms(cells, by)
    for name in (*arms, over):
        if str(name) not in known:
            raise UnknownName.among(by, str(name), known, where="this run")
    if str(over) in map(str, arms):
        raise BadInput(
            f"{over!r} is compared with itself.", fix=f"Name another {by} in `over`.", field="over", value=over
        )


def _check_numbers(margin: float, confidence: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        fix = f"Give the smallest difference that matters to you, for example {DEFAULT_MARGIN}."
        raise BadInput(
            f"margin = {margin!r} is not allowed: it must be above 0.", fix=fix, field="margin", value=margin
        )
    if not 0.5 <= confidence < 1:
        fix = "Use a confidence from 0.5 to below 1, usually 0.95."
        raise BadInput(f"confidence = {confidence!r} is not allowed.", fix=fix, field="confidence", value=confidence)


def _family(
    cells: pd.DataFrame,
    arms: Sequence[str],
    over: str,
    on: str,
    margin: float,
    confidence: float,
    by: Axis,
    facts: ScoreFacts,
) -> list[Verdict]:
    """The verdicts on `arms` over one baseline, on one scorer."""
    column = _column(cells, on)
    times = column in LATENCY_COLUMNS
    inputs = cells["input_id"].astype(str).nunique()
    if times:
        require_latency_pass(cells[cells[by].astype(str).isin([*arms, over])], column)
    frame = scored(cells, column, by)
    if times:
        frame = frame[frame["value"] > 0]
    name = column.removeprefix("score.")
    bounds = None if times else facts.bounds
    pairs = [pair(frame, arm, over, inputs=inputs, bounds=bounds) for arm in arms]
    if not times and is_judged(cells, name):
        _check_baseline(cells, name, over, by)
        said: list[Judged | None] = [judged(cells, arm, name, by, facts.most_flips) for arm in arms]
        pairs = [_of_judge(each) for each in pairs]
    else:
        said = [None] * len(arms)
    count = max(sum(len(each.units) > 1 for each in pairs), 1)
    joint = 1 - (1 - confidence) / count if times else joint_confidence([each.units for each in pairs], confidence)
    ask = Question(over, name, by, margin, confidence, joint, count)
    found = [
        time_verdict(ask, arm, each, frame) if times else score_verdict(ask, arm, each, judge)
        for arm, each, judge in zip(arms, pairs, said, strict=True)
    ]
    adjusted = holm([each.p_value for each in found])
    return [replace(each, p_adjusted=value) for each, value in zip(found, adjusted, strict=True)]


def _column(cells: pd.DataFrame, on: str) -> str:
    names = score_names(cells)
    name = str(on).removeprefix("score.")
    if name in names:
        return f"score.{name}"
    if on in LATENCY_COLUMNS:
        return on
    raise UnknownName.among("scorer", str(on), names, where="this run")


def _check_baseline(cells: pd.DataFrame, name: str, over: str, by: Axis) -> None:
    if by != "prompt" or cells[cells[by].astype(str) == over][f"score_orders.{name}"].notna().any():
        raise BadInput(
            f"The judge {name!r} has not compared anything with {over!r}.",
            fix=f"Name the prompt that it compared the others with in `over`, or add score.judge(..., over={over!r}).",
            field="over",
            value=over,
        )


def _of_judge(pairs: Pairs) -> Pairs:
    """Pairs whose second number is the constant one half: their differences reach half as far as the scores."""
    import numpy as np

    single = bool(np.isin(pairs.units.values, (-JUDGE_REACH, 0.0, JUDGE_REACH)).all())
    kind: Kind = "binary" if single and not pairs.units.clustered else "graded"
    return replace(pairs, low=0.0, high=JUDGE_REACH, kind=kind, range_known=True, flat=False)
