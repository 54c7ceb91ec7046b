"""What a run has found: the questions that its cells answer, without anything that executes it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from noa_lab.experiments.grid._grid import Grid
    from noa_lab.experiments.report._altair import ChartKind
    from noa_lab.experiments.statistics import InputPlan, Verdict, Verdicts
    from noa_lab.experiments.statistics._scores import Axis

__all__ = ["RunFindings"]


class RunFindings(ABC):
    """The part of a run that can be asked for verdicts, tables and reports; `Run` has it from here."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """What the run runs."""

    @property
    @abstractmethod
    def scorer_specs(self) -> list[dict[str, Any]]:
        """The specifications of the scorers whose scores it holds."""

    @abstractmethod
    def cells(self) -> pd.DataFrame:
        """See `Run.cells`."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """See `Run.as_dict`."""

    def verdict(
        self,
        arm: str,
        over: str,
        on: str,
        margin: float = DEFAULT_MARGIN,
        where: Mapping[str, Any] | None = None,
        *,
        by: Axis = "prompt",
        family: Sequence[str] | None = None,
        confidence: float = 0.95,
    ) -> Verdict:
        """Whether one prompt is better than another: better, worse, same, or not enough data.

        Paired by input, repeats averaged, clusters respected. In a run with several prompts the interval allows for all the comparisons
        with `over` that could be made, as in `verdicts`.

        Args:
            arm: The prompt in question.
            over: The prompt it is compared with.
            on: Name of the scorer; or, in a latency pass, a column of times such as "total_ms".
            margin: Differences below this, in units of the score, do not matter.
            where: Use only the cells with these values, for example `{"model": "smollm2-135m"}`.
            by: What is compared: "prompt", "model" or "sampling" (by its number).
            family: The prompts compared with `over` at once; `[arm]` if this comparison was the only one planned.
            confidence: That all intervals of the family hold.

        Raises:
            UnknownName: When there is no such prompt, scorer or column.
            BadInput: When the margin is not positive, or the question is one that the run cannot answer, such as latency.
        """
        from noa_lab.experiments.score._specs import score_facts
        from noa_lab.experiments.statistics import ScoreFacts, verdict

        facts = score_facts(self.scorer_specs).get(on.removeprefix("score."), ScoreFacts())
        return verdict(
            self.cells(),
            arm,
            over=over,
            on=on,
            margin=margin,
            where=where,
            confidence=confidence,
            bounds=facts.bounds,
            by=by,
            family=family,
            most_flips=facts.most_flips,
        )

    def verdicts(
        self,
        over: str | None = None,
        on: str | Sequence[str] | None = None,
        margin: float = DEFAULT_MARGIN,
        where: Mapping[str, Any] | None = None,
        *,
        by: Axis = "prompt",
        confidence: float = 0.95,
    ) -> Verdicts:
        """Every prompt over one baseline, on every scorer; all intervals of a scorer hold at once.

        Args:
            over: The baseline; default: the first prompt.
            on: A scorer, or several; default: all.
            margin: See `verdict`.
            where: See `verdict`.
            by: See `verdict`.
            confidence: See `verdict`.

        Raises:
            UnknownName: As `verdict`.
            BadInput: As `verdict`.
        """
        from noa_lab.experiments.score._specs import score_facts
        from noa_lab.experiments.statistics import verdicts

        baseline = next(iter(self.grid.prompts)) if over is None and by == "prompt" else over
        return verdicts(
            self.cells(),
            over=baseline,
            on=on,
            margin=margin,
            where=where,
            by=by,
            confidence=confidence,
            facts=score_facts(self.scorer_specs),
        )

    def plan_inputs(
        self,
        arm: str,
        over: str,
        on: str,
        margin: float | None = None,
        where: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> InputPlan:
        """How many inputs the next run needs, from what this one has shown of how much scores differ.

        Args:
            arm: A prompt.
            over: The baseline.
            on: A scorer.
            margin: The smallest difference that matters.
            where: Use only the cells with these values; needed where there are several models or samplings.
            options: Others of `plan_inputs`: `power`, `repeats`, `prompts`, `inputs`, `confidence`.

        Raises:
            BadInput: As `plan_inputs`, or with several models or samplings.
            NotEnoughData: When there are fewer than 10 pairs, or their scores do not differ at all.
        """
        from noa_lab.experiments.statistics import plan_from

        return plan_from(self.cells(), arm, over=over, on=on, margin=margin, where=where, **options)

    def summary(self) -> pd.DataFrame:
        """One row for each arm: counts, mean scores, tokens; see `summary_table`."""
        from noa_lab.experiments.report import summary_table

        return summary_table(self.cells())

    def chart(
        self,
        kind: ChartKind = "verdicts",
        *,
        on: str | None = None,
        over: str | None = None,
        arm: str | None = None,
        margin: float = DEFAULT_MARGIN,
        where: Mapping[str, Any] | None = None,
    ) -> alt.LayerChart:
        """An Altair chart, which JupyterLab draws without a network.

        Args:
            kind: "verdicts" (all differences with their intervals), "means" (each prompt's mean on one scorer) or "inputs" (the
                difference of two prompts on every input).
            on: A scorer; default: all for "verdicts", else the first.
            over: The baseline; default: the first prompt.
            arm: The prompt for "inputs"; default: the first that is not the baseline.
            margin: See `verdict`.
            where: See `verdict`.

        Raises:
            UnknownName: When there is no such chart, prompt or scorer.
            BadInput: When there is nothing to draw.
        """
        from noa_lab.experiments.report._altair import chart
        from noa_lab.experiments.score._specs import declared_range
        from noa_lab.experiments.statistics._scores import select

        verdicts = self.verdicts(over, on, margin, where)
        bounds = declared_range(self.scorer_specs, on) if on is not None else None
        return chart(select(self.cells(), where), kind, verdicts, on=on, arm=arm, bounds=bounds)

    def report(self, path: str | os.PathLike[str], margin: float = DEFAULT_MARGIN) -> Path:
        """Write the run as a file; its ending says which: .html (one file that opens anywhere), .md, .csv or .parquet (all cells).

        Args:
            path: The file; it is replaced.
            margin: For all its verdicts, see `verdict`.

        Returns:
            The path.

        Raises:
            BadInput: When the path cannot be such a file.
        """
        from noa_lab.experiments.report import write_csv, write_markdown, write_parquet, write_report

        ending = Path(path).suffix.lower()
        if ending == ".csv":
            return write_csv(self.cells(), path)
        if ending in {".parquet", ".pq"}:
            about = {name: value for name, value in self.as_dict().items() if name != "cells"}
            return write_parquet(self.cells(), path, about)
        write = write_markdown if ending in {".md", ".markdown"} else write_report
        return write(self, path, margin=margin)
