"""`noa-lab test-server`: the health and completion check of ours, of llama-servers of others, and of any server that lists its models."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from noa_lab import server
from noa_lab.cli._app import cli
from noa_lab.errors import BadInput


class OnlyOpenAI(BaseHTTPRequestHandler):
    """A server that has OpenAI's routes alone, as those of other programs do."""

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "theirs"}]} if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.path == "/v1/completions" and asked["model"] == "theirs"
        self._answer({"choices": [{"text": " Ada."}], "usage": {"completion_tokens": 3}} if right else None)

    def _answer(self, content: object) -> None:
        data = json.dumps(content or {"error": {"message": "not here"}}).encode()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def only_openai() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OnlyOpenAI) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


@pytest.fixture
def command(bare_home, monkeypatch):
    """Runs `noa-lab test-server`; its exit code and what it printed."""
    monkeypatch.setenv("NOA_LAB_HOME", str(bare_home.root))
    monkeypatch.delenv("NOA_LAB_API_KEY", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["test-server", *arguments])
        return done.exit_code, done.output

    return run


def test_nothing_that_answers_and_no_address_are_told_apart():
    results = server.test_server("http://127.0.0.1:9")
    assert [(one.name, one.ok) for one in results] == [("health", False), ("completion", False)]
    assert all(one.detail and one.ms >= 0 for one in results)
    for wrong in ("127.0.0.1:8080", "ftp://x", "http://", "http://x:abc"):
        with pytest.raises(BadInput):
            server.test_server(wrong)


def test_a_wrong_key_is_named(serve):
    running = serve()
    health, completion = server.test_server(running.base_url, "wrong")
    assert (health.ok, completion.ok) == (True, False)
    assert "Invalid API Key" in completion.detail


def test_a_server_that_only_lists_its_models_is_checked_by_openais_routes(only_openai):
    for address in (only_openai, f"{only_openai}/v1", f"{only_openai}/"):
        health, completion = server.test_server(address)
        assert (health.ok, completion.ok, completion.tokens) == (True, True, 3)
        assert "theirs" in health.detail


def test_the_command_checks_ours_by_name_or_alone_and_any_by_address(serve, command, only_openai, monkeypatch):
    running = serve()
    for arguments in ((), ("tiny",), (only_openai,)):
        code, out = command(*arguments)
        assert code == 0, out
        assert out.count("ok  ") == 2
        assert " ms " in out
    monkeypatch.setenv("NOA_LAB_API_KEY", "somebody else's")
    code, out = command(f"{running.base_url.replace('127.0.0.1', 'localhost')}/v1", "--json")
    assert code == 0, "it is ours, so that its key is known"
    assert [check["ok"] for check in json.loads(out)["checks"]] == [True, True]


def test_the_key_for_a_server_of_others_is_the_environments(command, bare_home, tmp_path, serve, monkeypatch):
    running = serve()
    monkeypatch.setenv("NOA_LAB_HOME", str(tmp_path / "another"))
    code, out = command(running.base_url)
    assert code == 1
    assert "FAIL" in out
    monkeypatch.setenv("NOA_LAB_API_KEY", str(running.api_key))
    assert command(running.base_url)[0] == 0


def test_the_command_fails_where_nothing_answers_or_nothing_is_up(command):
    assert command("http://127.0.0.1:9")[0] == 1
    assert command("ftp://x")[0] == 2
    code, out = command()
    assert code != 0
    assert "No server of noa_lab is up" in out
