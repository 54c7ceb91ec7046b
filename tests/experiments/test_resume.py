"""`kill -9` at any moment: what was shown is kept, nothing is asked twice that was finished, nothing is recorded twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import time

import pytest
from comparison_rig import GREEDY, WARM, Rig, child, grid, read_log, wait_for

from noa_lab.experiments import Store, list_runs, open_run, score, start


def done_cells(path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT cell_id, answer FROM cells WHERE status = 'done'").fetchall()
    connection.close()
    return dict(rows)


def kill_repeatedly(tmp_path, *, trials: int, inputs: int, delay: float, seed: int) -> None:
    """Kill runs of one grid again and again; where one comes to its end, go on with the next grid."""
    draw = random.Random(seed)
    path = tmp_path / "runs.db"
    killed, number = 0, 0
    while killed < trials:
        number += 1
        log = tmp_path / f"{number}.log"
        while killed < trials and not finished(path, number, inputs):
            before = done_cells(path) if path.exists() else {}
            start_of_log = len(read_log(log))
            process = child(path, log, "--inputs", str(inputs), "--delay", str(delay), "--tag", f"g{number} ")
            first = process.stdout.readline()
            assert first, process.stderr.read()
            time.sleep(draw.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            check(path, log, before, start_of_log, number, inputs)
        output, errors = child(path, log, "--inputs", str(inputs), "--delay", "0", "--tag", f"g{number} ").communicate(
            timeout=120
        )
        assert output.splitlines()[-1] == "done", errors
        check_complete(path, log, number, inputs)


def finished(path, number: int, inputs: int) -> bool:
    if not path.exists():
        return False
    with Store(path) as store:
        return len(list_runs(store)) == number and list_runs(store)[0].status == "done"


def check(path, log, before: dict, start_of_log: int, number: int, inputs: int) -> None:
    kept = done_cells(path)
    assert before.items() <= kept.items(), "a finished cell was lost or changed"
    lines = read_log(log)
    shown = {detail for event, detail in lines if event == "shown"}
    assert shown <= set(kept), "a cell was shown that was not committed"
    asked_now = [detail for event, detail in lines[start_of_log:] if event == "asked"]
    assert len(asked_now) == len(set(asked_now))
    answered_before = set(questions(path, before))
    assert not answered_before & set(asked_now), "a finished cell was asked again"
    with Store(path) as store:
        run = open_run(store, list_runs(store)[0].run_id)
        assert run.status in {"paused", "done"}
        assert run.progress().running == 0
        assert set(run.cells()["status"]) <= {"pending", "done"}
        assert len(run.cells()) == inputs * 2 * 3


def questions(path, cell_ids) -> list[str]:
    """The "asked" lines of these cells."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT cell_id, answer, seed FROM cells").fetchall()
    connection.close()
    return [f"{answer.removeprefix('yes ')} / {seed}" for cell_id, answer, seed in rows if cell_id in cell_ids]


def check_complete(path, log, number: int, inputs: int) -> None:
    with Store(path) as store:
        newest = list_runs(store)[0]
        assert (len(list_runs(store)), newest.done, newest.failed) == (number, inputs * 6, 0)
        frame = open_run(store, newest.run_id).cells()
        assert frame["cell_id"].is_unique
        assert (frame["score.contains"] == 1.0).all()
        assert not frame["cached"].any()
        made = grid(inputs, tag=f"g{number} ", sampling=[GREEDY, WARM], repeats=2)
        rendered = made.render()
        answers = {cell.cell_id: f"yes {rendered[cell.prompt, cell.input_id][-1].content}" for cell in made.cells()}
        assert dict(zip(frame["cell_id"], frame["answer"], strict=True)) == answers


def test_a_few_random_kills(tmp_path):
    kill_repeatedly(tmp_path, trials=6, inputs=100, delay=0.004, seed=7)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_two_hundred_random_kills(tmp_path):
    kill_repeatedly(tmp_path, trials=200, inputs=834, delay=0.002, seed=11)


def test_ending_the_process_in_the_ordinary_way_pauses_its_run(tmp_path):
    path, log = tmp_path / "runs.db", tmp_path / "log"
    process = child(path, log, "--inputs", "50", "--delay", "0.2")
    assert process.stdout.readline().startswith("started")
    # Its main thread has long been waiting in result() when the second answers of its four slots are shown.
    wait_for(lambda: sum(event == "shown" for event, _ in read_log(log)) > 4, 30)
    process.send_signal(signal.SIGINT)  # result() cancels, then the interpreter ends
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    with Store(path) as store:
        run = open_run(store, list_runs(store)[0].run_id)
        assert run.status == "cancelled"
        assert not run.running


def test_a_script_that_ends_without_waiting_pauses_its_run(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    path = tmp_path / "runs.db"
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from comparison_rig import *\n"
        f"run = start(grid(50), store=Store({str(path)!r}), engine_for=Rig(delay=0.5))\n"
        "wait_for(lambda: run.progress().done > 0)\n"
        "print(time.time())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.time() - float(done.stdout) < 10, "25 s are left for it to do"
    with Store(path) as store:
        row = store.run(list_runs(store)[0].run_id)
        assert (row["state"], row["lease_token"]) == ("paused", None)
        run = start(grid(50), [score.contains("yes")], store=store, engine_for=Rig())
        before = run.progress().done
        assert run.result(timeout=30).status == "done"
        assert before > 0
