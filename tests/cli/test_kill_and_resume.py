"""kill -9 of the process that runs a comparison: its server ends within 2 s, and the run continues where it was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from noa_lab.experiments import Store
from noa_lab.paths import Home
from noa_lab.server import servers

pytestmark = pytest.mark.real
CELLS = 40


@pytest.fixture
def comparison(tmp_path):
    return comparison_file(tmp_path, CELLS)


def comparison_file(folder, cells):
    inputs = "\n".join(f"  - {{word: w{number}}}" for number in range(cells // 2))
    file = folder / "long.yaml"
    file.write_text(
        f"name: long\nprompts: {{a: 'Say {{{{ word }}}}.', b: 'Repeat {{{{ word }}}}.'}}\ninputs:\n{inputs}\n"
        "sampling: [{temperature: 0, max_tokens: 24}]\nscorers: [{contains: '{{ word }}'}]\n"
    )
    return file


def done_cells(home: Home) -> tuple[str, int]:
    """Looks into the store: a command for each look would take longer than what is looked at."""
    with Store(home.runs_db) as store:
        found = store.runs()
        return (found[0]["run_id"], found[0]["done"]) if found else ("", 0)


def times_of_done(home: Home, run_id: str) -> dict[str, float]:
    """How long each finished cell took: a cell that is asked again takes another time."""
    with Store(home.runs_db) as store:
        return {cell["cell_id"]: cell["total_ms"] for cell in store.cells(run_id) if cell["status"] == "done"}


@pytest.mark.parametrize("after", [0.0, 1.5])
def test_kill_and_resume(noa_lab, comparison, after, home):
    """`after`: seconds between the first finished cell and the kill."""
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(comparison)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        deadline = time.monotonic() + 100
        while done_cells(home)[1] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(after)
        # Asked for here: while a command starts, the run may end.
        (served,) = servers(home)
        server = psutil.Process(served.pid)
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.wait(10)
        psutil.wait_procs([server], timeout=10)
        gone = time.monotonic() - killed
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
        assert gone < 2
    finally:
        process.kill()
    run_id, before = done_cells(home)
    assert 0 < before < CELLS, "killed half-way"
    kept = times_of_done(home, run_id)
    resumed = noa_lab("compare", comparison, "--resume", run_id, "--json")
    assert resumed.returncode == 0, resumed.stderr
    run = json.loads(resumed.stdout)
    assert run["run_id"] == run_id
    assert [cell["status"] for cell in run["cells"]] == ["done"] * CELLS
    assert len({cell["cell_id"] for cell in run["cells"]}) == CELLS
    assert kept.items() <= times_of_done(home, run_id).items(), "finished cells were not asked again"
    assert json.loads(noa_lab("status", "--json").stdout)["servers"] == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_ten_kills_of_runner_and_server(noa_lab, tmp_path, home):
    """A server that is killed is started again and the run goes on by itself; a runner that is killed is started again here."""
    cells, draw, kept, run_id = 600, random.Random(4), {}, ""
    file = comparison_file(tmp_path, cells)
    for victim in ["runner", "server"] * 5:
        command = [sys.executable, "-m", "noa_lab.cli", "compare", str(file), *(["--resume", run_id] if run_id else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        try:
            wait_for_more(home, len(kept))
            time.sleep(draw.uniform(0, 1))
            if victim == "server":
                (served,) = servers(home)
                before = done_cells(home)[1]
                os.kill(served.pid, signal.SIGKILL)
                wait_for_more(home, before)
            process.kill()
            process.wait(10)
        finally:
            process.kill()
        run_id, _ = done_cells(home)
        now = times_of_done(home, run_id)
        assert kept.items() <= now.items(), "a finished cell was lost, or asked again"
        assert len(now) < cells, "it was killed half-way"
        kept = now
    run = json.loads(noa_lab("compare", file, "--resume", run_id, "--json", timeout=400).stdout)
    assert [cell["status"] for cell in run["cells"]] == ["done"] * cells
    assert len({cell["cell_id"] for cell in run["cells"]}) == cells
    assert kept.items() <= times_of_done(home, run_id).items()


def wait_for_more(home: Home, before: int) -> None:
    deadline = time.monotonic() + 100
    while done_cells(home)[1] <= before:
        assert time.monotonic() < deadline, "nothing is finished any more"
        time.sleep(0.1)
