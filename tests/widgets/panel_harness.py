"""A panel in a real browser without Jupyter: its module, a stub of the widget's model, JupyterLab's themes.

The page talks to the real Python panel: messages of the browser are played with `_handle_custom_msg`, traits go back with `sync`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from noa_lab.widgets._assets import CSS, ESM

THEMES = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>panel</title><style>
body { margin: 0; padding: 16px; background: var(--jp-layout-color0); font-family: sans-serif; }
</style><link rel="stylesheet" href="/theme.css"><link rel="stylesheet" href="/panel.css"></head>
<body><main><h1 hidden>Panel</h1><h2 hidden>Output</h2><div id="out"></div></main><script type="module">
import panel from "/panel.js";
const listeners = {}, state = {}, sent = [], shortcuts = [];
// What is typed is sent after a pause: the timers of such short pauses that are still running.
const pauses = new Set(), after = window.setTimeout, never = window.clearTimeout;
window.setTimeout = (act, wait) => {
  const id = after(() => { pauses.delete(id); act(); }, wait);
  if (wait === 300) pauses.add(id);
  return id;
};
window.clearTimeout = (id) => { pauses.delete(id); never(id); };
document.addEventListener("keydown", (event) => shortcuts.push(event.key));
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  on: (name, listener) => (listeners[name] ||= []).push(listener),
  off: (name, listener) => { listeners[name] = (listeners[name] || []).filter((one) => one !== listener); },
  send: (content) => sent.push(content),
  save_changes() { throw new Error("the browser must not write traits"); },
};
window.stub = {
  sent, shortcuts,
  start(first) { Object.assign(state, first); this.stop = panel.render({ model, el: document.getElementById("out") }); },
  put(next) {
    for (const [name, value] of Object.entries(next)) { state[name] = value; (listeners["change:" + name] || []).forEach((one) => one()); }
  },
  answer: (content) => (listeners["msg:custom"] || []).forEach((one) => one(content, [])),
  cut: () => listeners["comm_live_update"].forEach((one) => one.call({ model: { comm_live: false } })),
  take: () => sent.splice(0),
  typing: () => pauses.size > 0,
};
window.ready = true;
</script></body></html>"""


class Site:
    """Serves the page from 127.0.0.1: browsers refuse modules from files."""

    def __init__(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = site.pages.get(self.path.partition("?")[0], (None, b""))
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @cached_property
    def pages(self):
        pages = {
            "/panel.js": ("text/javascript", ESM.encode()),
            "/panel.css": ("text/css", CSS.encode()),
            "/favicon.ico": ("image/png", b""),
        }
        for theme in ("light", "dark"):
            pages[f"/{theme}.html"] = ("text/html", PAGE.replace("/theme.css", f"/{theme}.css").encode())
            pages[f"/{theme}.css"] = ("text/css", (THEMES / f"theme-{theme}-extension/index.css").read_bytes())
        return pages

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class PanelPage:
    """One panel on one page."""

    def __init__(self, page, site, panel, theme="light", settle=True):
        self.page, self.panel = page, panel
        self.problems = []
        self.answers = []
        panel.send = self.answers.append
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and self.problems.append(line.text))
        page.goto(f"{site.url}/{theme}.html")
        page.wait_for_function("window.ready")
        if settle:
            assert panel.settle()
        self._shown = None
        page.evaluate("first => window.stub.start(first)", self._state())
        if not settle:
            self.until(lambda: page.locator(".noa").get_attribute("data-state") == "busy")

    def _traits(self):
        """Both traits as they belong together: read while the panel is not just writing them."""
        idle = self.panel._pump._changed
        with idle:
            idle.wait_for(lambda: not self.panel._pump._running)
            return {"view": self.panel.view, "parts": self.panel.parts}

    def _state(self):
        state = self._traits()
        self._shown = json.dumps(state)
        return state

    def sync(self):
        """Play the browser's messages into Python and Python's traits into the browser, once."""
        for content in self.page.evaluate("window.stub.take()"):
            self.panel._handle_custom_msg(content, [])
        while self.answers:
            self.page.evaluate("content => window.stub.answer(content)", self.answers.pop(0))
        if json.dumps(self._traits()) != self._shown:
            self.page.evaluate("next => window.stub.put(next)", self._state())

    def until(self, done, seconds=30.0):
        """Keep both sides talking until `done()`; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sync()
            found = done()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"did not happen in {seconds} s; the panel shows: {self.page.inner_text('#out')}")

    def settle(self):
        """Until nothing is going on on either side."""
        self.page.wait_for_function("!window.stub.typing()")
        self.sync()
        assert self.panel.settle()
        self.sync()
