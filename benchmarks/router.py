"""What the router costs, against the same llama-server asked directly, and against llama.cpp's own router mode.

    python benchmarks/router.py [--requests 60] [--streams 24] [--mixed 80] [--rounds 2]

It takes about 5 minutes. Three measurements, with SmolLM2-135M and the same model quantised once more:

1. one short request (/tokenize) and the first token of a stream: milliseconds added to the direct request;
2. a stream: tokens a second, as a share of the direct ones;
3. mixed requests of 8 clients for two models where memory holds one: seconds, how often a model was loaded, and how many requests failed.

1 and 2 ask direct, router and peer in turn, 3 runs router and peer in turn, so that a noisy machine is noisy for all of them. The peer's
servers get the options that ours have, and wait for their threads as ours do. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
from comparison_servers import small_model

from noa_lab import runtime, server
from noa_lab.models import ModelFile, read_gguf
from noa_lab.paths import Home
from noa_lab.server import ServerSettings
from noa_lab.server._command import plan_launch
from noa_lab.server._record import read_records
from noa_lab.server.router._memory import predicted_bytes
from noa_lab.server.router._plan import PlannedModel, RouterPlan
from noa_lab.server.router._schedule import Policy

SETTINGS = ServerSettings(context_size=512, slots=2)
PROMPT = "Once upon a time, in a land far away, there lived a"
CLIENTS = 8
TOKENS = 48


@dataclass
class Target:
    """Something that answers like llama-server."""

    name: str
    url: str
    key: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=600)


def make_second(first: ModelFile, folder: Path) -> ModelFile:
    path = folder / "second.gguf"
    quantize = runtime.current(Home.default()).tool("llama-quantize")
    subprocess.run([quantize, "--allow-requantize", first.path, path, "Q4_0"], check=True, capture_output=True)
    return ModelFile("second", path, "", path.stat().st_size, str(path), False, read_gguf(path))


@contextlib.contextmanager
def our_router(files: list[ModelFile], home: Home, budget: int) -> Iterator[tuple[Target, Target]]:
    """Our router, and the first model's own server behind it."""
    planned = tuple(
        PlannedModel(one, SETTINGS, predicted_bytes=predicted_bytes(one, SETTINGS, Home.default())) for one in files
    )
    current = runtime.current(Home.default())
    plan = RouterPlan(str(home.root), current, planned, files[0].name, Policy(budget), {})
    with server.start_router(plan, home=home) as router:
        ours = Target("noa_lab", router.base_url, str(router.api_key))
        with ours.client() as ask:
            ask.post("/models/load", json={"model": files[0].name}).raise_for_status()
        record = next(one for one in read_records(home) if one.name == files[0].name)
        yield ours, Target("direct", record.base_url, record.api_key)


@contextlib.contextmanager
def peer_router(files: list[ModelFile], folder: Path, most: int) -> Iterator[Target]:
    """llama.cpp's router mode with the same models and options: those of its own command line, it gives to every model's server."""
    current = runtime.current(Home.default())
    preset = folder / f"preset-{most}.ini"
    models_part = "".join(f"[{one.name}]\nmodel = {one.path}\n" for one in files)
    preset.write_text(f"version = 1\n{models_part}")
    options = list(plan_launch(current, files[0], SETTINGS).argv[1:])
    for ours, values in (("-m", 1), ("-a", 1), ("--reuse-port", 0)):
        at = options.index(ours)
        del options[at : at + 1 + values]
    environment = {
        **runtime.with_patient_threads(os.environ),
        "LLAMA_API_KEY": "benchmark",
        "XDG_CONFIG_HOME": str(folder / "empty"),
    }
    command = [current.tool("llama-server"), "--models-preset", preset, "--models-max", str(most), *options]
    log = folder / f"peer-{most}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        port = wait_for(lambda: re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace")))
        yield Target("llama.cpp router", f"http://127.0.0.1:{port[1]}", "benchmark")
    finally:
        process.terminate()
        process.wait(30)


def wait_for(look):
    for _ in range(600):
        if found := look():
            return found
        time.sleep(0.05)
    sys.exit("it did not start")


def short_request(ask: httpx.Client, name: str) -> float:
    began = time.perf_counter()
    ask.post("/tokenize", json={"model": name, "content": "Hello world"}).raise_for_status()
    return (time.perf_counter() - began) * 1000


def stream(ask: httpx.Client, name: str) -> tuple[float, float]:
    """Milliseconds to the first token, and tokens a second after it."""
    body = {"model": name, "prompt": PROMPT, "n_predict": TOKENS, "stream": True, "temperature": 0, "ignore_eos": True}
    began = time.perf_counter()
    with ask.stream("POST", "/completion", json=body) as answer:
        came = [time.perf_counter() for line in answer.iter_lines() if line]
    return (came[0] - began) * 1000, (len(came) - 1) / (came[-1] - came[0])


def mixed(target: Target, names: list[str], requests: int) -> tuple[float, int]:
    """Seconds for many requests for two models from several clients, and how many were not answered by the right model."""

    def client(number: int) -> int:
        failed = 0
        with target.client() as ask:
            for index in range(requests // CLIENTS):
                name = names[(index // (1 + number % 3) + number) % 2]
                body = {"model": name, "prompt": PROMPT, "n_predict": 8, "temperature": 0, "ignore_eos": True}
                try:
                    answer = ask.post("/completion", json=body)
                    failed += answer.status_code != 200 or answer.json()["model"] != name
                except httpx.TransportError:
                    failed += 1
        return failed

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        failed = sum(pool.map(client, range(CLIENTS)))
    return time.perf_counter() - began, failed


def row(name: str, values: list[float], base: list[float], unit: str, *, share: bool) -> str:
    paired = [one / other if share else one - other for one, other in zip(values, base, strict=True)]
    low, high = statistics.quantiles(paired, n=20, method="inclusive")[::18]
    shown = "{:.3f}" if share else "{:+.2f}"
    middle = statistics.median(values)
    return f"| {name} | {middle:.2f} {unit} | {shown.format(statistics.median(paired))} | {shown.format(low)} to {shown.format(high)} |"


def compare_latency(targets: list[Target], name: str, requests: int, streams: int) -> None:
    short: dict[str, list[float]] = {one.name: [] for one in targets}
    first: dict[str, list[float]] = {one.name: [] for one in targets}
    speed: dict[str, list[float]] = {one.name: [] for one in targets}
    with contextlib.ExitStack() as stack:
        clients = {one.name: stack.enter_context(one.client()) for one in targets}
        for ask in clients.values():
            stream(ask, name)
        for _ in range(requests):
            for who, ask in clients.items():
                short[who].append(short_request(ask, name))
        for _ in range(streams):
            for who, ask in clients.items():
                to_first, rate = stream(ask, name)
                first[who].append(to_first)
                speed[who].append(rate)
    for title, found, unit, share in (
        ("short request (/tokenize)", short, "ms", False),
        ("first token of a stream", first, "ms", False),
        ("tokens a second of a stream", speed, "/s", True),
    ):
        print(
            f"\n{title}\n\n| | median | {'share of direct' if share else 'added to direct, ms'} | 5 % to 95 % |\n| --- | --- | --- | --- |"
        )
        for one in targets:
            print(row(one.name, found[one.name], found["direct"], unit, share=share))


def mixed_by_ours(files: list[ModelFile], home: Home, requests: int) -> tuple[float, int, int]:
    """Seconds, failed requests, loads."""
    budget = int(1.4 * max(predicted_bytes(one, SETTINGS, Home.default()) for one in files))
    with our_router(files, home, budget) as (ours, _):
        seconds, failed = mixed(ours, [one.name for one in files], requests)
        with ours.client() as ask:
            counters = ask.get("/metrics").text
    return seconds, failed, sum(map(int, re.findall(r"router_starts_total\{.*\} (\d+)", counters)))


def mixed_by_peer(files: list[ModelFile], folder: Path, requests: int) -> tuple[float, int, int]:
    """The same of llama.cpp's router."""
    names = [one.name for one in files]
    with peer_router(files, folder, 1) as peer:
        with peer.client() as ask:
            short_request(ask, names[0])
        seconds, failed = mixed(peer, names, requests)
    log = (folder / "peer-1.log").read_text(errors="replace")
    return seconds, failed, len(re.findall("spawning server instance with name=", log))


def compare_mixed(files: list[ModelFile], folder: Path, home: Home, requests: int, rounds: int) -> None:
    found: dict[str, list[tuple[float, int, int]]] = {"noa_lab": [], "llama.cpp router": []}
    for _ in range(rounds):
        found["noa_lab"].append(mixed_by_ours(files, home, requests))
        found["llama.cpp router"].append(mixed_by_peer(files, folder, requests))
    print(f"\n{requests} mixed requests of {CLIENTS} clients, two models, memory for one; {rounds} rounds\n")
    print("| | seconds | failed | loads |\n| --- | --- | --- | --- |")
    for name, results in found.items():
        seconds, failed, loads = zip(*results, strict=True)
        print(
            f"| {name} | {', '.join(f'{one:.1f}' for one in seconds)} | {sum(failed)} | {', '.join(map(str, loads))} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--streams", type=int, default=24)
    parser.add_argument("--mixed", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    first = small_model(Home.default())
    with tempfile.TemporaryDirectory(prefix="noa-lab-bench-") as place:
        folder = Path(place)
        (folder / "empty").mkdir()
        home = Home(folder / "home")
        files = [first, make_second(first, folder)]
        with our_router(files, home, 10**12) as (ours, direct), peer_router(files, folder, 2) as peer:
            compare_latency([direct, ours, peer], first.name, options.requests, options.streams)
        compare_mixed(files, folder, home, options.mixed, options.rounds)
        server.stop_all(home)


if __name__ == "__main__":
    main()
