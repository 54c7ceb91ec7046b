"""A real JupyterLab in a real Chromium: one server on a port of its own, with configuration of its own; one page a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from browsing import chromium_browser

SHOTS = Path(__file__).parents[2] / "screenshots"
QUIET = '{"fetchNews": "false", "checkForUpdates": false}'
ALLOWED_ERRORS = re.compile(
    r"favicon|404 \(Not Found\)|Failed to load resource|WebSocket connection|language server|lsp|debugger state",
    re.IGNORECASE,
)
CANCELED = re.compile(r"Canceled future for (?!execute)\w+_request message before replies were done")
"""JupyterLab's own requests (about subshells, comms, the kernel), which a restart or a reload overtakes where the machine is busy.

It reports them as errors of the page or in the console, by where it was waiting.
"""


class JupyterLab:
    """A running JupyterLab; `root` is the folder it shows.

    Attributes:
        url: Where it answers.
        root: The folder that it shows.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._folder = folder
        self._log = folder / "jupyterlab.log"
        notices = folder / "settings/@jupyterlab/apputils-extension"
        for path in (self.root, notices):
            path.mkdir(parents=True)
        (notices / "notification.jupyterlab-settings").write_text(QUIET)
        self.process = subprocess.Popen(
            self._command(), env=self._environment(), stdout=self._log.open("wb"), stderr=subprocess.STDOUT
        )
        self.url = self._wait()

    def _command(self) -> list[str]:
        options = "--no-browser --ip=127.0.0.1 --port=0 --IdentityProvider.token= --ServerApp.password= --allow-root"
        shown = [f"--ServerApp.root_dir={self.root}", "--expose-app-in-browser", "--LabApp.extension_manager=readonly"]
        return [sys.executable, "-m", "jupyterlab", *options.split(), *shown]

    def _environment(self) -> dict[str, str]:
        private = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTER_DATA_DIR": "data",
            "IPYTHONDIR": "ipython",
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        tests = os.pathsep.join([str(Path(__file__).parents[1] / "widgets"), str(Path(__file__).parents[2])])
        return {
            **os.environ,
            **{name: str(self._folder / value) for name, value in private.items()},
            "PATH": path,
            "PYTHONPATH": tests,
        }

    def _wait(self) -> str:
        """Wait until it answers on the port that it took and wrote down."""
        end = time.monotonic() + 120
        written = self._folder / f"runtime/jpserver-{self.process.pid}.json"
        while time.monotonic() < end and self.process.poll() is None:
            try:
                url = f"http://127.0.0.1:{json.loads(written.read_text())['port']}"
                urllib.request.urlopen(f"{url}/api/status", timeout=2).read()
            except (OSError, ValueError):
                time.sleep(0.1)
            else:
                return url
        self.close()
        pytest.fail(f"JupyterLab did not start:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """End it and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells into its folder; returns the name."""
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, self.root / name)
        return name


class LabPage:
    """A notebook open in JupyterLab.

    Attributes:
        page: The page, for playwright.
        outputs: What the cells put out; look here, since bare text also stands in the code editor.
    """

    def __init__(self, page, lab: JupyterLab, name: str) -> None:
        self.page, self._lab, self._name = page, lab, name
        self.errors: list[str] = []
        page.on("pageerror", self._failed)
        page.on("console", self._heard)
        page.goto(f"{lab.url}/lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_for("window.jupyterapp.shell.currentWidget?.context")
        # Running cells before the session is ready makes JupyterLab ask for a kernel.
        page.evaluate(
            """async () => {
              const panel = window.jupyterapp.shell.currentWidget;
              await panel.context.ready;
              await panel.sessionContext.ready;
              while (panel.sessionContext.session?.kernel?.status !== "idle") await new Promise((done) => setTimeout(done, 100));
            }"""
        )
        self.outputs = page.locator(".jp-OutputArea-output")

    def _failed(self, error) -> None:
        if not CANCELED.search(str(error)):
            self.errors.append(str(error))

    def _heard(self, line) -> None:
        if line.type == "error" and not (ALLOWED_ERRORS.search(line.text) or CANCELED.search(line.text)):
            self.errors.append(line.text)

    def wait_for(self, true: str) -> None:
        """Wait until this JavaScript is true in the page."""
        self.page.wait_for_function(true)

    def command(self, name: str, **arguments) -> None:
        """Run a command of JupyterLab; its promise is not awaited: with a dialog open it never ends."""
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments])

    def run_all(self) -> None:
        """Run all cells; wait for what they show."""
        self.command("notebook:run-all-cells")

    def all_have_run(self) -> None:
        """Wait until every cell of code has run."""
        cells = "[...window.jupyterapp.shell.currentWidget.content.model.cells]"
        self.wait_for(f"() => {cells}.every((cell) => cell.type !== 'code' || cell.executionCount)")

    def save(self) -> None:
        """Save the notebook and wait until that is done."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def saved(self, true) -> dict:
        """What is in the notebook's file, once all of it is written and `true` of it."""
        path = self._lab.root / self._name
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                notebook = json.loads(path.read_text())
            except ValueError:  # JupyterLab is just writing it
                notebook = None
            if notebook is not None and true(notebook):
                return notebook
            time.sleep(0.05)
        pytest.fail(f"{path.name} was not saved like that")

    def theme(self, name: str) -> None:
        """Change the theme: "JupyterLab Light", "JupyterLab Dark"."""
        self.command("apputils:change-theme", theme=name)
        self.page.wait_for_selector(f"body[data-jp-theme-name='{name}']", state="attached")
        # JupyterLab hides itself for a frame to have all of it drawn anew.
        self.wait_for("() => !document.querySelector('.jp-LabShell').classList.contains('lm-mod-hidden')")

    def kernel(self, code: str) -> str:
        """Run code in the notebook's kernel, silently beside the cells; returns what it printed."""
        return self.page.evaluate(
            """async (code) => {
              const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
              const future = kernel.requestExecute({ code, store_history: false });
              let text = "";
              future.onIOPub = (message) => {
                if (message.header.msg_type === "stream") text += message.content.text;
                if (message.header.msg_type === "error") text += message.content.evalue;
              };
              await future.done;
              return text;
            }""",
            code,
        )

    def shot(self, name: str, locator=None) -> None:
        """Take a screenshot of the page, or of a part of it, into screenshots/."""
        SHOTS.mkdir(exist_ok=True)
        target = locator if locator is not None else self.page
        target.screenshot(path=str(SHOTS / f"{name}.png"), caret="hide", animations="disabled")

    def axe(self, selector: str) -> list[tuple[str, list[str]]]:
        """What axe finds wrong below `selector`."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, context=selector).response["violations"]
        return [(one["id"], [str(node["target"]) for node in one["nodes"]]) for one in found]


@pytest.fixture(scope="session")
def chromium():
    """One Chromium for all tests."""
    with chromium_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    """One JupyterLab for all tests; ended, with its kernels, at the end."""
    server = JupyterLab(tmp_path_factory.mktemp("jupyterlab"))
    yield server
    server.close()


@pytest.fixture
def page(chromium, jupyterlab, request):
    """Opens a notebook of `jupyterlab.root` in a browser of its own; any error that the page reports fails the test."""
    opened: list[LabPage] = []
    contexts = []

    def open_notebook(name: str, *, width: int = 1400, height: int = 1000) -> LabPage:
        context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.set_default_timeout(60_000)
        contexts.append(context)
        opened.append(LabPage(context.new_page(), jupyterlab, name))
        return opened[-1]

    yield open_notebook
    failed = getattr(request.node, "failed", False)
    errors = [error for shown in opened for error in shown.errors]
    for number, shown in enumerate(opened):
        if failed:
            shown.shot(f"failed-{request.node.name}-{number}")
            print(jupyterlab.log_tail())
        shown.page.evaluate("() => window.jupyterapp.shell.currentWidget?.sessionContext.shutdown()")
    for context in contexts:
        context.close()
    assert not errors


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Let the `page` fixture know that its test failed."""
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed
