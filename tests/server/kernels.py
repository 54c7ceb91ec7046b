"""Real Jupyter kernels that hold servers, as notebooks do."""

from __future__ import annotations

import os
import queue
import signal
import sys
import textwrap
import time
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from server_fakes import FakeLlama

from noa_lab.paths import Home

SECONDS = 120.0


class Notebook:
    """A kernel of its own process, driven as a front end drives it.

    Args:
        home: NOA_LAB_HOME of the kernel.
    """

    def __init__(self, home: Home) -> None:
        self._manager = KernelManager(kernel_name="python3")
        # The kernel of this very environment, whatever kernelspec is installed.
        self._manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager.start_kernel(env={**os.environ, "NOA_LAB_HOME": str(home.root)})
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)

    @property
    def pid(self) -> int:
        return self._manager.provisioner.pid

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
