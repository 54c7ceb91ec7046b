"""Pages in a real Chromium ask the router: those of this machine get answers with the key, those of other origins get nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from noa_lab.paths import Home
from noa_lab.server import Router
from noa_lab.server._http import ask
from noa_lab.workbench import Lab

pytestmark = [pytest.mark.browser, pytest.mark.real]

ASK = """
async ([url, key, path, options]) => {
    const headers = {...(key ? {Authorization: `Bearer ${key}`} : {}), ...(options.headers || {})};
    try {
        const answer = await fetch(url + path, {...options, headers});
        return {type: answer.type, status: answer.status, text: await answer.text()};
    } catch (error) {
        return {error: String(error)};
    }
}
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A web server with an empty page. Chromium asks it under any name that ends with .localhost too."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as web:
        serving = threading.Thread(target=web.serve_forever)
        serving.start()
        yield web.server_address[1]
        web.shutdown()
        serving.join()


@pytest.fixture
def router(home: Home) -> Iterator[Router]:
    """A router whose one model is loaded by whoever gets through to it."""
    with Lab(home).route(["smollm2-135m"], port=0) as running:
        yield running


def served(router: Router) -> int:
    """Requests that have reached a model."""
    _, text = ask(router.base_url, "/metrics", api_key=str(router.api_key))
    return sum(
        int(line.rsplit(b" ", 1)[1]) for line in text.splitlines() if line.startswith(b"noa_lab_router_requests_total{")
    )


@pytest.mark.timeout(180)
def test_only_pages_of_this_machine_get_answers(router, port, chromium):
    key = str(router.api_key)
    page = chromium.new_page()

    def fetch(path: str, *, with_key: bool = True, **options: object) -> dict[str, object]:
        return page.evaluate(ASK, [router.base_url, key if with_key else "", path, options])

    page.goto(f"http://127.0.0.1:{port}/")
    assert "smollm2-135m" in fetch("/v1/models")["text"], "a notebook's page may ask"
    assert fetch("/v1/models", with_key=False)["status"] == 401

    page.goto(f"http://evil.localhost:{port}/")
    for path in ("/v1/models", "/health", "/props"):
        assert "Failed to fetch" in str(fetch(path)["error"]), path
    body = '{"prompt": "Hello", "n_predict": 1}'
    assert "error" in fetch("/completion", method="POST", body=body, headers={"Content-Type": "application/json"})
    # What needs no leave of the server before it is sent: a form, a picture, a script. It arrives, and gets nothing.
    blind = fetch("/completion", with_key=False, method="POST", body=body, mode="no-cors")
    assert (blind["type"], blind["text"]) == ("opaque", "")
    for tag, source in (("script", "src"), ("img", "src")):
        loaded = page.evaluate(
            """([tag, source, url]) => new Promise((done) => {
                const element = document.createElement(tag);
                element.onload = () => done("loaded");
                element.onerror = () => done("refused");
                element[source] = url;
                document.head.append(element);
            })""",
            [tag, source, f"{router.base_url}/v1/models"],
        )
        assert loaded == "refused"

    # A name that was made to point here after the page was loaded: then the page's own origin is the router's port.
    answer = page.goto(router.base_url.replace("127.0.0.1", "evil.localhost") + "/v1/models")
    assert answer is not None
    assert answer.status == 403
    assert "smollm2" not in answer.text()
    rebound = page.evaluate(ASK, ["", key, "/v1/models", {}])
    assert rebound["status"] == 403
    assert "smollm2" not in rebound["text"]
    page.close()
    assert served(router) == 0, "nothing has reached a model"
