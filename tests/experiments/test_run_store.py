"""The store: durable, shared by processes, never blocking a reader, never recording twice."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from comparison_rig import Rig, grid, wait_for

from noa_lab.errors import BadInput, DiskFull, ExperimentError, RunBusy, UnknownName
from noa_lab.experiments import Store, list_runs, open_run, start
from noa_lab.experiments.store import _schema as schema
from noa_lab.experiments.store import _store as store_module
from noa_lab.experiments.store import _writer as writer_module
from noa_lab.experiments.store._faults import translated
from noa_lab.experiments.store._lease import acquire, release, renew
from noa_lab.experiments.store._writer import Change, Writer


def add(store: Store, made=None, **changes) -> str:
    made = made or grid(2)
    values = {"name": "n", "scorers": [], "provenance": {"engines": {}}, "executor": "auto", "fresh": True, **changes}
    return store.add_run(made, list(made.cells()), **values)[0]


def test_the_database_is_set_up_for_promises(store):
    with store.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_cell_cannot_be_recorded_twice(store):
    run_id = add(store)
    row = store.cells(run_id, raw=True)[0]
    with pytest.raises(sa.exc.IntegrityError), store.write() as connection:
        connection.execute(schema.cells.insert(), [row])
    assert len(store.cells(run_id)) == 4


def test_a_finished_cell_keeps_its_first_record(store):
    run_id = add(store)
    token = store.lease(run_id)
    cell_id = store.cells(run_id)[0]["cell_id"]
    seen: list[Change] = []
    writer = Writer(store, run_id, token, on_commit=seen.extend, on_error=seen.append)
    writer.put(Change(cell_id, "done", {"answer": "first"}))
    wait_for(lambda: len(seen) == 1)
    writer.put(Change(cell_id, "done", {"answer": "second"}))
    writer.put(Change(cell_id, "pending", {}))
    writer.drain()
    writer.close("paused", None)
    assert store.cells(run_id, [cell_id])[0]["answer"] == "first"
    assert store.cells(run_id, [cell_id])[0]["status"] == "done"


def test_changes_are_announced_after_their_commit_and_in_groups(store):
    made = grid(300)
    run_id = add(store, made)
    token = store.lease(run_id)
    groups: list[int] = []

    def committed(changes):
        found = store.cells(run_id, [change.cell_id for change in changes])
        assert {row["status"] for row in found} == {"done"}
        groups.append(len(changes))

    writer = Writer(store, run_id, token, on_commit=committed, on_error=groups.append)
    for cell in made.cells():
        writer.put(Change(cell.cell_id, "done", {"answer": "x"}))
    writer.drain()
    writer.close("done", None)
    assert sum(groups) == 600
    assert len(groups) < 100


def test_changes_that_come_one_after_the_other_are_committed_together(store, monkeypatch):
    made = grid(2)
    run_id = add(store, made)
    groups: list[int] = []
    monkeypatch.setattr(writer_module, "_TOGETHER", 60.0)
    writer = Writer(
        store, run_id, store.lease(run_id), on_commit=lambda found: groups.append(len(found)), on_error=groups.append
    )
    first, second, *_ = made.cells()
    writer.put(Change(first.cell_id, "done", {"answer": "x"}))
    wait_for(writer._queue.empty)
    assert not groups
    writer.put(Change(second.cell_id, "done", {"answer": "x"}))
    writer.flush()  # whoever waits need not wait for more
    assert groups == [2]
    writer.drain()
    writer.close("paused", None)


def test_a_lease_is_taken_by_one_and_given_back(store):
    run_id = add(store)
    token = store.lease(run_id)
    with pytest.raises(RunBusy) as caught:
        store.lease(run_id)
    assert caught.value.fields["pid"] == os.getpid()
    with store.write() as connection:
        renew(connection, run_id, token)
        release(connection, run_id, token, "paused", None)
    assert store.status(run_id) == ("paused", None)
    store.lease(run_id)


def test_whoever_lost_the_lease_records_nothing_more(store):
    run_id = add(store)
    token = store.lease(run_id)
    with store.write() as connection:
        connection.execute(schema.runs.update().values(lease_pid=0, lease_started=1.0, lease_beat=1.0))
        acquire(connection, run_id, retry_failed=True)
    errors: list[BaseException] = []
    writer = Writer(
        store, run_id, token, on_commit=lambda changes: errors.append(AssertionError()), on_error=errors.append
    )
    writer.put(Change(store.cells(run_id)[0]["cell_id"], "done", {"answer": "late"}))
    writer.drain()
    writer.close("done", None)
    assert [type(error) for error in errors] == [RunBusy]
    assert store.counts(run_id)["pending"] == 4
    assert store.status(run_id)[0] == "running"


def lease_columns(pid: int, started: float, beat: float, host: str | None = None) -> dict:
    return {
        "state": "running",
        "lease_token": "t",
        "lease_pid": pid,
        "lease_started": started,
        "lease_beat": beat,
        "lease_host": host,
    }


def test_a_lease_ends_with_its_process_by_pid_and_start_time(store):
    import platform

    import psutil

    here, now = platform.node(), time.time()
    started = psutil.Process(os.getppid()).create_time()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    wait_for(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    run_id = add(store)
    cases = [
        (lease_columns(os.getppid(), started, 0.0, here), True),
        (lease_columns(os.getppid(), started - 1000, now - 100, here), False),
        (lease_columns(os.getppid(), started - 1000, now, here), True),
        (lease_columns(dead.pid, now, now, here), False),
        (lease_columns(zombie.pid, psutil.Process(zombie.pid).create_time(), now, here), False),
        (lease_columns(1, 0.0, now - 10, "elsewhere"), True),
        (lease_columns(1, 0.0, now - 100, "elsewhere"), False),
    ]
    for columns, alive in cases:
        store.update_run(run_id, **columns)
        status, pid = store.status(run_id)
        assert (status, pid is not None) == (("running", True) if alive else ("paused", False)), columns
    zombie.wait()


def test_taking_over_makes_interrupted_cells_pending(store):
    run_id = add(store)
    with store.write() as connection:
        connection.execute(schema.cells.update().values(status="running"))
    store.lease(run_id)
    assert store.counts(run_id) == {"pending": 4, "running": 0, "done": 0, "failed": 0, "cached": 0}


def test_readers_never_wait_for_a_writer(store):
    run_id = add(store)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.write() as connection:
            connection.execute(schema.cells.update().values(status="done"))
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert inside.wait(5)
        assert store.counts(run_id)["pending"] == 4
        assert store.runs()[0]["done"] == 0
        assert thread.is_alive(), "the writer is still in its transaction"
    finally:
        leave.set()
        thread.join()
    assert store.counts(run_id)["done"] == 4


def test_an_unknown_run_offers_the_nearest(store):
    run_id = add(store)
    almost = run_id[:-1] + ("0" if run_id[-1] != "0" else "1")
    with pytest.raises(UnknownName) as caught:
        open_run(store, almost)
    assert caught.value.fields["nearest"] == run_id


def test_runs_are_listed_newest_first_with_what_is_done(store):
    first, second = add(store, name="one"), add(store, name="two")
    with store.write() as connection:
        connection.execute(schema.cells.update().where(schema.cells.c.run_id == first).values(status="done"))
    listed = list_runs(store)
    assert [run.run_id for run in listed] == [second, first]
    assert [(run.name, run.done, run.total, run.status) for run in listed] == [
        ("two", 0, 4, "pending"),
        ("one", 4, 4, "pending"),
    ]
    assert listed[0].as_dict()["prompts"] == ["plain", "long"]


def statements(store, work) -> list[str]:
    """The queries that some work takes."""
    found: list[str] = []

    def note(connection, cursor, statement, *rest) -> None:
        found.append(statement)

    sa.event.listen(store._engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", note)
    return [statement for statement in found if statement != "BEGIN"]


def test_listing_many_runs_takes_as_few_queries_as_listing_one(store):
    run_id = add(store)
    one = statements(store, lambda: list_runs(store))
    for number in range(30):
        add(store, name=str(number))
    many = statements(store, lambda: list_runs(store))
    assert many == one
    with store.read() as connection:
        for query in many:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
            assert not any(step.startswith("SCAN cells") and "COVERING INDEX" not in step for step in plan), plan
    assert not any(re.search(r"runs\.grid\b", query) for query in statements(store, lambda: store.run(run_id)))


FORMAT_1 = """
CREATE TABLE meta ("key" VARCHAR(40) NOT NULL, value TEXT, PRIMARY KEY ("key"));
INSERT INTO meta VALUES ('schema_version', '1');
CREATE TABLE runs (run_id VARCHAR(16) NOT NULL, name TEXT NOT NULL, grid_hash VARCHAR(64) NOT NULL, created FLOAT NOT NULL,
    state VARCHAR(16) NOT NULL, error JSON, grid JSON NOT NULL, prompts JSON NOT NULL, models JSON NOT NULL, scorers JSON NOT NULL,
    provenance JSON NOT NULL, reuse BOOLEAN NOT NULL, lease_token VARCHAR(32), lease_pid INTEGER, lease_started FLOAT,
    lease_host TEXT, lease_beat FLOAT, PRIMARY KEY (run_id));
CREATE INDEX ix_runs_grid_hash ON runs (grid_hash);
CREATE TABLE cells (run_id VARCHAR(16) NOT NULL, cell_id VARCHAR(16) NOT NULL, position INTEGER NOT NULL, prompt TEXT NOT NULL,
    input_id TEXT NOT NULL, model TEXT NOT NULL, sampling INTEGER NOT NULL, repeat INTEGER NOT NULL, seed BIGINT,
    status VARCHAR(8) NOT NULL, "key" VARCHAR(64), answer TEXT, error JSON, finish_reason VARCHAR(32), prompt_tokens INTEGER,
    cached_tokens INTEGER, completion_tokens INTEGER, queue_ms FLOAT, ttft_ms FLOAT, prefill_ms FLOAT, decode_ms FLOAT,
    total_ms FLOAT, executor VARCHAR(16), cached BOOLEAN NOT NULL, cached_from VARCHAR(16), request JSON, response JSON, scores JSON,
    finished FLOAT, PRIMARY KEY (run_id, cell_id), FOREIGN KEY(run_id) REFERENCES runs (run_id) ON DELETE CASCADE);
CREATE INDEX ix_cells_key ON cells ("key");
CREATE INDEX ix_cells_run_status ON cells (run_id, status);
"""


def store_of_format_1(path) -> str:
    """A half-done run as the first version of noa_lab has left it."""
    made = grid(2)
    with sqlite3.connect(path) as connection:
        connection.executescript(FORMAT_1)
        values = (
            "r-00000001",
            "old",
            made.hash,
            1.0,
            "running",
            None,
            json.dumps(made.as_dict()),
            '["plain", "long"]',
            '["m"]',
        )
        connection.execute(
            f"INSERT INTO runs VALUES ({', '.join('?' * 17)})", (*values, "[]", '{"engines": {}}', 1, *[None] * 5)
        )
        for number, cell in enumerate(made.cells()):
            row = (cell.prompt, cell.input_id, cell.model, cell.sampling, cell.repeat, cell.seed)
            columns = (
                "run_id, cell_id, position, prompt, input_id, model, sampling, repeat, seed, status, answer, cached"
            )
            status = ("done", "old answer") if number == 0 else ("pending", None)
            values = ("r-00000001", cell.cell_id, number, *row, *status, 0)
            connection.execute(f"INSERT INTO cells ({columns}) VALUES ({', '.join('?' * 12)})", values)
    connection.close()
    return "r-00000001"


def test_a_store_of_the_first_format_is_brought_up_to_date_and_its_run_goes_on(tmp_path):
    path = tmp_path / "runs.db"
    run_id = store_of_format_1(path)
    with Store(path) as store:
        run = open_run(store, run_id, engine_for=Rig())
        assert (run.status, run.executor) == ("paused", "plain")
        run.resume()
        answers = run.result(timeout=30).cells()["answer"].tolist()
        assert answers == ["old answer", "yes", "yes", "yes"]
        with store.read() as connection:
            new = {row[1] for row in connection.exec_driver_sql("PRAGMA table_info(runs)")}
        assert new == {column.name for column in schema.runs.columns}


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    with Store(tmp_path / "runs.db"):
        pass
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION - 1)
    with pytest.raises(ExperimentError, match="newer noa_lab"):
        Store(tmp_path / "runs.db")


def test_a_failed_migration_leaves_the_old_database(tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    store_of_format_1(path)

    def broken(connection) -> None:
        connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN half TEXT")
        raise ValueError("half-way")

    with monkeypatch.context() as patch:
        patch.setitem(schema.MIGRATIONS, 1, broken)
        with pytest.raises(ValueError, match="half-way"):
            Store(path)
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        assert connection.execute("SELECT value FROM meta").fetchone() == ("1",)
    connection.close()
    assert "half" not in columns
    with Store(path) as store:
        assert len(store.runs()) == 1


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_named(tmp_path, content):
    path = tmp_path / "runs.db"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read as a database"):
        Store(path)


def test_a_missing_folder_and_a_full_disk_are_named(tmp_path):
    with pytest.raises(ExperimentError, match="cannot be opened"):
        Store(tmp_path / "missing" / "runs.db")
    with pytest.raises(DiskFull), translated(tmp_path):
        raise sa.exc.OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))


def test_a_network_file_system_is_only_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "network_filesystem", lambda path: "nfs4")
    with pytest.warns(RuntimeWarning, match="network file system"):
        Store(tmp_path / "runs.db").close()


def test_a_store_is_a_plain_sqlite_file(store):
    start(grid(2), store=store, engine_for=Rig()).result()
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM cells WHERE status = 'done'").fetchone() == (4,)
    connection.close()
