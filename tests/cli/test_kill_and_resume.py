"""kill -9 of the process that runs a comparison: its server ends within 2 s, and the run continues where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.real
CELLS = 40


@pytest.fixture
def comparison(tmp_path):
    inputs = "\n".join(f"  - {{word: w{number}}}" for number in range(CELLS // 2))
    file = tmp_path / "long.yaml"
    file.write_text(
        f"name: long\nprompts: {{a: 'Say {{{{ word }}}}.', b: 'Repeat {{{{ word }}}}.'}}\ninputs:\n{inputs}\n"
        "sampling: [{temperature: 0, max_tokens: 24}]\nscorers: [{contains: '{{ word }}'}]\n"
    )
    return file


def done_cells(noa_lab) -> tuple[str, int]:
    listed = json.loads(noa_lab("runs", "list", "--json").stdout)["runs"]
    return (listed[0]["run_id"], listed[0]["done"]) if listed else ("", 0)


def times_of_done(noa_lab, run_id: str) -> dict[str, float]:
    """How long each finished cell took: a cell that is asked again takes another time."""
    cells = json.loads(noa_lab("runs", "show", run_id, "--json").stdout)["cells"]
    return {cell["cell_id"]: cell["total_ms"] for cell in cells if cell["status"] == "done"}


@pytest.mark.parametrize("after", [0.0, 1.5])
def test_kill_and_resume(noa_lab, comparison, after, home):
    """`after`: seconds between the first finished cell and the kill."""
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(comparison)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        deadline = time.monotonic() + 100
        while done_cells(noa_lab)[1] == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(after)
        status = json.loads(noa_lab("status", "--json").stdout)["servers"]
        assert [one["state"] in ("ready", "busy") for one in status] == [True]
        server = psutil.Process(status[0]["pid"])
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.wait(10)
        psutil.wait_procs([server], timeout=10)
        gone = time.monotonic() - killed
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
        assert gone < 2
    finally:
        process.kill()
    run_id, before = done_cells(noa_lab)
    assert 0 < before < CELLS, "killed half-way"
    kept = times_of_done(noa_lab, run_id)
    resumed = noa_lab("compare", comparison, "--resume", run_id, "--json")
    assert resumed.returncode == 0, resumed.stderr
    run = json.loads(resumed.stdout)
    assert run["run_id"] == run_id
    assert [cell["status"] for cell in run["cells"]] == ["done"] * CELLS
    assert len({cell["cell_id"] for cell in run["cells"]}) == CELLS
    assert kept.items() <= times_of_done(noa_lab, run_id).items(), "finished cells were not asked again"
    assert json.loads(noa_lab("status", "--json").stdout)["servers"] == []
