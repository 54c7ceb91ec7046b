"""A run's cells as a DataFrame, as plain data, and as a few lines of HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.execution._tally import RunProgress
from noa_lab.experiments.grid._grid import Grid

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "cell_records", "cells_frame", "summary_html"]

COLUMNS = (
    *(
        "run_id",
        "cell_id",
        "prompt",
        "input_id",
        "model",
        "sampling",
        "repeat",
        "status",
        "answer",
        "error",
        "finish_reason",
    ),
    *("seed", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms", "executor", "cached"),
)
"""Columns of every run, in this order; `score.<name>` and `input.<name>` follow."""

_WHOLE = ("seed", "prompt_tokens", "cached_tokens", "completion_tokens")
_TIMES = ("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms")

Row = Mapping[str, Any]


def cell_records(grid: Grid, scorers: Sequence[str], rows: Sequence[Row], *, alive: bool) -> list[dict[str, Any]]:
    """Cells as plain data, with the columns of `cells()`.

    Args:
        grid: The run's grid.
        scorers: Names of its scorers.
        rows: Rows of the store.
        alive: Whether a living process executes the run; without one, cells marked as running are pending.
    """
    inputs = {found.id: _input_columns(found.variables, found.cluster, found.tags) for found in grid.inputs}
    names = list(dict.fromkeys(name for columns in inputs.values() for name in columns))
    # What only some scorers have: errors, a grader's reasons, the orders that a judge chose in.
    extra = [
        (name, key)
        for key in ("error", "reason", "orders")
        for name in scorers
        if any((row["scores"] or {}).get(name, {}).get(key) for row in rows)
    ]
    records = []
    for row in rows:
        record = {name: row[name] for name in COLUMNS}
        if record["status"] == "running" and not alive:
            record["status"] = "pending"
        error = row["error"]
        record["error"] = None if error is None else f"{error['kind']}: {error['message']} {error['fix']}".strip()
        scores = row["scores"] or {}
        record |= {f"score.{name}": scores.get(name, {}).get("value") for name in scorers}
        record |= {f"score_{key}.{name}": scores.get(name, {}).get(key) for name, key in extra}
        record |= {name: inputs[row["input_id"]].get(name) for name in names}
        records.append(record)
    return records


def _input_columns(variables: Row, cluster: str | None, tags: Sequence[str]) -> dict[str, Any]:
    columns = {f"input.{name}": value for name, value in variables.items()}
    if cluster is not None:
        columns["input.cluster"] = cluster
    if tags:
        columns["input.tags"] = ", ".join(tags)
    return columns


def cells_frame(grid: Grid, scorers: Sequence[str], rows: Sequence[Row], *, alive: bool) -> pd.DataFrame:
    """`cell_records` as a DataFrame: counts and seeds are Int64, times and scores float (NaN where there is none), texts objects."""
    import pandas as pd

    records = cell_records(grid, scorers, rows, alive=alive)
    names = list(records[0]) if records else [*COLUMNS, *(f"score.{name}" for name in scorers)]
    columns: dict[str, Any] = {}
    for name in names:
        values = [record[name] for record in records]
        if name in _WHOLE:
            columns[name] = pd.array(values, dtype="Int64")
        elif name in _TIMES or name.startswith("score."):
            columns[name] = pd.array([float("nan") if value is None else value for value in values], dtype="float64")
        elif name in {"sampling", "repeat"}:
            columns[name] = pd.array(values, dtype="int64")
        elif name == "cached":
            columns[name] = pd.array(values, dtype="bool")
        else:
            columns[name] = pd.Series(values, dtype="object")
    return pd.DataFrame(columns)


def summary_html(name: str, progress: RunProgress, means: Sequence[tuple[str, int, Mapping[str, float]]]) -> str:
    """A small table of a run: one line a prompt, with its mean scores; every text is escaped.

    Args:
        name: Name of the run; may be empty.
        progress: How far it is.
        means: For each prompt its name, number of answers, and mean scores by scorer.
    """
    scorers = list(dict.fromkeys(scorer for _, _, scores in means for scorer in scores))
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ("prompt", "answers", *scorers))
    lines = []
    for prompt, number, scores in means:
        values = "".join(f"<td>{scores[s]:.3f}</td>" if s in scores else "<td></td>" for s in scorers)
        lines.append(f"<tr><td>{html.escape(prompt)}</td><td>{number}</td>{values}</tr>")
    title = html.escape(f"{name} ({progress.run_id})" if name else progress.run_id)
    state = f"{progress.status}: {progress.done} of {progress.total} cells done"
    state += f", {progress.failed} failed" if progress.failed else ""
    state += f", {progress.cached} taken from earlier runs" if progress.cached else ""
    error = f"<div>{html.escape(progress.error)}</div>" if progress.error else ""
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<div><strong>{title}</strong><div>{html.escape(state)}</div>{error}{table}</div>"
