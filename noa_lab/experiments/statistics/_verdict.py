"""The answer to "is one prompt better than another?": one of four, with the interval that it rests on."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from noa_lab.experiments.statistics._judged import Judged
from noa_lab.experiments.statistics._scores import Axis

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Outcome", "Verdict", "Verdicts"]

MOST_MISSING = 0.2
"""With a larger share of the inputs left out, unevenly between the arms, an outcome comes with a warning."""

Outcome = Literal["better", "worse", "same", "not enough data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the run's data say about two arms.

    Attributes:
        outcome: "same" when the whole interval lies within +-margin (also when it excludes 0: a difference too small to matter); else
            "better" or "worse" when it excludes 0; else "not enough data", as always with fewer than 10 inputs (or clusters), and where
            a judge cannot be believed. Of times, less is better.
        arm: The arm in question: a prompt, model or sampling.
        over: The arm that it is compared with.
        on: The scorer, or the column of times.
        by: What the two differ in: "prompt", "model" or "sampling".
        scale: "difference", or "ratio" for times: then `difference`, `interval` and `margin` are relative, -0.19 being 19 % less.
        difference: Mean score of `arm` minus that of `over`, over the paired inputs; NaN without pairs.
        interval: For the true difference; NaN twice where nothing can be said: the scores of an arm do not differ, and their range is
            not known.
        confidence: The share of such intervals that hold it; in a family, the share of families in which all intervals do.
        comparisons: Size of the family: how many arms are compared with `over` at once. The interval allows for it.
        standard_error: Of the difference, in the usual way (with clusters: cluster-robust); the interval is wider where that is too bold.
        margin: The smallest difference that matters, in the score's own units.
        n_inputs: Inputs with an answer from both arms: the n of everything here, unless there are clusters.
        n_missing: Inputs without one (failed, pending, or not scored); left out.
        n_missing_arm: Inputs on which `arm` has no score at all.
        n_missing_over: The same for `over`.
        n_models: Models that the scores are averaged over.
        n_samplings: Samplings that they are averaged over.
        n_clusters: Clusters among them; None where inputs come one by one.
        mean: Mean score of `arm`; of times, the median.
        mean_over: The same of `over`.
        p_value: Exact sign test on the differences (for single 0/1 scores the exact McNemar test): secondary information that decides
            nothing.
        p_adjusted: The same, adjusted for the family by Holm's procedure.
        method: How the interval was found.
        more_inputs: About how many more inputs (or clusters) would settle it: enough for 80 % power to see a true difference of
            `margin`; where the run has that already, enough to show "same" if there is no difference. Below 10 it is planned from the
            margin alone, as if just so many single 0/1 scores differed as that takes; where the range of the scores is not known, it is
            what is missing to 10. None when the outcome is settled, or when more of them may not help.
        judged: What a pairwise judge said; None for other scorers.
    """

    outcome: Outcome
    arm: str
    over: str
    on: str
    by: Axis = "prompt"
    scale: Literal["difference", "ratio"] = "difference"
    difference: float
    interval: tuple[float, float]
    confidence: float
    comparisons: int = 1
    standard_error: float = math.nan
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
    p_adjusted: float
    method: str
    more_inputs: int | None
    judged: Judged | None = None

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
    def withheld(self) -> bool:
        """Whether a judge's flips, and not the number of inputs, are why there is no outcome."""
        return self.judged is not None and not self.judged.believed

    @property
    def sentence(self) -> str:
        """The verdict in one line of plain English, a second sentence when there is a warning."""
        from noa_lab.experiments.statistics._words import sentence

        return sentence(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the fields, the warning and the sentence; NaN and infinity become None."""
        plain: dict[str, Any] = {key: _plain(value) for key, value in asdict(self).items()}
        if self.judged is not None:
            plain["judged"] |= {"flip_rate": self.judged.flip_rate, "believed": self.judged.believed}
        return plain | {"warning": self.warning, "sentence": self.sentence}

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        """The verdict in a notebook, names escaped."""
        facts = f"{self.method}; exact sign test p = {self.p_value:.3g}"
        return (
            f"<p><strong>{html.escape(self.outcome.capitalize())}.</strong> {html.escape(self.sentence)}<br>"
            f'<span style="opacity:.75;font-size:85%">{html.escape(facts)}</span></p>'
        )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


class Verdicts(Sequence[Verdict]):
    """Several verdicts, in a table.

    For each scorer, the comparisons with one baseline are one family: with the given confidence *all* its intervals hold.
    """

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self._verdicts = tuple(verdicts)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...
    def __getitem__(self, index: int | slice) -> Verdict | Verdicts:
        found = self._verdicts[index]
        return Verdicts(found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self._verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._verdicts)

    def __str__(self) -> str:
        return "\n".join(each.sentence for each in self) or "There is nothing to compare."

    def __repr__(self) -> str:
        return f"<Verdicts {', '.join(f'{each.arm} {each.outcome} on {each.on}' for each in self)}>"

    def of(self, arm: str, on: str | None = None) -> Verdict:
        """The verdict on one arm.

        Args:
            arm: The arm.
            on: The scorer; may be left out where there is one.

        Raises:
            UnknownName: When there is none, or several and no scorer was named.
        """
        from noa_lab.errors import UnknownName

        found = [each for each in self if each.arm == arm and on in {None, each.on, f"score.{each.on}"}]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownName.among("scorer", "", [each.on for each in found], where=f"these verdicts on {arm!r}")
        raise UnknownName.among("verdict on", arm, {each.arm for each in self})

    def frame(self) -> pd.DataFrame:
        """One row for each verdict; the ends of the interval are `low` and `high`."""
        import pandas as pd

        rows = []
        for each in self:
            row = asdict(each)
            row["low"], row["high"] = row.pop("interval")
            flips = each.judged.flip_rate if each.judged is not None else None
            del row["judged"]
            rows.append(row | {"flip_rate": flips, "sentence": each.sentence})
        return pd.DataFrame(rows)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Plain data for JSON."""
        return [each.as_dict() for each in self]

    def _repr_html_(self) -> str:
        """The table in a notebook, names escaped."""
        heads = ("", "on", "outcome", "difference", "interval", "n")
        rows = []
        for each in self:
            low, high = each.interval
            unit = f"{each.n_inputs}" + (f" in {each.n_clusters} clusters" if each.n_clusters is not None else "")
            texts = (
                f"{each.arm} over {each.over}",
                each.on,
                each.outcome,
                f"{each.difference:+.3f}",
                "none" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}",
                unit,
            )
            cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
            rows.append(f'<tr title="{html.escape(each.sentence, quote=True)}">{cells}</tr>')
        head = "".join(f"<th>{each}</th>" for each in heads)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{self._note()}"

    def _note(self) -> str:
        most = max((each.comparisons for each in self), default=1)
        if most < 2:
            return ""
        share = f"{self[0].confidence:.0%}"
        return (
            f'<p style="opacity:.75;font-size:85%">The {most} intervals of a scorer hold all at once with {share}.</p>'
        )
