"""A run's cells as files for other programs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.paths import write_atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["output_path", "write_csv", "write_parquet"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet run a cell; the last four are the full-width forms."""


def output_path(path: str | os.PathLike[str], *suffixes: str) -> Path:
    """Where a file shall be written.

    Raises:
        BadInput: When it is a folder, lies in a folder that is not there, or ends otherwise than in one of `suffixes`.
    """
    target = Path(path).expanduser().absolute()
    if target.suffix.lower() not in suffixes:
        fix = f"End the name with {' or '.join(suffixes)}."
        raise BadInput(f"{target.name!r} has the wrong ending for this file.", fix=fix, field="path", value=str(path))
    if target.is_dir():
        raise BadInput(f"{target} is a folder.", fix="Give the path of a file.", field="path", value=str(path))
    if not target.parent.is_dir():
        fix = "Make the folder, or choose one that is there."
        raise BadInput(f"There is no folder {target.parent}.", fix=fix, field="path", value=str(path))
    return target


def write_csv(cells: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write cells as CSV (UTF-8 with a byte order mark, which spreadsheets need to read letters with accents).

    A text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a line break) gets an apostrophe before it.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        path: A path that ends in .csv; written as a whole or not at all.

    Returns:
        The absolute path.

    Raises:
        BadInput: When the path cannot be a CSV file.
    """
    import pandas as pd

    target = output_path(path, ".csv")
    # Columns of dtype object keep texts that the other dtypes refuse, such as half a surrogate pair.
    safe = {_no_formula(name): pd.Series(list(map(_no_formula, cells[name])), dtype=object) for name in cells.columns}
    text = pd.DataFrame(safe).to_csv(index=False, lineterminator="\r\n")
    write_atomic(target, b"\xef\xbb\xbf" + text.encode("utf-8", "replace"))
    return target


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_parquet(cells: pd.DataFrame, path: str | os.PathLike[str], facts: Mapping[str, Any] | None = None) -> Path:
    """Write cells as Parquet (zstd); numbers stay numbers, lists and mappings become JSON texts.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        path: A path that ends in .parquet; written as a whole or not at all.
        facts: What else is known of the run; `pandas.read_parquet(path).attrs["noa_lab"]` has it.

    Returns:
        The absolute path.

    Raises:
        BadInput: When the path cannot be a Parquet file.
    """
    import pandas as pd

    target = output_path(path, ".parquet", ".pq")
    table = pd.DataFrame({str(name): _one_kind(cells[name]) for name in cells.columns})
    table.attrs = {"noa_lab": json.loads(json.dumps(dict(facts or {}), default=str))}
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    write_atomic(target, buffer.getvalue())
    return target


def _one_kind(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of which all values are of one kind: a mixture becomes texts."""
    import pandas as pd

    if column.dtype.kind in "iufb":
        return column
    values = [None if value is None or value is pd.NA or value != value else value for value in column]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int}:
        return pd.Series(values, dtype="Int64")
    if kinds <= {int, float}:
        return pd.Series(values, dtype="Float64")
    if kinds <= {bool}:
        return pd.Series(values, dtype="boolean")
    return pd.Series([None if value is None else _text(value) for value in values], dtype="string")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()
