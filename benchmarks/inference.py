"""What the engines cost beside plain httpx, and how soon a cancel is felt.

    python benchmarks/inference.py overhead          time to the first token and tokens/s: engine and httpx in turn on one fake server
    python benchmarks/inference.py streams           64 streams at once for 2 minutes on the fake: memory
    python benchmarks/inference.py cancel            the real llama-server: from leaving a stream to an idle slot
    python benchmarks/inference.py all               all of them; writes benchmarks/inference.md
    (--quick: a tenth of each, prints only)

Plain httpx means: one client with an open connection, POST, lines of the stream, `json.loads`, text out; no retries, no time-outs by
progress, no clock, no checks. The two are paired: each pair asks the same, in random order, one right after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import psutil

from noa_lab import Lab
from noa_lab.inference import InferenceConfig, LlamaClient, LlamaInferenceEngine

TABLE = Path(__file__).with_name("inference.md")
FAKE = """
import sys
from noa_lab.testing import FakeLlamaServer, Script
pieces, pause, first = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
with FakeLlamaServer([Script(pieces=[" token"] * pieces, pause=pause, head_after=first)]) as fake:
    print(fake.base_url, flush=True)
    sys.stdin.read()
"""
AIMS = """The aims, at the median: at most 1 ms more to the first token, at most 2 % fewer tokens/s, a slot that is free within 250 ms of
a cancel; and memory that does not grow."""
CONFIG = InferenceConfig(temperature=0.7, max_tokens=512, seed=1)
BODY = {"prompt": "Once upon a time", "n_predict": 512, "temperature": 0.7, "seed": 1, "stream": True}


class FakeProcess:
    """The fake server in a process of its own, so that it does not share our interpreter.

    Args:
        pieces: Tokens of each answer.
        pause: Seconds before each token.
        first: Seconds before the answer begins (the prefill).
    """

    def __init__(self, pieces: int, pause: float, first: float) -> None:
        command = [sys.executable, "-c", FAKE, str(pieces), str(pause), str(first)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@dataclass(frozen=True)
class Took:
    """One answer: seconds to its first token, and tokens per second from the first to the last."""

    first: float
    rate: float


def by_httpx(client: httpx.Client) -> Took:
    began, first, count = time.perf_counter(), 0.0, 0
    with client.stream("POST", "/completion", json=BODY) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event.get("content"):
                    first = first or time.perf_counter()
                    count += 1
    return Took(first - began, (count - 1) / (time.perf_counter() - first))


def by_engine(engine: LlamaInferenceEngine) -> Took:
    began, first, count = time.perf_counter(), 0.0, 0
    for _ in engine.stream("Once upon a time", CONFIG):
        first = first or time.perf_counter()
        count += 1
    return Took(first - began, (count - 1) / (time.perf_counter() - first))


def paired(pairs: int, one: Callable[[], Took], other: Callable[[], Took]) -> list[tuple[Took, Took]]:
    """`pairs` measurements of both, in random order within each pair, after a warm-up."""
    rng, found = random.Random(1), []
    for number in range(-3, pairs):
        if rng.random() < 0.5:
            left = one()
            right = other()
        else:
            right = other()
            left = one()
        if number >= 0:
            found.append((left, right))
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and its 95 % bootstrap interval."""
    rng = random.Random(2)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[49], medians[1949]


def overhead(quick: bool) -> list[str]:
    lines = ["| pacing | first token, engine minus httpx (ms) | tokens/s, engine over httpx |", "| --- | --- | --- |"]
    for name, pieces, pause, first, pairs in (
        ("60 tokens, 12 ms each, after 150 ms", 60, 0.012, 0.15, 120),
        ("200 tokens, 4 ms each, after 50 ms", 200, 0.004, 0.05, 120),
    ):
        number = max(8, pairs // (10 if quick else 1))
        with (
            FakeProcess(pieces, pause, first) as fake,
            httpx.Client(base_url=fake.url, timeout=60) as client,
            LlamaInferenceEngine(fake.url, "m") as engine,
        ):
            found = paired(number, partial(by_engine, engine), partial(by_httpx, client))
        later = interval([(mine.first - plain.first) * 1000 for mine, plain in found])
        ratio = interval([mine.rate / plain.rate for mine, plain in found])
        lines.append(
            f"| {name} | {later[0]:+.2f} ({later[1]:+.2f} to {later[2]:+.2f}) | {ratio[0]:.3f} ({ratio[1]:.3f} to {ratio[2]:.3f}) |"
        )
    return lines


def streams(quick: bool) -> list[str]:
    seconds = 12 if quick else 120
    me, seen = psutil.Process(), []

    async def one(engine: LlamaInferenceEngine, end: float, counts: list[int]) -> None:
        while time.monotonic() < end:
            async for _ in engine.astream("Once upon a time", CONFIG):
                counts[0] += 1

    async def crowd(engine: LlamaInferenceEngine) -> int:
        counts, end = [0], time.monotonic() + seconds
        tasks = [asyncio.create_task(one(engine, end, counts)) for _ in range(64)]
        began = time.monotonic()
        while time.monotonic() < end:
            await asyncio.sleep(seconds / 12)
            seen.append((time.monotonic() - began, me.memory_info().rss / 1e6))
        await asyncio.gather(*tasks)
        return counts[0]

    with FakeProcess(100, 0.02, 0.0) as fake, LlamaInferenceEngine(fake.url, "m") as engine:
        tokens = asyncio.run(crowd(engine))
    lines = ["| seconds | resident memory (MB) |", "| --- | --- |"]
    lines += [f"| {at:.0f} | {size:.1f} |" for at, size in seen]
    half = len(seen) // 2
    slope = statistics.linear_regression([at for at, _ in seen[half:]], [size for _, size in seen[half:]]).slope
    return [*lines, "", f"64 streams, {tokens:,} tokens in {seconds} s; second half: {slope * 60:+.2f} MB a minute."]


def cancel(quick: bool) -> list[str]:
    took = []
    with (
        Lab().serve("smollm2-135m", slots=2, context_size=1024) as server,
        server.engine() as engine,
        LlamaClient(server.base_url, str(server.api_key)) as client,
    ):
        for _ in range(8 if quick else 60):
            for number, _ in enumerate(engine.stream("Once upon a time", CONFIG)):
                if number == 5:
                    break
            began = time.perf_counter()
            while any(slot["is_processing"] for slot in client.slots()):
                time.sleep(0.002)
            took.append((time.perf_counter() - began) * 1000)
    middle, low, high = interval(took)
    worst = sorted(took)[int(0.95 * len(took))]
    return [
        f"From leaving the stream to an idle slot: median {middle:.0f} ms ({low:.0f} to {high:.0f}), p95 {worst:.0f} ms, n = {len(took)}."
    ]


PARTS = {"overhead": overhead, "streams": streams, "cancel": cancel}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    chosen = PARTS if options.part == "all" else {options.part: PARTS[options.part]}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    text = ["# The engines beside plain httpx", "", "`python benchmarks/inference.py all`", ""]
    text += [
        f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} processors, load {load:.1f} at the beginning.",
        "",
        AIMS,
        "",
    ]
    for name, part in chosen.items():
        lines = part(options.quick)
        print("\n".join([name, *lines, ""]), flush=True)
        text += [f"## {name.capitalize()}", "", *lines, ""]
    if options.part == "all" and not options.quick:
        TABLE.write_text("\n".join(text))


if __name__ == "__main__":
    main()
