"""The real llama-server with the real model: what the fake stands in for has to be true here as well."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest
from server_fakes import FakeLlama, gone_within, wait_until

from noa_lab import server
from noa_lab.errors import ServerExited
from noa_lab.inference import CompletionRequest
from noa_lab.paths import Home
from noa_lab.server import ServerSettings
from noa_lab.server._http import ask, ask_json
from noa_lab.server._record import read_record, record_folder

pytestmark = pytest.mark.real

SMALL = ServerSettings(context_size=1024, slots=2)


@pytest.fixture(scope="module")
def running(tmp_path_factory, runtime, model):
    with server.serve(runtime, model, SMALL, home=Home(tmp_path_factory.mktemp("shared"))) as one:
        yield one


def test_it_answers_as_itself_and_ends(bare_home, runtime, model):
    messages = []
    with server.serve(
        runtime, model, SMALL, home=bare_home, report=lambda progress: messages.append(progress.message)
    ) as running:
        assert running.state == "ready"
        assert running.notes == ()
        assert "reading the model" in messages
        props = ask_json(running.base_url, "/props", api_key=running.api_key)
        assert props["model_alias"] == model.name
        assert props["model_path"] == str(model.path)
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 1024  # per slot
        assert props["ui"] is False
        for check in server.test_server(running.base_url, running.api_key):
            assert check.ok, check.detail
        status = running.status()
        assert (status.state, status.slots_total) == ("ready", 2)
        assert status.tokens_per_second > 0
        assert status.memory_bytes > 50 << 20
        pid = running.pid
    gone_within(pid, 2)


def test_a_stranger_gets_nothing_from_it(running):
    assert ask(running.base_url, "/health")[0] == 200
    for path in ("/props", "/slots", "/metrics", "/v1/models"):
        assert ask(running.base_url, path)[0] == 401
        assert ask(running.base_url, path, api_key="guess")[0] == 401
    listeners = [
        one.laddr.ip for one in psutil.Process(running.pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN
    ]
    assert listeners == ["127.0.0.1"]


def test_the_key_and_the_environment(running):
    process = psutil.Process(running.pid)
    assert running.api_key not in " ".join(process.cmdline())
    environment = process.environ()
    assert environment["LLAMA_API_KEY"] == running.api_key
    assert not [name for name in environment if name.startswith(("LLAMA_ARG", "AIP_", "HF_", "AWS_"))]
    assert os.listdir(environment["XDG_CONFIG_HOME"]) == []
    assert running.api_key not in running.log.read_text()


def test_an_engine_and_a_client_talk_to_it(running):
    from noa_lab.inference import InferenceConfig

    engine = running.engine()
    completion = engine.generate("The capital of France is", InferenceConfig(max_tokens=4, temperature=0.0))
    assert completion.completion_tokens == 4
    engine.close()
    assert running.client().health_check()


def test_it_ends_in_the_middle_of_a_stream(bare_home, runtime, model):
    """An open stream must not keep it: llama-server's first SIGTERM waits for streams."""
    import http.client
    import json

    running = server.serve(runtime, model, SMALL, home=bare_home)
    connection = http.client.HTTPConnection("127.0.0.1", int(running.base_url.rpartition(":")[2]), timeout=10)
    headers = {"Authorization": f"Bearer {running.api_key}"}
    connection.request("POST", "/completion", json.dumps({"prompt": "Once", "n_predict": 900, "stream": True}), headers)
    response = connection.getresponse()
    assert response.read(5)
    pid = running.pid
    start = time.perf_counter()
    running.release()
    gone_within(pid, 2)
    assert time.perf_counter() - start < 2
    connection.close()


def test_sigkill_of_watcher_and_of_server(bare_home, runtime, model):
    one = server.serve(runtime, model, SMALL, home=bare_home)
    pid, address = one.pid, one.base_url
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: one.restarts == 1)
    completion = one.client().completion(CompletionRequest(prompt="Once upon a time", max_tokens=3, temperature=0.0))
    assert completion.tokens_predicted == 3  # it was asked in the gap, and answered after the restart
    wait_until(lambda: one.pid not in (0, pid))
    assert one.base_url == address
    os.kill(read_record(record_folder(bare_home, one.name)).watcher.pid, signal.SIGKILL)
    gone_within(one.pid, 2)
    one.release()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_request_in_its_prefill_is_answered_after_the_restart(bare_home, runtime, model, number):
    settings = ServerSettings(context_size=2048, slots=1, batch_size=64, hang_seconds=6.0)
    with server.serve(runtime, model, settings, home=bare_home) as one:
        answers = []
        request = CompletionRequest(prompt="one two three four five " * 160, max_tokens=3, temperature=0.0)
        thread = threading.Thread(target=lambda: answers.append(one.client().completion(request)))
        thread.start()
        # /slots is answered between two micro-batches: there are 13 of them, and this is after one of the first.
        wait_until(lambda: any(slot["read"] for slot in one.status().slots), 60)
        os.kill(one.pid, number)
        thread.join(120)
        assert answers[0].tokens_predicted == 3
        assert one.restarts == 1


def test_embeddings_beside_completions(bare_home, runtime, model):
    with server.serve(
        runtime, model, ServerSettings(context_size=512, slots=1, embeddings=True), home=bare_home
    ) as one:
        assert one.notes == ()
        assert all(check.ok for check in server.test_server(one.base_url, one.api_key))
        embedded = ask_json(
            one.base_url, "/v1/embeddings", api_key=one.api_key, body={"input": "word " * 400}, timeout=60
        )
        assert len(embedded["data"][0]["embedding"]) == model.metadata.embedding_length


def test_every_number_format_and_load_mode_is_understood(bare_home, runtime, model):
    settings = ServerSettings(
        context_size=256,
        slots=1,
        cache_type_k="q8_0",
        cache_type_v="q4_0",
        load_mode="none",
        options={"cache-reuse": 64},
    )
    with server.serve(runtime, model, settings, home=bare_home) as one:
        assert one.notes == ()
        line = psutil.Process(one.pid).cmdline()
        assert {"q8_0", "q4_0", "none", "--cache-reuse"} <= set(line)
        assert server.test_server(one.base_url, one.api_key)[1].ok


def test_a_broken_model_is_named(bare_home, runtime, model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 64)
    with pytest.raises(ServerExited) as caught:
        server.serve(runtime, replace(model, name="broken", path=broken, sha256=""), SMALL, home=bare_home)
    error = caught.value
    assert (error.fields["kind"], error.fields["exit_code"]) == ("model", 1)
    assert "verify" in error.fix
    assert error.fields["log_tail"]


def test_this_binary_knows_every_flag(running, runtime):
    if runtime.server_flags:
        assert {"-m", "--cors-origins", "--offline", "-no-kvu", "--no-ui"} <= set(runtime.server_flags)
    assert running.notes == ()


def test_the_fake_is_like_the_real_one(running, bare_home, tmp_path):
    """Same answers, status by status, for what this room asks."""
    fake = FakeLlama(tmp_path)
    with server.serve(fake.runtime, fake.model, SMALL, home=bare_home) as imitation:
        for path in ("/health", "/props", "/slots", "/metrics", "/nothing"):
            for key in ("", "wrong", "right"):
                answers = [
                    ask(one.base_url, path, api_key=one.api_key if key == "right" else key)[0]
                    for one in (running, imitation)
                ]
                assert answers[0] == answers[1], (path, key)
        lines = [
            [line.split(" ", 1)[1] for line in one.logs() if "listening on http" in line]
            for one in (running, imitation)
        ]
        cut = [line[0].rpartition(":")[0] for line in lines]
        assert cut[0] == cut[1]
