"""One store and several processes, or several threads, that use it at the same time."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time

import psutil
import pytest
from comparison_rig import Rig, child, read_log

from noa_lab.errors import RunBusy
from noa_lab.experiments import Store, list_runs, open_run


def test_two_processes_write_one_store_at_the_same_time(tmp_path):
    path = tmp_path / "runs.db"
    children = [
        child(path, tmp_path / f"{tag}.log", "--tag", tag, "--inputs", "60", "--delay", "0") for tag in ("a", "b", "c")
    ]
    with Store(path) as store:
        while any(each.poll() is None for each in children):
            for summary in list_runs(store):
                store.cells(summary.run_id)
        for each in children:
            output, errors = each.communicate()
            assert output.splitlines()[-1] == "done", errors
            assert not errors
        runs = list_runs(store)
        assert [(run.done, run.total) for run in runs] == [(360, 360)] * 3
        answers = [row["answer"] for run in runs for row in store.cells(run.run_id)]
        assert all(answer.startswith("yes ") for answer in answers)


def stop_between_transactions(process, path) -> None:
    """Stop a process where it does not keep everybody else from writing."""
    while True:
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        finally:
            connection.close()


def test_two_processes_never_execute_one_run(tmp_path):
    path = tmp_path / "runs.db"
    first = child(path, tmp_path / "1.log", "--inputs", "60", "--delay", "0.02")
    assert first.stdout.readline().startswith("started")
    stop_between_transactions(first, path)  # it lives, and will not be done before the other has come
    second = child(path, tmp_path / "2.log", "--inputs", "60", "--delay", "0.02")
    output, errors = second.communicate(timeout=30)
    assert output == f"busy {first.pid}\n", errors
    with Store(path) as store:
        run = open_run(store, list_runs(store)[0].run_id, engine_for=Rig())
        assert run.running
        assert run.status == "running"
        with pytest.raises(RunBusy):
            run.resume()
        first.send_signal(signal.SIGCONT)
        assert run.result(timeout=30).status == "done"
    assert first.communicate(timeout=30)[0] == "done\n"
    assert not (tmp_path / "2.log").read_text()


def test_of_processes_that_begin_together_one_asks(tmp_path):
    path = tmp_path / "runs.db"
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    children = [child(path, log, "--inputs", "30", "--delay", "0.02") for log in logs]
    outputs = [each.communicate(timeout=60) for each in children]
    lasts = {output.splitlines()[-1].split()[0] for output, _ in outputs}
    assert "done" in lasts, outputs
    assert lasts <= {"busy", "done"}, outputs
    asked = [detail for log in logs for event, detail in read_log(log) if event == "asked"]
    assert len(asked) == len(set(asked)) == 180
    with Store(path) as store:
        assert [(run.done, run.total) for run in list_runs(store)] == [(180, 180)]


def test_a_lab_opens_its_store_once_however_many_threads_ask(tmp_path, monkeypatch):
    from noa_lab.paths import Home
    from noa_lab.workbench import Lab

    opened: list[Store] = []

    class Slow(Store):
        def __init__(self, path) -> None:
            time.sleep(0.05)
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr("noa_lab.experiments.Store", Slow)
    lab = Lab(Home(tmp_path))
    threads = [threading.Thread(target=lambda: lab.store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [lab.store]
    lab.store.close()
