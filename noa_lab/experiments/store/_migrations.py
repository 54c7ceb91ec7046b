"""How a database of an older noa_lab becomes one of this.

Each step is written out in SQL and never changed afterwards: the tables of `_schema` are those of today, and a step must not follow
them when they change again.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

__all__ = ["MIGRATIONS"]


def _tags_notes_and_executors(connection: Connection) -> None:
    """1 to 2: runs have an executor, a note, a time of deletion, a wish of another process and a budget; tables are made before."""
    for column in (
        "executor VARCHAR(16) NOT NULL DEFAULT 'auto'",
        "note TEXT NOT NULL DEFAULT ''",
        "deleted FLOAT",
        "wish VARCHAR(16)",
        "budget JSON",
    ):
        connection.exec_driver_sql(f"ALTER TABLE runs ADD COLUMN {column}")
    # What began as one request a cell goes on like that.
    connection.exec_driver_sql("UPDATE runs SET executor = 'plain'")


MIGRATIONS: dict[int, Callable[[Connection], None]] = {1: _tags_notes_and_executors}
"""By version n: what turns a database of version n into one of version n + 1, inside the transaction of the opening."""
