"""Inputs of a comparison: from a list, a DataFrame or a file, each with an id, checked before anything runs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noa_lab.errors import BadInput
from noa_lab.experiments.grid._prompts import content_hash

__all__ = ["ANSWER_FACTS", "Input", "load_inputs"]

_RESERVED = ("id", "cluster", "tags")
ANSWER_FACTS = ("finish_reason", "completion_tokens")
"""What scorers see of an answer beside its text, under these names."""
_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
_CSV_FIELD_LIMIT = 16 * 2**20

Row = tuple[str, Mapping[Any, Any]]
"""Where a row comes from, for messages ("Input 3", "data.csv, line 4"), and its fields."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input.

    Attributes:
        id: Its name, unique in the grid; "1", "2", ... where none was given.
        variables: Its fields, `expected` included: what templates and scorers can use.
        cluster: Name of the group it belongs to, where inputs come in groups (questions about one document); else None.
        tags: Free labels.
        seed_key: What its seeds are derived from: the id if one was given, else its content, so that adding an input in front
            does not change the others' answers.
    """

    id: str
    variables: Mapping[str, Any]
    cluster: str | None = None
    tags: tuple[str, ...] = ()
    seed_key: str = field(default="", repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the store."""
        return {
            "id": self.id,
            "variables": dict(self.variables),
            "cluster": self.cluster,
            "tags": list(self.tags),
            "seed_key": self.seed_key,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Input:
        """The input of which `as_dict` gave `data`."""
        return cls(data["id"], data["variables"], data["cluster"], tuple(data["tags"]), data["seed_key"])


def load_inputs(source: object, base: Path | None = None) -> tuple[Input, ...]:
    """Read inputs.

    The fields `id`, `cluster` and `tags` are ours, all others are variables. A missing value (null in JSONL, NaN in a DataFrame)
    is a field that the input does not have; an empty CSV field is an empty text.

    Args:
        source: A list of mappings (or of `Input`s), a pandas DataFrame, or the path of a CSV, JSONL or Parquet file (UTF-8, with a
            header in CSV).
        base: The folder that a relative path starts from; default: the working folder.

    Raises:
        BadInput: Naming the file and line or the input, the field, its value and what to do.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        rows = _read_file(path if base is None else base / path)
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):
        rows = _read_frame(source)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        rows = iter([(f"Input {number}", row) for number, row in enumerate(source, 1)])
    else:
        raise BadInput(
            f"inputs is of type {type(source).__name__}.",
            fix="Give a list of dicts, a DataFrame, or the path of a CSV, JSONL or Parquet file.",
            field="inputs",
            value=source,
        )
    return _unique([_input(number, where, row) for number, (where, row) in enumerate(rows, 1)])


def _unique(pairs: list[tuple[str, Input]]) -> tuple[Input, ...]:
    if not pairs:
        raise BadInput("There are no inputs.", fix="Give at least one input.", field="inputs", value=[])
    ids: dict[str, str] = {}
    contents: dict[str, str] = {}
    for where, found in pairs:
        if found.id in ids:
            raise BadInput(
                f"{where} has the id {found.id!r}, as has {ids[found.id]}.",
                fix="Give each input an id of its own.",
                field="id",
                value=found.id,
            )
        ids[found.id] = where
        if found.seed_key != found.id:
            if found.seed_key in contents:
                raise BadInput(
                    f"{where} is the same as {contents[found.seed_key]}: counted twice, it would pose as more data.",
                    fix="Remove one, or give each an id if both are meant.",
                    field="inputs",
                    value=dict(found.variables),
                )
            contents[found.seed_key] = where
    return tuple(found for _, found in pairs)


def _input(number: int, where: str, row: object) -> tuple[str, Input]:
    if isinstance(row, Input):
        return where, row
    if not isinstance(row, Mapping):
        raise BadInput(
            f"{where} is {_short(row)}, not a mapping of fields.",
            fix='Write each input as {"text": ...}.',
            field="inputs",
            value=row,
        )
    fields: dict[str, Any] = {}
    for key, value in row.items():
        if not isinstance(key, str) or not key.strip() or key.startswith("__") or key in ANSWER_FACTS:
            raise BadInput(
                f"{where} has a field named {key!r}.",
                fix=f"Rename it: a name is a text, does not begin with two underscores and is none of {', '.join(ANSWER_FACTS)}.",
                field=str(key),
                value=value,
            )
        plain = _plain(value, where, key)
        if plain is not None:
            fields[key] = plain
    given = fields.pop("id", None)
    cluster = fields.pop("cluster", None)
    tags = _tags(fields.pop("tags", None), where)
    for name, value in (("id", given), ("cluster", cluster)):
        if value is not None and (isinstance(value, list | dict | bool | float) or not str(value).strip()):
            raise BadInput(
                f"{where} has {name} = {value!r}.", fix=f"Give {name} a text or a number.", field=name, value=value
            )
    input_id = str(number) if given is None else str(given)
    seed_key = "content:" + content_hash(fields) if given is None else input_id
    return where, Input(input_id, fields, None if cluster is None else str(cluster), tags, seed_key)


def _tags(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
        raise BadInput(
            f"{where} has tags = {_short(value)}.",
            fix='Give a list of texts, or one text with commas: "short, easy".',
            field="tags",
            value=value,
        )
    return tuple(tag.strip() for tag in found if tag.strip())


def _plain(value: Any, where: str, key: str) -> Any:
    """The value as plain JSON data; None for a missing one."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if not math.isinf(value):
            return value
    elif isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(part, where, f"{key}.{name}") for name, part in value.items()}
    elif isinstance(value, list | tuple):
        return [_plain(part, where, f"{key}[{number}]") for number, part in enumerate(value)]
    elif hasattr(value, "isoformat"):
        text = value.isoformat()
        return None if text == "NaT" else text
    elif hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a numpy number
        return _plain(value.item(), where, key)
    elif hasattr(value, "tolist"):  # a numpy array, as Parquet lists come
        return _plain(value.tolist(), where, key)
    elif type(value).__name__ == "NAType":
        return None
    raise BadInput(
        f"{where} has {key} = {_short(value)}, which JSON cannot hold.",
        fix="Give a text, a number, true or false, a list or a mapping.",
        field=key,
        value=repr(value),
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _read_frame(frame: Any) -> Iterator[Row]:
    for number, row in enumerate(frame.to_dict("records"), 1):
        yield f"Row {number}", row


def _read_file(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise BadInput(
            f"Inputs cannot be read from {path}: the suffix {suffix!r} is not known.",
            fix=f"Use one of {', '.join(_SUFFIXES)}.",
            field="inputs",
            value=str(path),
        )
    if not path.is_file():
        raise BadInput(
            f"There is no file {path}.", fix="Check the path of the inputs.", field="inputs", value=str(path)
        )
    if suffix == ".parquet":
        return _read_parquet(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 (byte {error.start}).", fix="Save it as UTF-8.", field="inputs", value=str(path)
        ) from None
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}.",
            fix="Check that the file exists and that you may read it.",
            field="inputs",
            value=str(path),
        ) from None
    return _read_csv(path, text) if suffix == ".csv" else _read_jsonl(path, text)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pandas as pd

    try:
        return _read_frame(pd.read_parquet(path))
    except ImportError:
        raise BadInput(
            f"{path} is a Parquet file, and pyarrow is not installed.",
            fix="Run `pip install pyarrow`, or save the inputs as CSV or JSONL.",
            field="inputs",
            value=str(path),
        ) from None
    except Exception as error:
        # pyarrow has an error class for each way a file can be broken.
        raise BadInput(
            f"{path} cannot be read as a Parquet file: {error}",
            fix="Write the file again, or give the inputs as CSV or JSONL.",
            field="inputs",
            value=str(path),
        ) from None


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(): JSON texts may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{where}: this is no JSON: {error}",
                fix="Write one JSON object on each line.",
                field="inputs",
                value=line[:200],
                line=number,
            ) from None
        yield where, row


def _read_csv(path: Path, text: str) -> Iterator[Row]:
    before = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        rows = list(_csv_rows(path, text))
    finally:
        csv.field_size_limit(before)
    return iter(rows)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def refuse(reason: str, fix: str) -> BadInput:
        place = f"{path}, line {reader.line_num}"
        return BadInput(f"{place}: {reason}.", fix=fix, field="inputs", value=str(path), line=reader.line_num)

    try:
        header = next(reader, None)
        if not header:
            raise BadInput(
                f"{path} has no header in its first line.",
                fix="Give it a header and at least one row.",
                field="inputs",
                value=str(path),
            )
        names = [name.strip() for name in header]
        for name in names:
            if not name or names.count(name) > 1:
                reason = (
                    f"the header has the column {name!r} {names.count(name)} times" if name else "a column has no name"
                )
                raise refuse(reason, "Give each column a name of its own.")
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise refuse(
                    f"the row has {len(row)} fields, the header {len(names)}",
                    "Put texts that contain commas or line ends in double quotes.",
                )
            cells = dict(zip(names, row, strict=True))
            # An empty id is no id, as in the other formats.
            yield f"{path}, line {reader.line_num}", {k: v for k, v in cells.items() if v or k not in _RESERVED}
    except csv.Error as error:
        raise refuse(f"this is no valid CSV: {error}", "Check the quotes of this line.") from None
