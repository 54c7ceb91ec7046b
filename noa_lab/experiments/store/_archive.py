"""A run as one file that can be sent to others: a zip with its facts as JSON and its cells as lines of JSON.

    manifest.json   {"format": 1, "noa_lab": version, "cells": number}
    run.json        the run: grid, scorers, provenance, tags, note, state
    cells.jsonl     one line a cell

Never a database file: one that comes from elsewhere is opened by code that trusts it. What comes in is read with limits, checked like a
grid that a user has typed, and written by the same statements as a run of one's own.
"""

from __future__ import annotations

import json
import math
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from noa_lab._version import __version__
from noa_lab.errors import BadInput, NoaLabError
from noa_lab.experiments.execution._plan import Plan
from noa_lab.experiments.execution._wish import EXECUTORS
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.store._labels import checked_tag, tags_of
from noa_lab.experiments.store._schema import cells, runs, tags
from noa_lab.experiments.store._store import Store

__all__ = ["export_run", "import_run"]

_FORMAT = 1
_MOST_BYTES = 4 * 2**30
_MOST_LINE = 64 * 2**20
_RUN = ("name", "created", "scorers", "provenance", "executor", "note")
_TEXTS = ("answer", "finish_reason", "executor", "key")
_NUMBERS = ("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms", "finished")
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_ERROR = ("kind", "message", "fix")
_JSON = ("error", "request", "response", "scores")
_CELL = ("prompt", "input_id", "model", "sampling", "repeat", "seed", "status", *_TEXTS, *_COUNTS, *_NUMBERS, *_JSON)


def export_run(store: Store, run_id: str, path: Path | str) -> Path:
    """Write a run into a zip.

    Args:
        store: Where the run is.
        run_id: The run.
        path: The file; it is replaced.

    Returns:
        The path.

    Raises:
        UnknownName: When there is no such run.
        BadInput: When the file cannot be written.
    """
    row = store.run(run_id)
    found = {name: row[name] for name in _RUN}
    found |= {"grid": store.grid(run_id).as_dict(), "run_id": run_id, "tags": tags_of(store, run_id)}
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            count = 0
            with archive.open("cells.jsonl", "w", force_zip64=True) as lines:
                for cell in store.each_cell(run_id):
                    kept = {name: cell[name] for name in _CELL}
                    kept["status"] = kept["status"] if kept["status"] in {"done", "failed"} else "pending"
                    lines.write(_line(kept))
                    count += 1
            archive.writestr("run.json", _line(found))
            archive.writestr("manifest.json", _line({"format": _FORMAT, "noa_lab": __version__, "cells": count}))
        part.replace(target)
    except OSError as error:
        raise BadInput(
            f"{target} cannot be written: {error.strerror}.", fix="Give another path.", field="path", value=str(target)
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return target


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def import_run(store: Store, path: Path | str) -> str:
    """Take a run out of a zip that `export_run` has written, under an id of its own.

    Args:
        store: Where the run goes.
        path: The file.

    Returns:
        The new run's id; its note says where it came from. It lends no answers to other runs: nothing proves that they are what they
        say, but for the word of the file.

    Raises:
        BadInput: When the file is no exported run, or is damaged; nothing is kept of it then.
    """
    file = Path(path)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(file, archive)
            manifest, run = _member(archive, "manifest.json"), _member(archive, "run.json")
            if manifest.get("format") != _FORMAT:
                raise _refused(file, f"it has the format {manifest.get('format')!r}; this noa_lab reads {_FORMAT}")
            _check_run(run)
            grid = Grid.from_dict(run["grid"])
            return _insert(store, file, run, grid, _rows(file, archive, grid, int(manifest["cells"])))
    except zipfile.BadZipFile as error:
        raise _refused(file, f"it is no zip file ({error})") from None
    except OSError as error:
        raise _refused(file, error.strerror or str(error)) from None
    except NoaLabError as error:
        if error.fields.get("field") == "archive":
            raise
        raise _refused(file, error.message) from None
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError, AttributeError) as error:
        raise _refused(file, f"{type(error).__name__}: {error}") from None


def _refused(file: Path, why: str) -> BadInput:
    return BadInput(
        f"{file} is no run that can be imported: {why}.",
        fix="Export it again: `noa-lab runs export RUN FILE`.",
        field="archive",
        value=str(file),
    )


def _check_sizes(file: Path, archive: zipfile.ZipFile) -> None:
    total = sum(member.file_size for member in archive.infolist())
    if total > _MOST_BYTES:
        raise _refused(file, f"it holds {total:,} bytes, more than {_MOST_BYTES:,}")


def _check_run(run: Mapping[str, Any]) -> None:
    """Make sure that what is said of the run has the form that opening, resuming and judging it rely on."""
    datetime.fromtimestamp(run["created"], UTC)
    if run["executor"] not in EXECUTORS:
        raise ValueError(f"the executor is {run['executor']!r:.80}")
    for tag in run["tags"]:
        checked_tag(tag)
    if not all(isinstance(spec, dict) and isinstance(spec.get("name"), str) for spec in run["scorers"]):
        raise ValueError("a scorer has no name")
    known: dict[str, Any] = {"executors": {}, "plans": {}, "identities": {}, "graders": {}, **run["provenance"]}
    for part in ("engines", "executors", "plans", "identities", "graders"):
        if not isinstance(known[part], dict) or not all(isinstance(each, dict) for each in known[part].values()):
            raise TypeError(f"what is said of {part} is damaged")
    for model, chosen in known["executors"].items():
        Plan(model, **chosen)
    for plan in known["plans"].values():
        str(Plan.from_dict(plan))


def _member(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    with archive.open(name) as stream:
        raw = stream.read(_MOST_LINE + 1)
    if len(raw) > _MOST_LINE:
        raise ValueError(f"{name} is too long")
    found = json.loads(raw, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise TypeError(f"{name} is no object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _rows(file: Path, archive: zipfile.ZipFile, grid: Grid, count: int) -> Iterator[dict[str, Any]]:
    """The cells, each checked to be one of the grid's; one that is missing or there twice is an error."""
    wanted = {cell.cell_id: cell for cell in grid.cells()}
    if count != len(wanted):
        raise _refused(file, f"it has {count} cells where its grid has {len(wanted)}")
    places = {(c.prompt, c.input_id, c.model, c.sampling, c.repeat): c for c in wanted.values()}
    position = 0
    with archive.open("cells.jsonl") as lines:
        while line := lines.readline(_MOST_LINE + 1):
            row = json.loads(line, parse_constant=_no_constant)
            place = tuple(row[name] for name in ("prompt", "input_id", "model", "sampling", "repeat"))
            cell = places.pop(place, None)
            if cell is None:
                raise _refused(file, f"it has a cell that its grid has not, or has twice: {place}")
            yield {**_checked(row), "cell_id": cell.cell_id, "position": position, "cached": False}
            position += 1
    if places:
        raise _refused(file, f"{len(places)} cells are missing")


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a cell, each of the type that it must have."""
    found: dict[str, Any] = {name: row[name] for name in ("prompt", "input_id", "model", "sampling", "repeat")}
    for names, kinds in ((_TEXTS, (str,)), ((*_COUNTS, "seed"), (int,)), (_NUMBERS, (int, float)), (_JSON, (dict,))):
        for name in names:
            value = row.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise TypeError(f"{name} is {value!r:.80}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
            found[name] = value
    if row.get("status") not in {"done", "failed", "pending"}:
        raise ValueError(f"status is {row.get('status')!r:.80}")
    if row["status"] == "done" and found["answer"] is None:
        raise ValueError("a finished cell has no answer")
    if found["error"] is not None and not all(isinstance(found["error"].get(name), str) for name in _ERROR):
        raise TypeError(f"error is {found['error']!r:.80}")
    for score in (found["scores"] or {}).values():
        value = score["value"]
        if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
            raise ValueError(f"a score is {value!r:.80}")
        if not all(isinstance(score.get(name, ""), str | None) for name in ("error", "reason", "orders")):
            raise TypeError(f"a score is {score!r:.80}")
    # Without its key an answer is not taken over by other runs.
    return found | {"status": row["status"], "key": None}


def _insert(store: Store, file: Path, run: Mapping[str, Any], grid: Grid, rows: Iterator[dict[str, Any]]) -> str:
    run_id = f"r-{secrets.token_hex(4)}"
    provenance = dict(run["provenance"])
    provenance["imported"] = {"run_id": str(run["run_id"]), "file": file.name}
    note = str(run.get("note") or "")
    with store.write() as connection:
        connection.execute(
            runs.insert().values(
                run_id=run_id,
                name=str(run["name"]),
                # Another hash than the grid's: the same grid here starts a run of its own instead of going on with this one.
                grid_hash=f"imported:{run_id}",
                created=float(run["created"]),
                state="paused",
                grid=grid.as_dict(),
                prompts=list(grid.prompts),
                models=list(grid.models),
                scorers=[dict(spec) for spec in run["scorers"]],
                provenance=provenance,
                reuse=False,
                executor=run["executor"],
                note=f"{note}\nImported from {file.name}, where it was {run['run_id']}.".strip()[:100_000],
            )
        )
        batch: list[dict[str, Any]] = []
        statuses: set[str] = set()
        for row in rows:
            statuses.add(row["status"])
            batch.append({"run_id": run_id, **row})
            if len(batch) >= 1000:
                connection.execute(cells.insert(), batch)
                batch = []
        if batch:
            connection.execute(cells.insert(), batch)
        state = "paused" if "pending" in statuses else "failed" if "failed" in statuses else "done"
        connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(state=state))
        labels = dict.fromkeys(map(checked_tag, run["tags"]))
        if labels:
            connection.execute(tags.insert(), [{"run_id": run_id, "tag": label} for label in labels])
    return run_id
