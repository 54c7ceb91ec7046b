"""One comparison: from pairs to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.statistics._intervals import NO_INTERVAL, Interval, mean_interval
from noa_lab.experiments.statistics._judged import Judged
from noa_lab.experiments.statistics._latency import log_ratios, ratio_interval, spread
from noa_lab.experiments.statistics._needed import MIN_UNITS, POWER, SAME_POWER, missing_units, needed
from noa_lab.experiments.statistics._pairing import Pairs
from noa_lab.experiments.statistics._scores import Axis
from noa_lab.experiments.statistics._verdict import Outcome, Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Question", "score_verdict", "time_verdict"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every comparison of a family."""

    over: str
    on: str
    by: Axis
    margin: float
    confidence: float
    each_confidence: float
    comparisons: int


def score_verdict(ask: Question, arm: str, pairs: Pairs, said: Judged | None) -> Verdict:
    """The verdict on one arm.

    Args:
        ask: What is asked.
        arm: The arm.
        pairs: What it and the baseline scored.
        said: What a judge said, where the scorer is one.
    """
    units = pairs.units
    found = mean_interval(units, kind=pairs.kind, low=-pairs.reach, high=pairs.reach, confidence=ask.each_confidence)
    if pairs.flat and not pairs.range_known:
        found = NO_INTERVAL
    outcome = _outcome(found, len(units), above=ask.margin, below=ask.margin)
    if said is not None and not said.believed:
        outcome = "not enough data"
    unsettled = outcome == "not enough data" and (found is not NO_INTERVAL or len(units) < MIN_UNITS)
    more = missing_units(pairs, ask.margin, ask.each_confidence) if unsettled else None
    return _filled(
        ask,
        arm,
        pairs,
        outcome=outcome,
        difference=units.mean,
        interval=(found.low, found.high),
        standard_error=units.standard_error,
        mean=float(pairs.first.mean()) if pairs.inputs else math.nan,
        mean_over=float(pairs.second.mean()) if pairs.inputs else math.nan,
        p_value=_sign_test(units.means),
        method=found.method,
        more_inputs=None if said is not None and not said.believed else more,
        judged=said,
    )


def time_verdict(ask: Question, arm: str, pairs: Pairs, frame: pd.DataFrame) -> Verdict:
    """The verdict on one arm's times; `frame` is what `scored` made of the cells."""
    import numpy as np

    logs, first, second = log_ratios(frame, arm, ask.over)
    centre, found = ratio_interval(logs, ask.each_confidence)
    # Of times, less is better.
    reversed_ = Interval(-found.high, -found.low, found.method)
    outcome = _outcome(reversed_, len(logs), above=ask.margin / (1 + ask.margin), below=ask.margin)
    more = None
    if outcome == "not enough data":
        margin, deviation, count = math.log1p(ask.margin), spread(logs), len(logs)
        totals = (
            [MIN_UNITS]
            if count < MIN_UNITS
            else [needed(deviation, margin, confidence=ask.each_confidence, power=p) for p in (POWER, SAME_POWER)]
        )
        more = next((total - count for total in totals if total > count), None)
    return _filled(
        ask,
        arm,
        pairs,
        outcome=outcome,
        scale="ratio",
        difference=centre,
        interval=(found.low, found.high),
        mean=float(np.median(first)) if len(first) else math.nan,
        mean_over=float(np.median(second)) if len(second) else math.nan,
        p_value=_sign_test(logs),
        method=found.method,
        more_inputs=more,
    )


def _filled(ask: Question, arm: str, pairs: Pairs, **found: Any) -> Verdict:
    return Verdict(
        arm=arm,
        over=ask.over,
        on=ask.on,
        by=ask.by,
        confidence=ask.confidence,
        comparisons=ask.comparisons,
        margin=ask.margin,
        n_inputs=pairs.inputs,
        n_missing=pairs.missing,
        n_missing_arm=pairs.missing_first,
        n_missing_over=pairs.missing_second,
        n_models=pairs.models,
        n_samplings=pairs.samplings,
        n_clusters=len(pairs.units) if pairs.units.clustered else None,
        p_adjusted=found["p_value"],
        **found,
    )


def _outcome(interval: Interval, count: int, *, above: float, below: float) -> Outcome:
    """The outcome of an interval.

    Args:
        interval: For the difference, more being better.
        count: Inputs or clusters.
        above: How much better still is the same.
        below: How much worse still is.
    """
    if count < MIN_UNITS or math.isnan(interval.low):
        return "not enough data"
    if -below <= interval.low and interval.high <= above:
        return "same"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "not enough data"


def _sign_test(differences: Any) -> float:
    from scipy.stats import binomtest

    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
