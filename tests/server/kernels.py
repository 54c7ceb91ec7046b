"""Real Jupyter kernels that hold servers, as notebooks do."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from server_fakes import FakeLlama

from noa_lab.paths import Home

SECONDS = 120.0
TOKEN = "the-token-of-this-test"


class Kernel:
    """A kernel, driven as a front end drives it.

    Args:
        client: Knows where it is.
    """

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self._client.start_channels()
        end = time.monotonic() + SECONDS
        while True:
            try:
                self._client.wait_for_ready(timeout=SECONDS)
                return
            except RuntimeError:  # on a busy machine a heartbeat that is late counts as none
                if time.monotonic() > end:
                    raise

    def run(self, code: str, *, wait: bool = True) -> str:
        """Run a cell; what it printed. With `wait=False` it returns its message id at once."""
        message = self._client.execute(textwrap.dedent(code))
        return self.result(message) if wait else message

    def result(self, message: str) -> str:
        """Wait for a cell; what it printed, or the names of the error it ended with."""
        printed: list[str] = []
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                news: dict[str, Any] = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if news["parent_header"].get("msg_id") != message:
                continue
            content = news["content"]
            if news["msg_type"] == "stream":
                printed.append(content["text"])
            elif news["msg_type"] == "error":
                printed.append(f"{content['ename']}: {content['evalue']}")
            elif news["msg_type"] == "status" and content["execution_state"] == "idle":
                return "".join(printed)
        pytest.fail(f"the cell did not end: {''.join(printed)}")


class Notebook(Kernel):
    """A kernel that was started for this test.

    Args:
        home: NOA_LAB_HOME of the kernel.
    """

    def __init__(self, home: Home) -> None:
        self._manager = KernelManager(kernel_name="python3")
        # The kernel of this very environment, whatever kernelspec is installed.
        self._manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager.start_kernel(env={**os.environ, "NOA_LAB_HOME": str(home.root)})
        super().__init__(self._manager.blocking_client())

    @property
    def pid(self) -> int:
        return self._manager.provisioner.pid

    def interrupt(self) -> None:
        """The stop button."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def shut_down(self) -> None:
        """As when a notebook's kernel is shut down from the menu."""
        self._manager.shutdown_kernel(now=False)

    def restart(self) -> None:
        """As from the menu."""
        self._manager.restart_kernel(now=False)
        self._client.wait_for_ready(timeout=SECONDS)

    def close(self) -> None:
        """End it, whatever it does."""
        self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


class JupyterLab:
    """A JupyterLab without a browser, with one kernel, which it has started as it does for a page.

    Args:
        folder: Where its own files go.
        home: NOA_LAB_HOME of its kernels.
    """

    def __init__(self, folder: Path, home: Home) -> None:
        folder.mkdir()
        options = f"--no-browser --ip=127.0.0.1 --port=0 --allow-root --ServerApp.root_dir={folder}"
        private = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        environment = {**os.environ, "NOA_LAB_HOME": str(home.root), "JUPYTER_TOKEN": TOKEN}
        self._folder = folder
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options.split()],
                env={**environment, **{name: str(folder / name) for name in private}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            made = self._ask("/api/kernels", {"name": "python3"})
            file = folder / "JUPYTER_RUNTIME_DIR" / f"kernel-{made['id']}.json"
            self._client = BlockingKernelClient(connection_file=str(file))
            self._client.load_connection_file()
            self.kernel = Kernel(self._client)
        except BaseException:
            self.kill()
            raise

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        """Ask it as soon as it answers, at the address that it has written down."""
        written = self._folder / "JUPYTER_RUNTIME_DIR" / f"jpserver-{self.process.pid}.json"
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                url = f"http://127.0.0.1:{json.loads(written.read_text())['port']}{path}"
                asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
                return json.loads(urllib.request.urlopen(asked, timeout=SECONDS).read())
            except (FileNotFoundError, ConnectionError, ValueError):
                time.sleep(0.05)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError):
                    raise
                time.sleep(0.05)
        pytest.fail(f"JupyterLab did not start: {(self._folder / 'log').read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """SIGKILL; its kernels find out by themselves."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it with its kernels, however far it is."""
        self._client.stop_channels()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


def serve_fake(home: Home, fake: FakeLlama) -> str:
    """The code of a cell that serves the fake and prints the server's pid."""
    return f"""
        from pathlib import Path
        from noa_lab import server
        from noa_lab.models import ModelFile, ModelMetadata
        from noa_lab.paths import Home
        from noa_lab.runtime import Runtime
        folder = Path({str(fake.folder)!r})
        runtime = Runtime("fake", folder, "path", "b1", 1, "c0ffee", threads=2, tools=("llama-server",))
        metadata = ModelMetadata("llama", "Fake", 1, 8192, 1, 8, 1, 1, 32, "Q4_1", None, 1)
        path = folder / "tiny.gguf"
        model = ModelFile("tiny", path, "", path.stat().st_size, str(path), False, metadata)
        running = server.serve(runtime, model, home=Home(Path({str(home.root)!r})))
        print(running.pid)
    """


SERVE_REAL = """
    import noa_lab as lab
    running = lab.serve("smollm2-135m", context_size=512)
    print(running.pid)
"""


def pid_of(printed: str) -> int:
    """The pid that a cell has printed; progress may stand before it."""
    return int(printed.rsplit(maxsplit=1)[-1])
