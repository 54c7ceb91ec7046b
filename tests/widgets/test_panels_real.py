"""The panels over the real Lab: the built llama.cpp, the embedded model, a real server."""

from __future__ import annotations

import psutil
import pytest
from test_panels import block, button, eventually, send

from noa_lab.experiments import score
from noa_lab.widgets import ComparePanel, ModelPanel, ServerPanel, SetupPanel
from noa_lab.workbench import Lab

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


def test_setup_and_models_show_what_is_here(runtime, model, home, opened):
    setup = opened(SetupPanel(Lab(home)))
    assert setup.settle()
    assert setup.view["state"] == "ok", setup.view["messages"]
    assert runtime.tag in dict(block(setup, "runtime-facts")["items"])["llama.cpp"]
    models = opened(ModelPanel(lab=Lab(home)))
    assert "It fits" in block(models, "verdict")["text"]
    send(models, "verify")
    assert models.settle()
    assert models.model.sha256 == model.sha256
    assert models.view["messages"][0]["kind"] == "ok"
    send(models, "fit", {"context_size": "8192"}, seq=2)
    assert models.settle()
    assert "llama-fit-params" in dict(block(models, "fit-facts")["items"])["Known from"]
    assert "Q4_K_M" in dict(block(models, "to")["options"])
    # The model of a test's home is borrowed: a link to the user's own.
    assert "frees 0.0 MB" in block(models, "removal")["text"]


def test_start_use_compare_and_stop_a_real_server(runtime, model, home, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab = Lab(home)
    panel = opened(ServerPanel("smollm2-135m", lab=lab))
    send(panel, "start")
    assert panel.settle(120)
    assert panel.server is not None, panel.view["messages"]
    assert panel.view["status"] == "smollm2-135m ready"
    pid = panel.server.pid
    assert str(panel.server.api_key) not in str(panel.get_state())
    assert block(panel, "log")["text"]
    compare = opened(ComparePanel(scorers=[score.contains("{{ expected }}")], lab=lab))
    typed = "text,expected\nThe capital of France is,Paris\nThe sky is,blue\nTwo plus two is,4\n"
    send(compare, "run", {"inputs_as": "csv", "inputs": typed, "temperature": "0", "max_tokens": "12"})
    assert compare.settle()
    assert compare.run is not None, compare.view["messages"]
    compare.run.result(120)
    send(compare, "refresh", seq=2)
    assert compare.settle()
    assert compare.view["status"] == "done"
    assert all(row[1]["text"] and row[2]["text"] for row in block(compare, "answers-table")["rows"])
    assert len(block(compare, "means-table")["rows"]) == 2
    assert "Not enough data" in block(compare, "verdict0")["text"]
    send(compare, "report", seq=3)
    assert compare.settle()
    assert (tmp_path / f"compare-{compare.run.run_id}.html").exists(), compare.view["messages"]
    send(panel, "refresh", seq=2)
    assert panel.settle()
    send(panel, "stop", seq=3, server=button(panel, "stop")["args"]["server"])
    assert panel.settle()
    assert lab.servers() == []
    eventually(lambda: not psutil.pid_exists(pid))  # whoever started it takes its end note of it in its own time
