"""Two notebooks and a terminal write one store at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from noa_lab.experiments import list_runs, open_run
from noa_lab.experiments.store._store import Store

RIGS = Path(__file__).parents[1] / "experiments"
INPUTS = 80
CELL = f"""
import sys
sys.path.insert(0, {str(RIGS)!r})
from comparison_rig import Rig, grid
import noa_lab as lab
from noa_lab.experiments import score, start
run = start(grid({INPUTS}, tag=TAG), [score.contains("yes")], store=lab.Lab().store, engine_for=Rig(delay=0.02), name=TAG)
run.tag(TAG)
run.result(timeout=100)
print(run.status, run.progress().done)
"""


@pytest.fixture
def notebooks(home):
    """Two real kernels with this home."""
    from jupyter_client.manager import start_new_kernel

    kernels = [
        start_new_kernel(kernel_name="python3", env={**os.environ, "NOA_LAB_HOME": str(home.root)}) for _ in range(2)
    ]
    yield [client for _, client in kernels]
    for manager, client in kernels:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.real
def test_two_notebooks_and_a_terminal_write_one_store(notebooks, home, tmp_path):
    file = tmp_path / "short.yaml"
    words = "\n".join(f"  - {{word: w{number}}}" for number in range(12))
    file.write_text(
        "name: terminal\nprompts: {a: 'Say {{ word }}.', b: 'Repeat {{ word }}.'}\n"
        f"inputs:\n{words}\nsampling: [{{temperature: 0, max_tokens: 4}}]\nscorers: [{{contains: '{{{{ word }}}}'}}]\n"
    )
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(file), "--json"]
    terminal = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        cells = [client.execute(f"TAG = 'notebook {number}'\n{CELL}") for number, client in enumerate(notebooks)]
        for client, cell in zip(notebooks, cells, strict=True):
            assert outcome(client, cell) == f"done {2 * INPUTS}\n"
        output, errors = terminal.communicate(timeout=200)
    finally:
        terminal.kill()
    assert terminal.returncode == 0, errors
    assert "locked" not in errors
    assert json.loads(output)["status"] == "done"
    with Store(home.runs_db) as store:
        runs = {run.name: run for run in list_runs(store)}
        assert {name: (run.done, run.failed, run.total) for name, run in runs.items()} == {
            "terminal": (24, 0, 24),
            "notebook 0": (2 * INPUTS, 0, 2 * INPUTS),
            "notebook 1": (2 * INPUTS, 0, 2 * INPUTS),
        }
        assert [runs[f"notebook {number}"].tags for number in range(2)] == [("notebook 0",), ("notebook 1",)]
        for run in runs.values():
            frame = open_run(store, run.run_id).cells()
            assert frame["cell_id"].is_unique
            assert frame["answer"].notna().all()


def outcome(client, cell: str) -> str:
    """What a cell printed at its end, or the error it ended with."""
    printed = ""
    while True:
        news = client.get_iopub_msg(timeout=200)
        if news["parent_header"].get("msg_id") != cell:
            continue
        content = news["content"]
        if news["msg_type"] == "stream":
            printed += content["text"]
        elif news["msg_type"] == "error":
            printed += f"{content['ename']}: {content['evalue']}"
        elif news["msg_type"] == "status" and content["execution_state"] == "idle":
            return printed
