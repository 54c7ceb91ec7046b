"""A page of another origin in a real Chromium asks our server everything there is."""

from __future__ import annotations

import http.server
import threading

import pytest
from browsing import chromium_browser

from noa_lab import server
from noa_lab.server import ServerSettings

pytestmark = [pytest.mark.real, pytest.mark.browser]

ELSEWHERE = "127.0.0.2"
"""Another origin that needs no resolver; for Chromium it is as near as localhost, so that nothing but CORS can keep it out."""
SMALL = ServerSettings(context_size=256, slots=1)
PATHS = ("/health", "/props", "/slots", "/metrics", "/v1/models", "/completion", "/v1/chat/completions", "/")

TRY_ALL = """async ([base, paths, key]) => {
    const got = {};
    for (const path of paths) {
        for (const mode of ["cors", "no-cors"]) {
            try {
                const body = path === "/completion" ? JSON.stringify({prompt: "x", n_predict: 4}) : undefined;
                const headers = key ? {"X-Api-Key": key} : {};
                const answer = await fetch(base + path, {mode, headers, method: body ? "POST" : "GET", body});
                got[`${mode} ${path}`] = [answer.type, answer.status, (await answer.text()).slice(0, 200)];
            } catch (error) { got[`${mode} ${path}`] = ["blocked", 0, ""]; }
        }
    }
    return got;
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium_browser() as started:
        yield started


@pytest.fixture
def running(bare_home, runtime, model):
    with server.serve(runtime, model, SMALL, home=bare_home) as started:
        yield started


class Page(http.server.BaseHTTPRequestHandler):
    """An empty page that every origin may read."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(b"<title>page</title>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages():
    """The port of a web server on all addresses of this machine's own network."""
    with http.server.ThreadingHTTPServer(("", 0), Page) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


@pytest.fixture
def fetch_from(browser, running, pages):
    """What a page of this host gets of the server: type, status and text by request."""

    def fetch(host, *, key=None):
        page = browser.new_page()
        try:
            page.goto(f"http://{host}:{pages}/")
            open_to_all = page.evaluate("async (url) => (await fetch(url)).text()", f"http://127.0.0.1:{pages}/")
            assert "page" in open_to_all  # it can ask other origins on this machine
            return page.evaluate(TRY_ALL, [running.base_url, list(PATHS), key])
        finally:
            page.close()

    return fetch


@pytest.mark.parametrize("with_key", [False, True], ids=["without the key", "with the key"])
def test_a_page_of_another_origin_gets_nothing(fetch_from, running, with_key):
    got = fetch_from(ELSEWHERE, key=str(running.api_key) if with_key else None)
    assert len(got) == 2 * len(PATHS)
    for what, (kind, status, text) in got.items():
        assert kind in ("blocked", "opaque"), what  # an opaque answer shows a page neither its status nor its text
        assert (status, text) == (0, ""), what
    now = running.status()
    assert now.slots_busy == 0
    assert now.tokens_per_second is None  # nothing was generated for it


def test_a_page_of_this_machine_needs_the_key(fetch_from, running):
    """CORS lets pages of localhost ask (JupyterLab's own, for example): with the key they are answered, without it as anybody else."""
    without, given = (fetch_from("localhost", key=key) for key in (None, str(running.api_key)))
    assert without["cors /completion"][1] in (0, 401)
    assert without["cors /props"][1] in (0, 401)
    assert not any("model_path" in text or "content" in text for _, _, text in without.values())
    assert given["cors /props"][:2] == ["cors", 200]
    assert "content" in given["cors /completion"][2]
