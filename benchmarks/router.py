"""What the router costs, against the same llama-server asked directly, and against llama.cpp's own router mode.

    python benchmarks/router.py [--requests 60] [--streams 8] [--mixed 80]

Three measurements, with SmolLM2-135M and the same model quantised once more:

1. one short request (/tokenize) and the first token of a stream: milliseconds added to the direct request;
2. a stream: tokens a second, as a share of the direct ones;
3. mixed requests of 8 clients for two models where memory holds one: seconds, and how often a model was loaded.

1 and 2 ask direct, router and peer in turn, so that a noisy machine is noisy for all of them. Prints a table in Markdown.
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

from noa_lab import models, runtime, server
from noa_lab.models import ModelFile, read_gguf
from noa_lab.paths import Home
from noa_lab.server import ServerSettings
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
    """llama.cpp's router mode with the same models and settings."""
    current = runtime.current(Home.default())
    preset = folder / f"preset-{most}.ini"
    chosen = f"ctx-size = {SETTINGS.context_size * SETTINGS.slots}\nparallel = {SETTINGS.slots}\nkv-unified = false\n"
    chosen += f"threads = {current.threads}\n"
    models_part = "".join(f"[{one.name}]\nmodel = {one.path}\n" for one in files)
    preset.write_text(f"version = 1\n[*]\n{chosen}{models_part}")
    environment = {
        **runtime.PATIENT_THREADS,
        **os.environ,
        "LLAMA_API_KEY": "benchmark",
        "XDG_CONFIG_HOME": str(folder / "empty"),
    }
    command = [current.tool("llama-server"), "--models-preset", preset, "--models-max", str(most), "--port", "0"]
    command += ["--host", "127.0.0.1", "--offline", "--no-webui", "--metrics"]
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


def mixed(target: Target, names: list[str], requests: int) -> float:
    """Seconds for many requests for two models from several clients."""

    def client(number: int) -> None:
        with target.client() as ask:
            for index in range(requests // CLIENTS):
                name = names[(index // (1 + number % 3) + number) % 2]
                body = {"model": name, "prompt": PROMPT, "n_predict": 8, "temperature": 0, "ignore_eos": True}
                answer = ask.post("/completion", json=body)
                assert answer.json()["model"] == name, answer.text

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return time.perf_counter() - began


def row(name: str, values: list[float], base: list[float], unit: str, *, share: bool) -> str:
    paired = [one / other if share else one - other for one, other in zip(values, base, strict=True)]
    low, high = statistics.quantiles(paired, n=20)[0], statistics.quantiles(paired, n=20)[-1]
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


def compare_mixed(files: list[ModelFile], folder: Path, home: Home, requests: int) -> None:
    names = [one.name for one in files]
    budget = int(1.4 * max(predicted_bytes(one, SETTINGS, Home.default()) for one in files))
    print(f"\n{requests} mixed requests of {CLIENTS} clients, two models, memory for one\n")
    print("| | seconds | loads |\n| --- | --- | --- |")
    with our_router(files, home, budget) as (ours, _):
        seconds = mixed(ours, names, requests)
        with ours.client() as ask:
            loads = sum(map(int, re.findall(r"router_starts_total\{.*\} (\d+)", ask.get("/metrics").text)))
        print(f"| noa_lab | {seconds:.1f} | {loads} |")
    with peer_router(files, folder, 1) as peer:
        with peer.client() as ask:
            short_request(ask, names[0])
        seconds = mixed(peer, names, requests)
        loads = len(
            re.findall(r"spawning server instance with name=", (folder / "peer-1.log").read_text(errors="replace"))
        )
        print(f"| llama.cpp router | {seconds:.1f} | {loads} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--mixed", type=int, default=80)
    options = parser.parse_args()
    first = models.find("smollm2-135m", Home.default())
    if first is None:
        sys.exit("Get the model first: noa-lab models get smollm2-135m")
    with tempfile.TemporaryDirectory(prefix="noa-lab-bench-") as place:
        folder = Path(place)
        (folder / "empty").mkdir()
        home = Home(folder / "home")
        files = [first, make_second(first, folder)]
        with our_router(files, home, 10**12) as (ours, direct), peer_router(files, folder, 2) as peer:
            compare_latency([direct, ours, peer], first.name, options.requests, options.streams)
        compare_mixed(files, folder, home, options.mixed)
        server.stop_all(home)


if __name__ == "__main__":
    main()
