"""A page of another origin in a real Chromium, and every place a key could have got to."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from browsing import chromium_browser
from kernels import SERVE_REAL, Notebook

from noa_lab import server
from noa_lab.server import ServerSettings
from noa_lab.server._record import record_folder

pytestmark = [pytest.mark.real, pytest.mark.browser]

SMALL = ServerSettings(context_size=256, slots=1)

TRY_ALL = """async ([base, paths]) => {
    const got = {};
    for (const path of paths) {
        for (const mode of ["cors", "no-cors"]) {
            try {
                const body = path === "/completion" ? JSON.stringify({prompt: "x", n_predict: 4}) : undefined;
                const answer = await fetch(base + path, {mode, method: body ? "POST" : "GET", body, credentials: "include"});
                got[mode + path] = [answer.type, answer.status, (await answer.text()).slice(0, 200)];
            } catch (error) { got[mode + path] = ["blocked", 0, ""]; }
        }
    }
    return got;
}"""


@pytest.fixture
def elsewhere(tmp_path):
    """The address of a page of another origin: not localhost, but a name that a browser resolves to this machine."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        yield f"http://127.0.0.2:{pages.server_port}".replace("127.0.0.2", "elsewhere.example"), pages.server_port
        pages.shutdown()
        thread.join()


def test_a_page_of_another_origin_gets_nothing(bare_home, runtime, model, elsewhere):
    address, _ = elsewhere
    with server.serve(runtime, model, SMALL, home=bare_home) as running, chromium_browser() as browser:
        page = browser.new_page()
        try:
            # The name exists for this page alone: Chromium is told what the host answers, whatever a resolver says.
            page.route(
                f"{address}/**", lambda route: route.fulfill(body="<title>elsewhere</title>", content_type="text/html")
            )
            page.goto(f"{address}/")
            assert page.evaluate("location.origin") == address
            paths = [
                "/health",
                "/props",
                "/slots",
                "/metrics",
                "/v1/models",
                "/completion",
                "/v1/chat/completions",
                "/",
            ]
            got = page.evaluate(TRY_ALL, [running.base_url, paths])
        finally:
            page.close()
        assert len(got) == 2 * len(paths)
        for what, (kind, status, text) in got.items():
            assert kind in ("blocked", "opaque"), what  # an opaque answer shows a page neither its status nor its text
            assert (status, text) == (0, ""), what
        status = running.status()
        assert status.slots_busy == 0
        assert status.tokens_per_second is None  # nothing was generated for it


def test_a_page_of_this_machine_needs_the_key(bare_home, runtime, model):
    """CORS lets pages of localhost ask (a notebook's own page, for example); without the key they get no more than anybody."""
    with server.serve(runtime, model, SMALL, home=bare_home) as running, chromium_browser() as browser:
        page = browser.new_page()
        try:
            page.route(
                "http://localhost:9/**",
                lambda route: route.fulfill(body="<title>here</title>", content_type="text/html"),
            )
            page.goto("http://localhost:9/")
            got = page.evaluate(TRY_ALL, [running.base_url, ["/props", "/completion"]])
        finally:
            page.close()
        assert {status for _, status, _ in got.values()} <= {0, 401}
        assert not any("model_path" in text or "content" in text for _, _, text in got.values())


def test_the_key_is_in_no_notebook_log_argument_environment_of_others_or_error(home, tmp_path):
    """Everything that a session leaves: the saved notebook, logs, what `ps` shows, reprs, errors, the shell's history of the checks."""
    book = Notebook(home)
    try:
        printed = book.run(SERVE_REAL)
        printed += book.run(
            "print(running, repr(running.api_key), running._repr_html_(), running.status(), vars(running.settings))"
        )
        printed += book.run("running.client().completion(lab.CompletionRequest(prompt='x ' * 5000, max_tokens=1))")
        printed += book.run("print(running.engine(), running.client()); print(chr(10).join(running.logs(500)))")
        [status] = server.servers(home)
        record = server.find(home, status.name)
        key = record.api_key
        arguments = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        outputs = [
            subprocess.run([sys.executable, "-m", "noa_lab.cli", *command], capture_output=True, text=True)
            for command in (
                ["status"],
                ["status", status.name],
                ["status", "--json"],
                ["logs", status.name],
                ["test-server"],
            )
        ]
        shown = subprocess.run(
            [sys.executable, "-m", "noa_lab.cli", "status", "--show-key"], capture_output=True, text=True
        )
        files = [path for path in home.root.rglob("*") if path.is_file() and not path.is_relative_to(home.root / "models")
                 and "runtimes" not in path.parts and path.name != "record.json"]  # fmt: skip
        texts = [printed, json.dumps(status.as_dict()), *arguments, *(out.stdout + out.stderr for out in outputs)]
        texts += [shown.stdout, shown.stderr, *(path.read_text(errors="replace") for path in files)]
        assert "ContextOverflow" in printed
        assert "masked" in printed
        assert all(out.returncode == 0 for out in outputs)
        assert shown.returncode == 2  # not a terminal
        assert not any(key in text for text in texts)
        holders = [psutil.Process(one) for one in (record.watcher.pid, book.pid)]
        assert not any(key in "".join(process.environ().values()) for process in holders)
        assert (Path(record_folder(home, status.name)) / "record.json").stat().st_mode & 0o077 == 0
    finally:
        book.close()


def test_the_key_is_in_no_saved_notebook(home, tmp_path):
    """A notebook with a server, its panel and its snippets, executed and saved as nbmake does it."""
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "import os, noa_lab as lab",
        "server = lab.serve('smollm2-135m', context_size=256, slots=1)\nserver",
        "os.environ['NOA_LAB_API_KEY'] = server.api_key\nserver.api_key",
        "panel = lab.ServerPanel(); panel",
        "panel.settle(); panel",
        "from pathlib import Path; Path('key').write_text(str(server.api_key)); server.stop()",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(book, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    saved = nbformat.writes(book)
    key = (tmp_path / "key").read_text()
    assert len(key) >= 32
    assert key not in saved
    assert "NOA_LAB_API_KEY" in saved
