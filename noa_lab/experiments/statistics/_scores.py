"""From cells to numbers: which cells are meant, and what each of them scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from noa_lab.errors import BadInput, UnknownName

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AXES", "LATENCY_COLUMNS", "Axis", "require_columns", "score_names", "scored", "select"]

Axis = Literal["prompt", "model", "sampling"]
"""What arms differ in."""

AXES: tuple[Axis, ...] = ("prompt", "model", "sampling")

LATENCY_COLUMNS = ("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms")
"""Times. Where several cells share the machine they are shares of it; only those of a latency pass can be compared."""


def score_names(cells: pd.DataFrame) -> list[str]:
    """The scorers that the cells have a column for."""
    return [str(column).removeprefix("score.") for column in cells.columns if str(column).startswith("score.")]


def require_columns(cells: pd.DataFrame) -> None:
    """Make sure that a table can be compared at all.

    Raises:
        BadInput: When it has no `prompt` or no `input_id`.
    """
    for column in ("prompt", "input_id"):
        if column not in cells:
            raise BadInput(
                f"The table has no column {column!r}.",
                fix="Give one row for each answer, with prompt, input_id and score.<name>; run.cells() has them.",
                field="cells",
                value=list(map(str, cells.columns)),
            )


def select(cells: pd.DataFrame, where: Mapping[str, Any] | None) -> pd.DataFrame:
    """The cells whose columns have the wanted values.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        where: Column -> value, or a list of allowed values; an input's variable may be named without its `input.`.

    Raises:
        UnknownName: For a column that there is not.
        BadInput: When nothing is left.
    """
    if not where:
        return cells
    columns = [str(column) for column in cells.columns]
    for name, wanted in where.items():
        column = name if name in columns else f"input.{name}"
        if column not in columns:
            raise UnknownName.among("column", name, columns, where="where")
        allowed = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        found = cells[column]
        cells = cells[found.isin(allowed)]
        if cells.empty:
            known = ", ".join(repr(value) for value in list(dict.fromkeys(found.astype(str)))[:8])
            raise BadInput(
                f"No cell has {name} = {wanted!r}.",
                fix=f"Choose among: {known or 'nothing, the cells are already used up by the other conditions'}.",
                field=f"where.{name}",
                value=wanted,
            )
    return cells


def scored(cells: pd.DataFrame, column: str, by: Axis = "prompt") -> pd.DataFrame:
    """The done cells that have a finite number in a column.

    Args:
        cells: Cells with the columns of `Run.cells()`; without `status`, all of them are done.
        column: For example "score.contains".
        by: What the arms differ in.

    Returns:
        A table with `arm`, `input_id`, `setting` (the other two axes, as one text), `model` and `sampling` (empty for the arms
        themselves), `cluster` and `value`.

    Raises:
        UnknownName: When there is no such column.
    """
    import pandas as pd

    if column not in cells:
        raise UnknownName.among("column", column, map(str, cells.columns), where="the cells")

    done = cells[cells["status"].astype(str) == "done"] if "status" in cells else cells
    axes = {axis: done[axis].astype(str) if axis in done else pd.Series("", index=done.index) for axis in AXES}
    others = [axes[axis] for axis in AXES if axis != by]
    frame = pd.DataFrame({"arm": axes[by], "input_id": done["input_id"].astype(str)})
    frame["setting"] = others[0].str.cat(others[1], sep="\0")
    for axis in ("model", "sampling"):
        frame[axis] = "" if axis == by else axes[axis]  # what the arms differ in is averaged over nowhere
    frame["cluster"] = done.get("input.cluster")
    frame["value"] = pd.to_numeric(done[column].map(_number), errors="coerce").astype(float)
    return frame[frame["value"].abs() < math.inf]


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]  # a bool, a number, or pandas' NA
