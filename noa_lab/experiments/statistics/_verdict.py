"""Is one prompt better than another? One answer of four, with the interval that it rests on."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.statistics._intervals import NO_INTERVAL, Interval, mean_interval, needed
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._pairing import LATENCY_COLUMNS, Pairs, pair, score_names, select

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIN_UNITS", "Outcome", "Verdict", "verdict"]

MIN_UNITS = 10
"""Below this many inputs (or clusters) nothing is concluded."""

MOST_MISSING = 0.2
"""With a larger share of the inputs left out, unevenly between the arms, an outcome comes with a warning."""

Outcome = Literal["better", "worse", "same", "not enough data"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the run's data say about two prompts.

    Attributes:
        outcome: "same" when the whole interval lies within +-margin (also when it excludes 0: a difference too small to matter); else
            "better" or "worse" when it excludes 0; else "not enough data", as always with fewer than 10 inputs (or clusters).
        arm: The prompt in question.
        over: The prompt that it is compared with.
        on: The scorer.
        difference: Mean score of `arm` minus that of `over`, over the paired inputs (with clusters: mean of the clusters' means); NaN
            without pairs.
        interval: For the true difference; NaN twice where nothing can be said: the scores of an arm do not differ, and their range is
            not known.
        confidence: The share of such intervals that hold it.
        margin: The smallest difference that matters, in the score's own units.
        n_inputs: Inputs with an answer from both arms: the n of everything here, unless there are clusters.
        n_missing: Inputs without one (failed, pending, or not scored); left out.
        n_missing_arm: Inputs on which `arm` has no score at all.
        n_missing_over: The same for `over`.
        n_models: Models that the scores are averaged over.
        n_samplings: Samplings that they are averaged over.
        n_clusters: Clusters among them; None where inputs come one by one.
        mean: Mean score of `arm`.
        mean_over: Mean score of `over`.
        p_value: Exact sign test on the differences (for single 0/1 scores the exact McNemar test): secondary information that decides
            nothing.
        method: How the interval was found.
        more_inputs: About how many more inputs (or clusters) would settle it: enough for 80 % power to see a true difference of
            `margin`; where the run has that already, enough to show "same" if there is no difference. Below 10 it is planned from the
            margin alone, as if just so many single 0/1 scores differed as that takes; where the range of the scores is not known, it is
            what is missing to 10. None when the outcome is settled, or when more of them may not help.
    """

    outcome: Outcome
    arm: str
    over: str
    on: str
    difference: float
    interval: tuple[float, float]
    confidence: float
    margin: float
    n_inputs: int
    n_missing: int
    n_missing_arm: int
    n_missing_over: int
    n_models: int
    n_samplings: int
    n_clusters: int | None
    mean: float
    mean_over: float
    p_value: float
    method: str
    more_inputs: int | None

    @property
    def warning(self) -> str:
        """Why the outcome may only hold for the inputs that it rests on, as a sentence; empty when nothing speaks for that.

        The rule: more than a fifth of the inputs are left out, and one arm has no score on at least twice as many of them as the other.
        """
        total = self.n_inputs + self.n_missing
        arms = [(self.n_missing_arm, self.arm), (self.n_missing_over, self.over)]
        (fewer, other), (more, one) = sorted(arms, key=lambda each: each[0])
        if self.n_missing <= MOST_MISSING * total or more == fewer or more < 2 * fewer:
            return ""
        return (
            f"Warning: {one} has no score on {more} of {total} inputs, {other} on {fewer}; "
            f"this holds for the {self.n_inputs} inputs that both have a score on, not for all"
        )

    @property
    def sentence(self) -> str:
        """The verdict in one line of plain English, a second sentence when there is a warning."""
        question = f"Not enough data to say whether {self.arm} is better than {self.over} on {self.on}"
        if not self.n_inputs:
            return f"{question}: no input has an answer from both."
        numbers = self._numbers()
        if self.outcome == "not enough data":
            return f"{question}: {numbers}; {self._outlook()}."
        warning = f" {self.warning}." if self.warning else ""
        if self.outcome == "same":
            pair = f"{self.arm} and {self.over} are the same on {self.on}"
            return f"{pair}, within a margin of {self.margin:g}: {numbers}.{warning}"
        return f"{self.arm} is {self.outcome} than {self.over} on {self.on}: {numbers}.{warning}"

    def _numbers(self) -> str:
        """The difference, its interval, and what it was found on."""
        low, high = self.interval
        interval = f"{self.confidence * 100:g} % interval {low:+.2f} to {high:+.2f}"
        unit = "inputs" if self.n_clusters is None else f"inputs in {self.n_clusters} clusters"
        parts = [
            f"{self.difference:+.2f} ({'no interval' if math.isnan(low) else interval}, n = {self.n_inputs} {unit})"
        ]
        counts = ((self.n_models, "models"), (self.n_samplings, "samplings"))
        pooled = [f"{count} {name}" for count, name in counts if count > 1]
        parts += [f"over {', '.join(pooled)}"] * bool(pooled)
        if self.n_missing:
            parts.append(f"{self.n_missing} of {self.n_inputs + self.n_missing} inputs left out (no score in both)")
        return "; ".join(parts)

    def _outlook(self) -> str:
        unit = "inputs" if self.n_clusters is None else "clusters"
        count = self.n_inputs if self.n_clusters is None else self.n_clusters
        aim = f"80 % power to see a difference of {self.margin:g}"
        if count < MIN_UNITS:
            least = MIN_UNITS - count
            text = f"at least {least} more {unit} are needed for any verdict"
            planned = self.more_inputs or 0
            return (
                f"{text} and, planned from the margin alone, about {planned:,} for {aim}" if planned > least else text
            )
        if math.isnan(self.interval[0]):
            return "the scores do not differ and their range is not known, so that nothing follows for other inputs"
        if self.more_inputs is None:
            return f"the difference is close to the margin of {self.margin:g}, so that more {unit} may not decide it"
        return f"about {self.more_inputs:,} more {unit} would give {aim}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the fields, the warning and the sentence; NaN becomes None."""
        plain = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }
        interval = [None if math.isnan(end) else end for end in self.interval]
        return plain | {"interval": interval, "warning": self.warning, "sentence": self.sentence}

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """The verdict in a notebook, names escaped."""
        facts = f"{self.method}; exact sign test p = {self.p_value:.3g}"
        return (
            f"<p><strong>{html.escape(self.outcome.capitalize())}.</strong> {html.escape(self.sentence)}<br>"
            f'<span style="opacity:.75;font-size:85%">{html.escape(facts)}</span></p>'
        )


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
) -> Verdict:
    """Compare two prompts, paired by input.

    Repeats, samplings and models are averaged within an input before any statistics, so that n is inputs; where inputs have a cluster,
    the inputs of a cluster are averaged too, so that n is clusters and every cluster counts once. Failed, pending and unscored cells
    are left out, never counted as 0; so is a score that is no finite number.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        arm: The prompt in question.
        over: The prompt to compare it with.
        on: A scorer's name.
        margin: The smallest difference that matters, in the score's own units (0.05: five percentage points of a 0/1 score).
        where: Use only the cells with these values, for example `{"model": "smollm2-135m"}`.
        confidence: Of the interval.
        bounds: The smallest and the largest score that the scorer can give. Default: 0 to 1 where all scores are in it, else the range
            that was seen.

    Raises:
        UnknownName: For a prompt, scorer or column that the cells do not have.
        BadInput: For a margin or confidence out of range, a prompt compared with itself, a `where` that fits no cell, or a latency column.
    """
    _check(cells, arm, over=over, margin=margin, confidence=confidence)
    score = _score(cells, on)
    pairs = pair(select(cells, where), arm, over, score, bounds)
    differences = pairs.first - pairs.second
    reach = pairs.high - pairs.low
    found = mean_interval(differences, kind=pairs.kind, low=-reach, high=reach, confidence=confidence)
    if pairs.flat and not pairs.range_known:
        found = NO_INTERVAL
    outcome = _outcome(found, len(differences), margin)
    unsettled = outcome == "not enough data" and (found is not NO_INTERVAL or len(differences) < MIN_UNITS)
    more = _more(pairs, margin, confidence) if unsettled else None
    count = len(differences)
    return Verdict(
        outcome=outcome,
        arm=arm,
        over=over,
        on=score,
        difference=float(differences.mean()) if count else math.nan,
        interval=(found.low, found.high),
        confidence=confidence,
        margin=margin,
        n_inputs=pairs.inputs,
        n_missing=pairs.missing,
        n_missing_arm=pairs.missing_first,
        n_missing_over=pairs.missing_second,
        n_models=pairs.models,
        n_samplings=pairs.samplings,
        n_clusters=count if pairs.unit == "clusters" else None,
        mean=float(pairs.first.mean()) if count else math.nan,
        mean_over=float(pairs.second.mean()) if count else math.nan,
        p_value=_sign_test(int((differences > 0).sum()), int((differences < 0).sum())),
        method=found.method,
        more_inputs=more,
    )


def _check(cells: pd.DataFrame, arm: str, *, over: str, margin: float, confidence: float) -> None:
    prompts = list(dict.fromkeys(cells["prompt"].astype(str)))
    for name in (arm, over):
        if name not in prompts:
            raise UnknownName.among("prompt", name, prompts, where="this run")
    if arm == over:
        raise BadInput(
            f"{arm!r} is compared with itself.", fix="Name another prompt in `over`.", field="over", value=over
        )
    if not (math.isfinite(margin) and margin > 0):
        fix = "Give the smallest difference that matters to you, for example 0.05."
        raise BadInput(
            f"margin = {margin!r} is not allowed: it must be above 0.", fix=fix, field="margin", value=margin
        )
    if not 0.5 <= confidence < 1:
        fix = "Use a confidence from 0.5 to below 1, usually 0.95."
        raise BadInput(f"confidence = {confidence!r} is not allowed.", fix=fix, field="confidence", value=confidence)


def _score(cells: pd.DataFrame, on: str) -> str:
    names = score_names(cells)
    name = on.removeprefix("score.")
    if name in names:
        return name
    if on in LATENCY_COLUMNS:
        raise BadInput(
            f"A verdict on {on!r} is refused: the cells of this run shared the machine, so that their times are shares of it.",
            fix="Compare latency in a latency pass: one request at a time, no reuse, arms interleaved.",
            field="on",
            value=on,
        )
    raise UnknownName.among("scorer", on, names, where="this run")


def _outcome(interval: Interval, count: int, margin: float) -> Outcome:
    if count < MIN_UNITS:
        return "not enough data"
    if -margin <= interval.low and interval.high <= margin:
        return "same"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "not enough data"


def _more(pairs: Pairs, margin: float, confidence: float) -> int | None:
    """See `Verdict.more_inputs`; with the formula of `needed`, at the margin.

    The deviation is the one seen, but for single 0/1 scores, or where none was seen, at least that which a true difference of `margin`
    has by itself: sqrt(margin * (range - margin)).
    """
    differences = pairs.first - pairs.second
    count = len(differences)
    reach = pairs.high - pairs.low
    least = math.sqrt(max(margin * (reach - margin), 0.0))
    if count < MIN_UNITS:
        # What so few have shown of the deviation is noise.
        planned = needed(least, margin, confidence=confidence) if pairs.range_known else 0
        return max(planned, MIN_UNITS) - count
    seen = float(differences.std(ddof=1))
    deviation = max(seen, least) if pairs.kind == "binary" or seen == 0.0 else seen
    total = max(needed(deviation, margin, confidence=confidence), MIN_UNITS)
    if total > count:
        return total - count
    # "Same" needs an interval inside the margin from both sides: a power of 80 % leaves 10 % to each.
    total = needed(deviation, margin, confidence=confidence, power=0.9)
    return total - count if total > count else None


def _sign_test(wins: int, losses: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
