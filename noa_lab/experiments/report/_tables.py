"""A run's numbers as tables: one row for each arm, and Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.statistics._intervals import Interval, mean_interval
from noa_lab.experiments.statistics._pairing import arm_values, score_range
from noa_lab.experiments.statistics._scores import LATENCY_COLUMNS, score_names, scored

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ArmScore", "arm_scores", "markdown_table", "markdown_text", "summary_table"]


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One prompt's mean on one scorer.

    Attributes:
        prompt: The prompt.
        score: The scorer.
        mean: Mean over inputs of the input's mean; NaN without scores.
        interval: For the true mean; the whole range with fewer than two inputs; NaN where there is none.
        n: Inputs.
        low: The smallest that a score can be.
        high: The largest that a score can be.
    """

    prompt: str
    score: str
    mean: float
    interval: Interval
    n: int
    low: float
    high: float


def arm_scores(
    cells: pd.DataFrame, score: str, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> list[ArmScore]:
    """Each prompt's mean and interval on a scorer, in the order of the cells; `bounds` is the range that the scorer is known to have."""
    found = []
    frame = scored(cells, f"score.{score}")
    low, high, _ = score_range(frame["value"].to_numpy(), bounds)
    for prompt in dict.fromkeys(cells["prompt"].astype(str)):
        arm = arm_values(frame[frame["arm"] == prompt], (low, high))
        interval = mean_interval(arm.units, kind=arm.kind, low=low, high=high, confidence=confidence, paired=False)
        found.append(ArmScore(prompt, score, arm.units.mean, interval, arm.inputs, low, high))
    return found


def summary_table(cells: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm: a prompt, with its model and sampling where the run has several.

    Columns: prompt (model, sampling), inputs (with a finished cell), done, failed, pending (also running), cached (answers taken from
        an earlier run),
    score.<name> (mean over inputs of the input's mean), prompt_tokens and completion_tokens (means over finished cells), cached_share
    (of all prompt tokens, those reused from the server's prompt cache), and share_ms: mean total time of the cells that were answered
    in this run. The last is a share of a machine that several cells used at once, and is not to be compared between arms.
    """
    import pandas as pd

    keys = ["prompt"] + [key for key in ("model", "sampling") if key in cells and cells[key].astype(str).nunique() > 1]
    rows = []
    for names, own in cells.groupby([cells[key].astype(str) for key in keys], sort=False):
        rows.append(dict(zip(keys, names, strict=True)) | _arm_numbers(own))
    columns = [*keys, *_arm_numbers(cells.iloc[:0])]
    return pd.DataFrame(rows, columns=columns)


def _arm_numbers(cells: pd.DataFrame) -> dict[str, Any]:
    status = cells["status"].astype(str)
    done = cells[status == "done"]
    failed = int((status == "failed").sum())
    reused = _flags(done, "cached")
    numbers: dict[str, Any] = {
        "inputs": int(done["input_id"].nunique()),
        "done": len(done),
        "failed": failed,
        "pending": len(cells) - len(done) - failed,
        "cached": int(reused.sum()),
    }
    for score in score_names(cells):
        numbers[f"score.{score}"] = arm_values(scored(cells, f"score.{score}")).units.mean
    prompt, cached = _mean(done, "prompt_tokens"), _mean(done, "cached_tokens")
    numbers |= {
        "prompt_tokens": prompt,
        "completion_tokens": _mean(done, "completion_tokens"),
        "cached_share": cached / prompt if prompt else float("nan"),
        "share_ms": _mean(done[~reused], "total_ms"),
    }
    return numbers


def _flags(cells: pd.DataFrame, column: str) -> pd.Series[bool]:
    import pandas as pd

    if column not in cells:
        return pd.Series(data=False, index=cells.index, dtype=bool)
    return cells[column].map(lambda value: value is not None and value == True).astype(bool)  # noqa: E712 - NA and 1 too


def _mean(cells: pd.DataFrame, column: str) -> float:
    import pandas as pd

    if column not in cells:
        return float("nan")
    return float(pd.to_numeric(cells[column], errors="coerce").astype(float).mean())


def markdown_table(frame: pd.DataFrame) -> str:
    """A table in Markdown (GitHub's dialect); texts are escaped, numbers have at most three decimals, times are labelled as shares."""
    labels = {"share_ms": "time, ms (a share)"} | {name: f"{name} (a share)" for name in LATENCY_COLUMNS}
    head = [_markdown(labels.get(str(column), str(column))) for column in frame.columns]
    numeric = [frame[column].dtype.kind in "iuf" for column in frame.columns]
    lines = [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---:" if each else "---" for each in numeric) + " |",
    ]
    lines += ["| " + " | ".join(_markdown(value) for value in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """A text as one line of Markdown that shows it and does nothing else."""
    escaped = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]#])", r"\\\1", escaped)


def _markdown(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return markdown_text(str(value))
