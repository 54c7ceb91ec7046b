"""`noa-lab serve` with a server.yaml, or with several models: one address for all of them."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from test_terminal import interrupted

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_ctrl_c_lets_go_of_the_router_and_its_models(noa_lab):
    code, out, errors = interrupted(
        "serve", "--config", ROOT / "configs/server.yaml", "--port", 0, until="Ctrl-C lets go of it"
    )
    assert code == 0, errors
    assert "router is ready at http://127.0.0.1:" in out
    assert "Let go of router" in out
    end = time.monotonic() + 10
    while json.loads(noa_lab("status", "--json").stdout)["servers"]:
        assert time.monotonic() < end, "it ends within 2 s of its last holder"


@pytest.mark.real
def test_one_that_stays_is_shown_asked_and_stopped(noa_lab, runtime, model, tmp_path):
    second = tmp_path / "second.gguf"
    second.symlink_to(model.path)
    started = noa_lab("serve", "smollm2-135m", second, "--port", 0, "--detach", "--context", 256)
    assert started.returncode == 0, started.stderr
    assert "It stays until: noa-lab stop router" in started.stdout
    assert noa_lab("test-server").returncode == 0
    found = {one["name"]: one for one in json.loads(noa_lab("status", "--json").stdout)["servers"]}
    assert set(found) == {"router", "smollm2-135m"}
    assert (found["router"]["kind"], found["router"]["model"]) == ("router", "smollm2-135m, second")
    assert found["smollm2-135m"]["settings"]["context_size"] == 256, "the call stands above the file"
    assert "loaded smollm2-135m" in noa_lab("logs", "router").stdout
    stopped = noa_lab("stop", "--all")
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(noa_lab("status", "--json").stdout)["servers"] == []


@pytest.mark.real
def test_the_same_model_twice_is_refused(noa_lab, model):
    twice = noa_lab("serve", "smollm2-135m", model.path, "--port", 0)
    assert twice.returncode == 2
    assert "which is there already" in twice.stderr


def test_what_has_no_effect_for_several_is_refused(noa_lab):
    refused = noa_lab("serve", "smollm2-135m", "qwen3-0.6b", "--allow-oversize")
    assert refused.returncode == 2
    assert "NOA_LAB_ROUTER__MEMORY_BUDGET" in refused.stderr


def test_a_taken_port_and_a_wrong_file_are_told_with_their_exit_codes(noa_lab, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as thief:
        taken = noa_lab("serve", "--config", ROOT / "configs/server.yaml", "--port", thief.getsockname()[1])
    assert taken.returncode == 1
    assert "is taken by" in taken.stderr
    file = tmp_path / "server.yaml"
    file.write_text("server:\n  prot: 1\n")
    wrong = noa_lab("serve", "--config", file)
    assert wrong.returncode == 2
    assert f"{file}, line 2" in wrong.stderr
    assert "Did you mean 'port'?" in wrong.stderr
