"""A runtime whose llama-server is a fake, other processes that hold servers, and ways to wait for processes to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from noa_lab.models import ModelFile, ModelMetadata
from noa_lab.paths import Home
from noa_lab.runtime import Runtime
from noa_lab.server._record import ServerRecord, read_record, record_folder

METADATA = ModelMetadata("llama", "Fake", 1, 8192, 1, 8, 1, 1, 32, "Q4_1", None, 1)


def command_lines(*parts: str) -> list[str]:
    """The command lines of all processes that are alive and have one of these parts in theirs."""
    return [line for _, line in _processes() if any(part in line for part in parts)]


def nothing_runs(under: Path) -> bool:
    """Whether no process works in this folder or names it, not even one between its fork and its exec.

    One look can miss a process that forks and ends (as a watcher does when it detaches itself): its child came after the list of
    processes was made, and itself it is gone before its turn. A second look sees the child.
    """
    return not any(str(under) in place + line for _ in range(2) for place, line in _processes())


def _processes() -> Iterator[tuple[str, str]]:
    """Working folder and command line of every process that is alive."""
    for process in psutil.process_iter(["cmdline", "status", "cwd"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process.info["cwd"] or "", " ".join(process.info["cmdline"] or [])


class FakeLlama:
    """Where the fake is, and how it behaves."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "runtime"
        self.folder.mkdir()
        program = self.folder / "llama-server"
        source = Path(__file__).with_name("fake_llama_server.py").read_text(encoding="utf-8")
        program.write_text(f"#!{sys.executable} -IS\n{source}", encoding="utf-8")
        program.chmod(0o755)
        self.runtime = Runtime("fake", self.folder, "path", "b1", 1, "c0ffee", threads=2, tools=("llama-server",))
        self.model = self.make_model("tiny")

    def make_model(self, name: str) -> ModelFile:
        path = self.folder / f"{name}.gguf"
        path.write_bytes(b"GGUF" + name.encode())
        return ModelFile(name, path, "", path.stat().st_size, str(path), False, METADATA)

    @property
    def starts(self) -> int:
        """How often it was started."""
        return self._count("starts")

    @property
    def requests(self) -> int:
        """How many requests for a stream have reached it."""
        return self._count("requests")

    @property
    def tokens(self) -> int:
        """How many tokens it has sent."""
        return self._count("tokens")

    def _count(self, name: str) -> int:
        file = self.folder / name
        return file.stat().st_size if file.exists() else 0

    def let_pass(self, tokens: int | None) -> None:
        """Hold answers back after this many tokens; None lets them go on."""
        if tokens is None:
            (self.folder / "gate").unlink()
        else:
            (self.folder / "gate").write_text(str(tokens), encoding="utf-8")

    def behave(self, **behaviour: object) -> None:
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour), encoding="utf-8")


class Holder:
    """Another process that serves the fake and then does what its code says; it is killed when the test ends."""

    def __init__(
        self, home: Home, fake: FakeLlama, code: str = "wait()", *, settings: str = "", keep: bool = False
    ) -> None:
        script = f"""
            import os, signal, subprocess, sys, time
            from pathlib import Path
            from noa_lab import server
            from noa_lab.models import ModelFile, ModelMetadata
            from noa_lab.paths import Home
            from noa_lab.runtime import Runtime

            def say(*words):
                print(*words, flush=True)

            def wait():
                time.sleep(3600)

            fake = Path({str(fake.folder)!r})
            runtime = Runtime("fake", fake, "path", "b1", 1, "c0ffee", threads=2, tools=("llama-server",))
            metadata = ModelMetadata("llama", "Fake", 1, 8192, 1, 8, 1, 1, 32, "Q4_1", None, 1)
            path = fake / "tiny.gguf"
            model = ModelFile("tiny", path, "", path.stat().st_size, str(path), False, metadata)
            home = Home(Path({str(home.root)!r}))
            running = server.serve(runtime, model, server.ServerSettings({settings}), home=home, keep={keep})
            say(running.name, running.pid, running.base_url, running.joined)
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.name = self.base_url = ""
        self.pid = 0
        self.joined = False

    def ready(self) -> Holder:
        """Wait until its server is ready."""
        words = self.line().split()
        self.name, self.pid, self.base_url, self.joined = words[0], int(words[1]), words[2], words[3] == "True"
        return self

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def kill(self) -> None:
        """SIGKILL, and collect it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()  # not read to its end, which would wait for the holder's children


def gone_within(pid: int, seconds: float) -> float:
    """How long the process took to end; fails after `seconds`."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return time.perf_counter() - start
        except psutil.NoSuchProcess:
            return time.perf_counter() - start
        time.sleep(0.005)
    pytest.fail(f"process {pid} is still there after {seconds} s")


def halt(pid: int, number: signal.Signals) -> None:
    """SIGKILL or SIGSTOP, and wait until no thread of the process can do anything any more: a signal is only sent by `os.kill`."""
    os.kill(pid, number)
    wait_until(lambda: not any(state in "RSD" for state in _thread_states(pid)))


def _thread_states(pid: int) -> list[str]:
    states = []
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(file.read_text().rpartition(")")[2].split()[0])
    return states


def wait_until(condition, seconds: float = 20.0) -> None:
    """Wait until `condition()` is true; fails after `seconds`, which is patience with a busy machine where no promise is meant."""
    deadline = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > deadline:
            pytest.fail("it did not happen")
        time.sleep(0.005)


def the_record(home: Home, name: str = "tiny") -> ServerRecord | None:
    """The record of a server as it is on disk now."""
    return read_record(record_folder(home, name))


def is_clean(home: Home) -> bool:
    """Whether nothing is left of any server but its log."""
    return [path.name for path in home.servers.iterdir() if path.name != ".lock"] == []
