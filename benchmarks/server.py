"""How soon after llama-server's own "listening" is it ready for us, and what does a watched start cost?

    python benchmarks/server.py [--starts 60]

Each round starts the real llama-server with SmolLM2-135M twice, in turn:

- by `noa_lab.server.serve`: from the moment the program writes its "listening" line until `serve` returns. In between the watcher reads
  the line, asks /health, and the holder makes sure that the port and the model are its own;
- by hand, as a script would: the same command line, then GET /health every 100 ms until it says yes.

The program's output goes through a process that notes when the line was written, so that the measure does not depend on the watcher.
The limit is 50 ms for 95 of 100 starts. Prints a table in Markdown. POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from comparison_servers import small_model

from noa_lab import runtime, server
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, with_patient_threads
from noa_lab.server import ServerSettings

SETTINGS = ServerSettings(context_size=512, slots=1)
LIMIT_MS = 50.0
POLL_SECONDS = 0.1

_STAMP = """
import sys, time
with open(sys.argv[1], "a", buffering=1) as stamps:
    for line in iter(sys.stdin.buffer.readline, b""):
        now = time.monotonic()
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        if b" listening on http" in line:
            stamps.write(f"{now}\\n")
"""


def stamped(real: Runtime, folder: Path) -> tuple[Runtime, Path]:
    """The same runtime, whose llama-server has the time of its "listening" written to the file that is returned."""
    programs, stamps = folder / "programs", folder / "stamps"
    programs.mkdir()
    for one in real.folder.iterdir():
        (programs / one.name).symlink_to(one)
    wrapper = programs / "llama-server"
    wrapper.unlink()
    stamp = shlex.join([sys.executable, "-S", "-E", "-c", _STAMP, str(stamps)])
    # `exec` keeps the process: its pid is the one that owns the port.
    wrapper.write_text(
        f'#!/usr/bin/env bash\nexec {shlex.quote(str(real.folder / "llama-server"))} "$@" > >({stamp}) 2>&1\n'
    )
    wrapper.chmod(0o755)
    return dataclasses.replace(real, folder=programs), stamps


def last_stamp(stamps: Path, count: int) -> float:
    """The newest of `count` stamps."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = stamps.read_text().splitlines() if stamps.exists() else []
        if len(lines) >= count:
            return float(lines[count - 1])
        time.sleep(0.01)
    raise SystemExit("llama-server has not said that it listens")


def ours(watched: Runtime, model: ModelFile, home: Home) -> tuple[float, float, list[str]]:
    """When it was begun, when it was ready (monotonic seconds), and the command line that was run."""
    began = time.monotonic()
    with server.serve(watched, model, SETTINGS, home=home) as running:
        ready = time.monotonic()
        argv = Path(f"/proc/{running.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    return began, ready, argv


def by_hand(watched: Runtime, argv: list[str], port: int) -> tuple[float, float]:
    """The same for a script that polls."""
    argv = [str(watched.folder / "llama-server"), *argv[1:]]
    argv[argv.index("--port") + 1] = str(port)
    began = time.monotonic()
    # Without it, waiting threads keep the cores busy, and a start takes seconds longer.
    environment = with_patient_threads(os.environ)
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(POLL_SECONDS)
        ready = time.monotonic()
        process.kill()
    return began, ready


def quantile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]


def row(name: str, late: list[float], whole: list[float]) -> str:
    p95 = quantile(late, 0.95)
    numbers = [statistics.median(late), p95, max(late), statistics.median(whole)]
    return (
        f"| {name} | {' | '.join(f'{value:.1f}' for value in numbers[:3])} | {p95 / LIMIT_MS:.2f} | {numbers[3]:.0f} |"
    )


def measure(starts: int) -> None:
    current = runtime.current(Home.default())
    model = small_model(Home.default())
    results: dict[str, tuple[list[float], list[float]]] = {"noa_lab": ([], []), "by hand, every 100 ms": ([], [])}
    with tempfile.TemporaryDirectory(prefix="noa-lab-bench-") as folder:
        home = Home(Path(folder) / "home")
        watched, stamps = stamped(current, Path(folder))
        for number in range(starts):
            began, ready, argv = ours(watched, model, home)
            pairs = {"noa_lab": (began, ready, last_stamp(stamps, 2 * number + 1))}
            began, ready = by_hand(watched, argv, 18000 + number)
            pairs["by hand, every 100 ms"] = (began, ready, last_stamp(stamps, 2 * number + 2))
            for name, (began, ready, said) in pairs.items():
                results[name][0].append(1000 * (ready - said))
                results[name][1].append(1000 * (ready - began))
    print(
        f"{starts} starts each, SmolLM2-135M, llama.cpp {current.tag}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
    )
    print('| start | after "listening", median ms | p95 ms | most ms | p95 / limit of 50 ms | whole start, median ms |')
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (late, whole) in results.items():
        print(row(name, late, whole))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How soon a server that listens is ready for us.")
    parser.add_argument("--starts", type=int, default=60)
    measure(parser.parse_args().starts)
