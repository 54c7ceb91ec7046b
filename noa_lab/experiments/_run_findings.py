"""What a run has found: the questions that its cells answer, without anything that executes it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN

if TYPE_CHECKING:
    import pandas as pd

    from noa_lab.experiments.grid._grid import Grid
    from noa_lab.experiments.statistics._verdict import Verdict

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
        self, arm: str, over: str, on: str, margin: float = DEFAULT_MARGIN, where: Mapping[str, Any] | None = None
    ) -> Verdict:
        """Whether one prompt is better than another: better, worse, same, or not enough data.

        Args:
            arm: The prompt in question.
            over: The prompt it is compared with.
            on: Name of the scorer.
            margin: Differences below this, in units of the score, do not matter.
            where: Use only the cells with these values, for example `{"model": "smollm2-135m"}`.

        Raises:
            UnknownName: When there is no such prompt, scorer or column.
            BadInput: When the margin is not positive, or the question is one that the run cannot answer, such as latency.
        """
        from noa_lab.experiments.score._specs import declared_range
        from noa_lab.experiments.statistics._verdict import verdict

        bounds = declared_range(self.scorer_specs, on)
        return verdict(self.cells(), arm, over=over, on=on, margin=margin, where=where, bounds=bounds)

    def report(self, path: str | os.PathLike[str], margin: float = DEFAULT_MARGIN) -> Path:
        """Write the run as one HTML file that opens anywhere.

        Args:
            path: The file; it is replaced.
            margin: For all its verdicts, see `verdict`.

        Returns:
            The path.
        """
        from noa_lab.experiments.report._page import write_report

        return write_report(self, path, margin=margin)
