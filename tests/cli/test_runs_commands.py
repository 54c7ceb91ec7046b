"""`noa-lab runs`: listing, labels, the bin, export and import, on a store that scripted runs have filled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

from comparison_rig import Rig, grid

from noa_lab.cli._app import cli
from noa_lab.errors import NoaLabError
from noa_lab.experiments import Store, start


@pytest.fixture
def run_id(home):
    home.runs_db.parent.mkdir(parents=True, exist_ok=True)
    with Store(home.runs_db) as store:
        return start(grid(2), store=store, engine_for=Rig(), name="first").result(timeout=30).run_id


def noa_lab(*arguments: str):
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit | NoaLabError):
        raise done.exception
    return done


def listed(*arguments: str) -> list[dict]:
    return json.loads(noa_lab("runs", "list", "--json", *arguments).stdout)["runs"]


def test_labels_and_notes(run_id):
    said = noa_lab("runs", "tag", run_id, "paper", "baseline", "--note", "too warm").stdout
    assert said == f"{run_id} [baseline, paper]: too warm\n"
    assert [run["run_id"] for run in listed("--tag", "paper")] == [run_id]
    assert listed("--tag", "other") == []
    noa_lab("runs", "tag", run_id, "paper", "--remove")
    assert listed()[0]["tags"] == ["baseline"]
    assert "nothing to label" in noa_lab("runs", "tag", run_id).output


def test_the_bin(run_id):
    assert "restore" in noa_lab("runs", "delete", run_id).stdout
    assert listed() == []
    assert [run["run_id"] for run in listed("--deleted")] == [run_id]
    noa_lab("runs", "restore", run_id)
    assert [run["run_id"] for run in listed()] == [run_id]
    assert "not deleted" in noa_lab("runs", "delete", run_id, "--for-good").output
    noa_lab("runs", "delete", run_id)
    noa_lab("runs", "delete", run_id, "--for-good")
    assert listed("--deleted") == []


def test_export_and_import(run_id, tmp_path):
    file = tmp_path / "run.zip"
    assert str(file) in noa_lab("runs", "export", run_id, str(file)).stdout
    said = noa_lab("runs", "import", str(file)).stdout
    assert "4 of 4 cells" in said
    assert len(listed()) == 2
    file.write_bytes(b"nonsense")
    assert "no run that can be imported" in noa_lab("runs", "import", str(file)).output


def test_there_is_nothing_to_cancel_in_a_run_that_is_over(run_id):
    assert "nothing to stop" in noa_lab("runs", "cancel", run_id).stdout


def test_unknown_runs_are_named_everywhere(run_id):
    for command in ("show", "delete", "restore", "cancel"):
        done = noa_lab("runs", command, "r-ffffffff")
        assert "no run" in done.output, command


def test_an_estimate_starts_nothing(home, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text('name: e\nprompts: {a: "{{ t }}"}\ninputs: [{t: one}, {t: two}]\nmodels: [smollm2-135m]\n')
    said = noa_lab("compare", str(file), "--estimate")
    assert "2 answers" in said.stdout, said.output
    found = json.loads(noa_lab("compare", str(file), "--estimate", "--json").stdout)["estimate"]
    assert found["cells"] == 2
    assert listed() == []
