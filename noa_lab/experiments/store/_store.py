"""The store of runs: one SQLite file that several processes read and write at once."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from noa_lab.errors import UnknownName
from noa_lab.experiments.execution._identity import changes, recorded
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.store._faults import network_filesystem, translated
from noa_lab.experiments.store._lease import acquire, holder
from noa_lab.experiments.store._schema import cells, connect, runs, tags

__all__ = ["Store"]

_KEYS_AT_ONCE = 500
_ANSWER = (
    *("answer", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("executor", "request", "response"),
)

Row = Mapping[str, Any]

_ROWS = 2_000
"""Cells that are inserted or exported at a time: as rows they take many times the memory of cells."""


class Store:
    """Runs and their cells.

    Args:
        path: The database file; it is made when it does not exist. Its folder must.

    Raises:
        BadInput: When the file is no database of runs.
        ExperimentError: When a newer noa_lab wrote it.
        DiskFull: When the disk is full.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        filesystem = network_filesystem(self.path)
        if filesystem is not None:
            message = f"{self.path} is on a network file system ({filesystem}), where SQLite may lose data when two machines write."
            warnings.warn(f"{message} Set NOA_LAB_HOME to a local folder.", RuntimeWarning, stacklevel=2)
        with translated(self.path):
            self._engine: Engine = connect(self.path)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; the next use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; it is on the disk when the block ends.

        Raises:
            DiskFull: When the disk is full.
            ExperimentError: When another process held the database for longer than 30 s, or it cannot be written to.
        """
        with translated(self.path), self._engine.execution_options(write=True).begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database; it never waits for a writer."""
        with translated(self.path), self._engine.connect() as connection:
            yield connection

    # Runs

    def add_run(
        self,
        grid: Grid,
        ordered: Sequence[Cell],
        *,
        name: str,
        scorers: Sequence[Row],
        provenance: Row,
        executor: str,
        fresh: bool,
        budget: Row | None = None,
    ) -> tuple[str, bool]:
        """The newest run of this grid on the same models, or a new one with all its cells pending.

        Args:
            grid: What to run.
            ordered: Its cells in the order of execution.
            name: Name of a new run.
            scorers: Specifications of its scorers.
            provenance: What is known before the start; where its `identities` differ from those of the newest run of the grid, the
                models have changed since, and a new run is made.
            executor: How its cells are to be executed; a run of the same grid by another executor is another run.
            fresh: Make a new run in any case, and never take answers from others.
            budget: What it may use up before it pauses; also of a run that is there already.

        Returns:
            The run's id, and whether it is new.
        """
        grid_hash = grid.hash
        with self.write() as connection:
            found = None if fresh else _newest(connection, grid_hash, executor, provenance.get("identities", {}))
            if found is not None:
                connection.execute(runs.update().where(runs.c.run_id == found).values(budget=budget))
                return found, False
            run_id = f"r-{secrets.token_hex(4)}"
            connection.execute(
                runs.insert().values(
                    run_id=run_id,
                    name=name,
                    grid_hash=grid_hash,
                    created=time.time(),
                    state="pending",
                    grid=grid.as_dict(),
                    prompts=list(grid.prompts),
                    models=list(grid.models),
                    scorers=list(scorers),
                    provenance=dict(provenance),
                    # Answers of other times say nothing about how long they take.
                    reuse=not fresh and executor != "latency",
                    executor=executor,
                    budget=budget,
                )
            )
            for first in range(0, len(ordered), _ROWS):
                part = enumerate(ordered[first : first + _ROWS], first)
                connection.execute(cells.insert(), [_new_cell(run_id, number, cell) for number, cell in part])
            return run_id, True

    def newest_run(self, grid: Grid, executor: str, identities: Mapping[str, Row]) -> str | None:
        """Id of the run that `add_run` would go on with; None where it would make a new one."""
        with self.read() as connection:
            return _newest(connection, grid.hash, executor, identities)

    def lease(self, run_id: str, *, retry_failed: bool = True) -> str:
        """Become the one that executes a run; see `acquire`.

        Raises:
            RunBusy: When a living process executes it.
        """
        with self.write() as connection:
            return acquire(connection, run_id, retry_failed=retry_failed)

    def run(self, run_id: str) -> dict[str, Any]:
        """The columns of a run but for its grid, which may be large, with `status` and `pid` (of the living process that executes it).

        Raises:
            UnknownName: When there is no such run; the nearest is offered.
        """
        columns = [column for column in runs.c if column is not runs.c.grid]
        with self.read() as connection:
            row = connection.execute(sa.select(*columns).where(runs.c.run_id == run_id)).mappings().one_or_none()
            if row is None:
                known = connection.execute(sa.select(runs.c.run_id)).scalars().all()
                raise UnknownName.among("run", run_id, known)
        return _with_status(dict(row))

    def grid(self, run_id: str) -> Grid:
        """The grid of a run that there is."""
        with self.read() as connection:
            return Grid.from_dict(
                connection.execute(sa.select(runs.c.grid).where(runs.c.run_id == run_id)).scalar_one()
            )

    def status(self, run_id: str) -> tuple[str, int | None]:
        """Status of a run and the pid of the living process that executes it."""
        columns = [column for column in runs.c if column.name == "state" or column.name.startswith("lease_")]
        with self.read() as connection:
            row = connection.execute(sa.select(*columns).where(runs.c.run_id == run_id)).mappings().one()
        found = _with_status(dict(row))
        return found["status"], found["pid"]

    def runs(self, *, deleted: bool = False) -> list[dict[str, Any]]:
        """All runs, newest first, without their grids, with `done`, `failed` and `total` cells and `tags` added.

        Args:
            deleted: Those in the bin instead.
        """
        left_out = {"grid", "scorers", "provenance"}
        count = sa.select(cells.c.run_id, cells.c.status, sa.func.count().label("n")).group_by(
            cells.c.run_id, cells.c.status
        )
        with self.read() as connection:
            columns = [column for column in runs.c if column.name not in left_out]
            chosen = runs.c.deleted.is_not(None) if deleted else runs.c.deleted.is_(None)
            query = sa.select(*columns).where(chosen).order_by(runs.c.created.desc(), runs.c.run_id)
            rows = connection.execute(query).mappings().all()
            labels: dict[str, list[str]] = {}
            for run_id, tag in connection.execute(sa.select(tags.c.run_id, tags.c.tag).order_by(tags.c.tag)):
                labels.setdefault(run_id, []).append(tag)
            counts: dict[str, dict[str, int]] = {}
            for run_id, status, number in connection.execute(count):
                counts.setdefault(run_id, {})[status] = number
        found = []
        for row in rows:
            of_run = counts.get(row["run_id"], {})
            sums = {"done": of_run.get("done", 0), "failed": of_run.get("failed", 0), "total": sum(of_run.values())}
            found.append(_with_status(dict(row)) | sums | {"tags": labels.get(row["run_id"], [])})
        return found

    def provenances(self, most: int, *, besides: str | None = None) -> list[dict[str, Any]]:
        """What the answers of the newest runs depend on beside their grids, the newest first.

        Args:
            most: Of how many runs.
            besides: A run that is left out.
        """
        query = sa.select(runs.c.provenance).order_by(runs.c.created.desc(), runs.c.run_id).limit(most)
        if besides is not None:
            query = query.where(runs.c.run_id != besides)
        with self.read() as connection:
            return [dict(found) for found in connection.execute(query).scalars()]

    def update_run(self, run_id: str, **values: Any) -> None:
        """Change columns of a run."""
        with self.write() as connection:
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(**values))

    # Cells

    def cells(self, run_id: str, ids: Iterable[str] | None = None, *, raw: bool = False) -> list[dict[str, Any]]:
        """Cells of a run in the grid's order of execution.

        Args:
            run_id: The run.
            ids: Only these; None for all.
            raw: Whether `request` and `response`, the largest columns, are wanted.
        """
        columns = [column for column in cells.c if raw or column.name not in {"request", "response"}]
        query = sa.select(*columns).where(cells.c.run_id == run_id).order_by(cells.c.position)
        found: list[dict[str, Any]] = []
        with self.read() as connection:
            if ids is None:
                return [dict(row) for row in connection.execute(query).mappings()]
            for some in _chunks(list(ids)):
                rows = connection.execute(query.where(cells.c.cell_id.in_(some))).mappings()
                found += [dict(row) for row in rows]
        return sorted(found, key=lambda row: int(row["position"]))

    def each_cell(self, run_id: str) -> Iterator[dict[str, Any]]:
        """All columns of all cells of a run, in the order of execution; they are not read all at once."""
        query = sa.select(cells).where(cells.c.run_id == run_id).order_by(cells.c.position)
        with self.read() as connection:
            for row in connection.execute(query.execution_options(yield_per=_ROWS)).mappings():
                yield dict(row)

    def waiting(self, run_id: str) -> list[Cell]:
        """The pending cells of a run, in the order of execution."""
        names = ("prompt", "input_id", "model", "sampling", "repeat", "seed", "cell_id")
        query = sa.select(*(cells.c[name] for name in names)).where(
            cells.c.run_id == run_id, cells.c.status == "pending"
        )
        # Many cells share few names: each is kept once.
        once: dict[str, str] = {}
        with self.read() as connection:
            return [
                Cell(
                    once.setdefault(prompt, prompt),
                    once.setdefault(input_id, input_id),
                    once.setdefault(model, model),
                    *rest,
                )
                for prompt, input_id, model, *rest in connection.execute(query.order_by(cells.c.position))
            ]

    def counts(self, run_id: str) -> dict[str, int]:
        """Number of cells by status; `cached` counts those among the done ones whose answer came from an earlier run."""
        query = (
            sa.select(cells.c.status, cells.c.cached, sa.func.count())
            .where(cells.c.run_id == run_id)
            .group_by(cells.c.status, cells.c.cached)
        )
        found = {"pending": 0, "running": 0, "done": 0, "failed": 0, "cached": 0}
        with self.read() as connection:
            for status, cached, number in connection.execute(query):
                found[status] += number
                found["cached"] += number if cached else 0
        return found

    def answers(self, keys: Sequence[str], *, besides: str) -> dict[str, dict[str, Any]]:
        """Finished answers of other runs to the very same questions.

        Args:
            keys: Cell keys, see `cell_key`.
            besides: The run that asks.

        Returns:
            By key: the columns that make up the answer, and `cached_from`, the run that asked the model. Times are left out: a
            copied answer took none.
        """
        wanted = [cells.c[name] for name in _ANSWER]
        query = sa.select(cells.c.key, cells.c.run_id, cells.c.cached_from, *wanted).where(
            cells.c.status == "done",
            cells.c.run_id != besides,
            cells.c.run_id.in_(sa.select(runs.c.run_id).where(runs.c.deleted.is_(None))),
        )
        found: dict[str, dict[str, Any]] = {}
        with self.read() as connection:
            for some in _chunks(keys):
                for row in connection.execute(query.where(cells.c.key.in_(some))).mappings():
                    answer = {name: row[name] for name in _ANSWER}
                    found[row["key"]] = answer | {"cached_from": row["cached_from"] or row["run_id"]}
        return found

    def replace_scores(
        self, run_id: str, scorers: Sequence[Row], scores: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Put other scores in the place of a run's scores, all at once.

        Args:
            run_id: The run.
            scorers: Specifications of the scorers.
            scores: Cell id and scores of every finished cell.
        """
        place = (cells.c.run_id == run_id) & (cells.c.cell_id == sa.bindparam("this_cell"))
        with self.write() as connection:
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(scorers=list(scorers)))
            if scores:
                rows = [{"this_cell": cell_id, "scores": dict(found)} for cell_id, found in scores]
                connection.execute(cells.update().where(place), rows)

    def means(self, run_id: str) -> list[tuple[str, int, dict[str, float]]]:
        """For each prompt of a run its name, number of answers and mean scores; failed scorings are left out."""
        query = sa.select(cells.c.prompt, cells.c.scores).where(cells.c.run_id == run_id, cells.c.status == "done")
        number: dict[str, int] = {}
        values: dict[str, dict[str, list[float]]] = {}
        with self.read() as connection:
            for prompt, scores in connection.execute(query):
                number[prompt] = number.get(prompt, 0) + 1
                for name, found in (scores or {}).items():
                    if found["value"] is not None:
                        values.setdefault(prompt, {}).setdefault(name, []).append(found["value"])
        return [
            (prompt, count, {name: sum(each) / len(each) for name, each in values.get(prompt, {}).items()})
            for prompt, count in number.items()
        ]


def _newest(connection: Connection, grid_hash: str, executor: str, identities: Mapping[str, Any]) -> str | None:
    """The newest run of a grid by an executor, unless its models have changed since."""
    wanted = (runs.c.grid_hash == grid_hash, runs.c.executor == executor, runs.c.deleted.is_(None))
    newest = sa.select(runs.c.run_id, runs.c.provenance).where(*wanted).order_by(runs.c.created.desc(), runs.c.run_id)
    found = connection.execute(newest).first()
    return None if found is None or changes(recorded(found.provenance), identities) else str(found.run_id)


def _new_cell(run_id: str, position: int, cell: Cell) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "cell_id": cell.cell_id,
        "position": position,
        "prompt": cell.prompt,
        "input_id": cell.input_id,
        "model": cell.model,
        "sampling": cell.sampling,
        "repeat": cell.repeat,
        "seed": cell.seed,
        "status": "pending",
        "cached": False,
    }


def _with_status(row: Row) -> dict[str, Any]:
    pid = holder(row)
    status = "paused" if row["state"] == "running" and pid is None else row["state"]
    return {**row, "status": status, "pid": pid}


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _KEYS_AT_ONCE):
        yield values[start : start + _KEYS_AT_ONCE]
