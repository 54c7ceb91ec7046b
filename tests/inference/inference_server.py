"""Starting and ending a real llama-server for tests of the rooms below the server room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CONTEXT = 512

SUPERVISOR = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); sys.stdin.read(); p.kill(); p.wait()"
"""Ends the server when this process closes the pipe, also by dying."""


@dataclass(frozen=True)
class RealServer:
    url: str
    key: str
    process: subprocess.Popen[bytes]


def start_server(program: Path, model: Path, log: Path, *more: str) -> RealServer:
    command = [str(program), "-m", str(model), "-a", "smollm2-135m", "--host", "127.0.0.1", "--port", "0"]
    command += [
        "-c",
        str(2 * CONTEXT),
        "-np",
        "2",
        "-no-kvu",
        "-t",
        "1",
        "--slots",
        "--metrics",
        "--no-ui",
        "--offline",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    environment.update(LLAMA_API_KEY="contract-key", XDG_CONFIG_HOME=str(log.parent))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *command, *more],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    end = time.monotonic() + 60
    while not (found := re.search(r"listening on (http://[\d.:]+)", log.read_text(errors="replace"))):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.02)
    return RealServer(found[1], "contract-key", process)


def stop_server(server: RealServer) -> None:
    server.process.stdin.close()
    server.process.wait(10)
