"""Verdicts in plain English."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from noa_lab.experiments.statistics._needed import MIN_UNITS

if TYPE_CHECKING:
    from noa_lab.experiments.statistics._verdict import Verdict

__all__ = ["sentence"]


def sentence(verdict: Verdict) -> str:
    """See `Verdict.sentence`."""
    if verdict.withheld:
        return _withheld(verdict)
    ratio = verdict.scale == "ratio"
    question = f"Not enough data to say whether {verdict.arm} is {'faster' if ratio else 'better'} than {verdict.over}"
    question += f" on {verdict.on}"
    if not verdict.n_inputs:
        return f"{question}: no input has an answer from both."
    numbers = _numbers(verdict)
    if verdict.outcome == "not enough data":
        return f"{question}: {numbers}; {_outlook(verdict)}."
    warning = f" {verdict.warning}." if verdict.warning else ""
    if verdict.outcome == "same":
        margin = f"{verdict.margin:.3g}" if not ratio else f"{verdict.margin * 100:.3g} %"
        pair = f"{verdict.arm} and {verdict.over} are the same on {verdict.on}"
        return f"{pair}, within a margin of {margin}: {numbers}.{warning}"
    outcome: str = verdict.outcome
    if ratio:
        outcome = "faster" if outcome == "better" else "slower"
    return f"{verdict.arm} is {outcome} than {verdict.over} on {verdict.on}: {numbers}.{warning}"


def _withheld(verdict: Verdict) -> str:
    judged = verdict.judged
    assert judged is not None
    return (
        f"The judge cannot say whether {verdict.arm} is better than {verdict.over} on {verdict.on}: in {judged.flip_rate:.0%} of the "
        f"decided pairs it chose by the order of the two answers, more than {judged.most_flips:.0%} ({judged.words})."
    )


def _numbers(verdict: Verdict) -> str:
    """The difference, its interval, and what it was found on."""
    unit = "inputs" if verdict.n_clusters is None else f"inputs in {verdict.n_clusters} clusters"
    family = f", all {verdict.comparisons} comparisons at once" if verdict.comparisons > 1 else ""
    parts = [f"{_size(verdict)} ({_interval(verdict)}{family}, n = {verdict.n_inputs} {unit})"]
    if verdict.scale == "ratio":
        parts.append(f"medians {verdict.mean:,.0f} and {verdict.mean_over:,.0f} ms")
    if verdict.judged is not None:
        parts.append(verdict.judged.words)
    counts = ((verdict.n_models, "models"), (verdict.n_samplings, "samplings"))
    pooled = [f"{count} {name}" for count, name in counts if count > 1]
    parts += [f"over {', '.join(pooled)}"] * bool(pooled)
    if verdict.n_missing:
        parts.append(
            f"{verdict.n_missing} of {verdict.n_inputs + verdict.n_missing} inputs left out (no score in both)"
        )
    return "; ".join(parts)


def _size(verdict: Verdict) -> str:
    if verdict.scale == "ratio":
        return f"{verdict.difference * 100:+.0f} % time"
    return f"{verdict.difference:+.2f}"


def _interval(verdict: Verdict) -> str:
    low, high = verdict.interval
    share = f"{verdict.confidence * 100:g} % interval"
    if math.isnan(low):
        return "no interval"
    if verdict.scale == "ratio":
        return f"{share} {low * 100:+.0f} % to {high * 100:+.0f} %" if math.isfinite(high) else "no interval"
    return f"{share} {low:+.2f} to {high:+.2f}"


def _outlook(verdict: Verdict) -> str:
    unit = "inputs" if verdict.n_clusters is None else "clusters"
    count = verdict.n_inputs if verdict.n_clusters is None else verdict.n_clusters
    margin = f"{verdict.margin * 100:g} %" if verdict.scale == "ratio" else f"{verdict.margin:g}"
    aim = f"80 % power to see a difference of {margin}"
    if count < MIN_UNITS:
        least = MIN_UNITS - count
        text = f"at least {least} more {unit} are needed for any verdict"
        planned = verdict.more_inputs or 0
        return f"{text} and, planned from the margin alone, about {planned:,} for {aim}" if planned > least else text
    if math.isnan(verdict.interval[0]):
        return "the scores do not differ and their range is not known, so that nothing follows for other inputs"
    if verdict.more_inputs is None:
        return f"the difference is close to the margin of {margin}, so that more {unit} may not decide it"
    return f"about {verdict.more_inputs:,} more {unit} would give {aim}"
