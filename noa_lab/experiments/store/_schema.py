"""Tables of the run store, their version, and how a connection to SQLite is set up.

meta    schema_version
runs    one row a run: the grid, the scorers, provenance, its state and the lease of the process that executes it
tags    labels of runs
cells   one row a cell of a run; (run_id, cell_id) is unique, so that no cell can be recorded twice
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from noa_lab.errors import ExperimentError
from noa_lab.experiments.store._migrations import MIGRATIONS

__all__ = ["SCHEMA_VERSION", "cells", "connect", "metadata", "runs", "tags"]

SCHEMA_VERSION = 2
_BUSY_SECONDS = 30.0
_JSON = json.JSONEncoder(default=str)

metadata = sa.MetaData()

meta = sa.Table("meta", metadata, sa.Column("key", sa.String(40), primary_key=True), sa.Column("value", sa.Text))

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(16), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("grid_hash", sa.String(64), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("grid", sa.JSON, nullable=False),
    sa.Column("prompts", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("scorers", sa.JSON, nullable=False),
    sa.Column("provenance", sa.JSON, nullable=False),
    sa.Column("reuse", sa.Boolean, nullable=False),
    sa.Column("executor", sa.String(16), nullable=False, server_default="auto"),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("deleted", sa.Float),
    sa.Column("wish", sa.String(16)),
    sa.Column("budget", sa.JSON(none_as_null=True)),
    sa.Column("lease_token", sa.String(32)),
    sa.Column("lease_pid", sa.Integer),
    sa.Column("lease_started", sa.Float),
    sa.Column("lease_host", sa.Text),
    sa.Column("lease_beat", sa.Float),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("run_id", sa.String(16), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag", sa.String(80), primary_key=True),
)

cells = sa.Table(
    "cells",
    metadata,
    sa.Column("run_id", sa.String(16), sa.ForeignKey("runs.run_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("cell_id", sa.String(16), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("input_id", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("sampling", sa.Integer, nullable=False),
    sa.Column("repeat", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("key", sa.String(64), index=True),
    sa.Column("answer", sa.Text),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("finish_reason", sa.String(32)),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("cached_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("queue_ms", sa.Float),
    sa.Column("ttft_ms", sa.Float),
    sa.Column("prefill_ms", sa.Float),
    sa.Column("decode_ms", sa.Float),
    sa.Column("total_ms", sa.Float),
    sa.Column("executor", sa.String(16)),
    sa.Column("cached", sa.Boolean, nullable=False, default=False),
    sa.Column("cached_from", sa.String(16)),
    sa.Column("request", sa.JSON(none_as_null=True)),
    sa.Column("response", sa.JSON(none_as_null=True)),
    sa.Column("scores", sa.JSON(none_as_null=True)),
    sa.Column("finished", sa.Float),
    sa.Index("ix_cells_run_status", "run_id", "status"),
)


def connect(path: Path) -> Engine:
    """An engine on the database at `path`, which is made or brought up to date.

    Every commit is on the disk when it returns (`synchronous=FULL`); readers never wait for a writer (WAL).

    Raises:
        ExperimentError: When a newer noa_lab wrote it.
        sqlalchemy.exc.DBAPIError: When it is no database or cannot be written to.
    """
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(
        url, connect_args={"timeout": _BUSY_SECONDS}, pool_size=5, max_overflow=20, json_serializer=_json
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    try:
        with engine.execution_options(write=True).begin() as connection:
            _bring_up_to_date(connection, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _json(value: Any) -> str:
    """JSON of a column; what JSON does not know, such as a number of numpy's in an engine's answer, becomes its text."""
    return _JSON.encode(value)


def _set_up(connection: Any, record: object) -> None:
    del record
    # The driver's own transactions begin too late for what is read first; `_begin` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
    finally:
        cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch to WAL; SQLite's busy timeout does not cover this one statement, so two processes opening a new file would collide."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that will write takes the lock at once: upgrading a read lock later could fail without waiting.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _bring_up_to_date(connection: Connection, path: Path) -> None:
    metadata.create_all(connection)
    found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    if found is None:
        connection.execute(meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
        return
    version = int(found)
    if version > SCHEMA_VERSION:
        raise ExperimentError(
            f"{path} was written by a newer noa_lab (format {version}; this one reads up to {SCHEMA_VERSION}).",
            fix="Update noa_lab, or use another NOA_LAB_HOME.",
            path=str(path),
            found=version,
            known=SCHEMA_VERSION,
        )
    for step in range(version, SCHEMA_VERSION):
        MIGRATIONS[step](connection)
    if version < SCHEMA_VERSION:
        connection.execute(meta.update().where(meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION)))
