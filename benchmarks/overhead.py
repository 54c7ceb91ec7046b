"""What a cell costs beside the model: against a fake llama-server that answers at once.

    python benchmarks/overhead.py [--peers FOLDER] [--cells 2000] [--runs 5] [--memory 100000]

1. Milliseconds a cell and cells a second, every answer committed durably: our executors, and beside them promptfoo and Inspect with
   their defaults, on the same fake server in a process of its own. A bare loop of httpx, and one of our own connections, that only ask and
   throw the answers away, say what server and machine can do at most. In turn, so that a noisy machine is noisy for all. Beside it the
   processor's time that our own process took for it, which other programs disturb less.
2. Memory that many cells add to the process, at its highest, over a run of a few (for promptfoo and Inspect: over one of a tenth).

Writes overhead.md. Without --peers the other two are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import psutil
from comparison_grids import BenchGrid, as_grid
from comparison_peers import INSPECT, PROMPTFOO, Peers
from comparison_table import machine

from noa_lab.experiments import EngineWish, Store, start
from noa_lab.inference import InferenceEngine, LlamaInferenceEngine
from noa_lab.inference._http import Connection
from noa_lab.inference.batch._wire import Wire

TABLE = Path(__file__).with_name("overhead.md")
_SLOTS = 8
_EXECUTORS = ("lanes", "plain")
_BARE = ("bare httpx loop", "bare loop of our connections")
_SHARE_OF_PEERS = 10
"""The peers answer so many times fewer cells: they take long."""


class FakeProcess:
    """The fake llama-server in a process of its own."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "ignore", "-m", "noa_lab.testing._fake_slots", "--slots", str(_SLOTS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def some_grid(cells: int) -> BenchGrid:
    """Two prompts over half as many inputs."""
    prompts = {
        "ask": [{"role": "user", "content": "Is {{ word }} a word?"}],
        "tell": [{"role": "user", "content": "Say yes to {{ word }}."}],
    }
    inputs = [{"id": f"i{number}", "word": f"word{number}"} for number in range(cells // 2)]
    return BenchGrid("overhead", "", prompts, inputs, 8)


def by_executor(executor: str, grid: BenchGrid, folder: Path, url: str) -> float:
    """Seconds of a whole run in a new store: from `start` to its last commit."""

    @contextmanager
    def engine_for(ref: str, wish: EngineWish | None = None) -> Iterator[InferenceEngine]:
        del wish
        with LlamaInferenceEngine(url, ref) as engine:
            yield engine

    path = folder / f"{time.monotonic_ns()}.db"
    with Store(path) as store:
        began = time.perf_counter()
        run = start(as_grid(grid, "fake"), store=store, engine_for=engine_for, executor=executor)
        run.result()
        seconds = time.perf_counter() - began
        assert run.progress().done == grid.size
    for one in folder.glob(f"{path.name}*"):
        one.unlink()
    return seconds


async def _bare(ask: Callable[[dict], object], grid: BenchGrid) -> float:
    waiting = iter(list(grid.conversations()))

    async def work() -> None:
        for messages in waiting:
            await ask({"messages": messages, "temperature": 0, "max_tokens": grid.max_tokens})

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_SLOTS)))
    return time.perf_counter() - began


async def _by_httpx(grid: BenchGrid, url: str) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def ask(body: dict) -> None:
            (await client.post("/v1/chat/completions", json=body)).json()

        return await _bare(ask, grid)


async def _by_wire(grid: BenchGrid, url: str) -> float:
    wire = Wire(Connection(url, None, patience=300.0))

    async def ask(body: dict) -> None:
        await wire.ask("/v1/chat/completions", body)

    try:
        return await _bare(ask, grid)
    finally:
        await wire.aclose()


@dataclass
class Times:
    """Of one arm, run by run: milliseconds a cell, and of the processor's time in this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure_speed(options: argparse.Namespace, peers: Peers | None, folder: Path) -> dict[str, Times]:
    """The times of each arm."""
    grid, small = some_grid(options.cells), some_grid(options.cells // _SHARE_OF_PEERS)
    found: dict[str, Times] = {}

    def note(arm: str, cells: int, work: Callable[[str], float], *, ours: bool = True) -> None:
        times = found.setdefault(arm, Times())
        with FakeProcess() as fake:
            before = time.process_time()
            times.wall.append(1000 * work(fake.url) / cells)
            times.cpu.append(1000 * (time.process_time() - before) / cells if ours else math.nan)
        print(f"{arm}: {times.wall[-1]:.3f} ms a cell, {times.cpu[-1]:.3f} of the processor's", flush=True)

    for _ in range(options.runs):
        for executor in _EXECUTORS:
            note(executor, grid.size, partial(by_executor, executor, grid, folder))
        for name, bare in zip(_BARE, (_by_httpx, _by_wire), strict=True):
            note(name, grid.size, lambda url, bare=bare: asyncio.run(bare(grid, url)))
        for name in ("promptfoo", "inspect") if peers is not None else ():
            ask = getattr(peers, name)
            note(name, small.size, lambda url, ask=ask: ask(small, url, "none").seconds, ours=False)
    return found


def added_memory(cells: int) -> float:
    """MB that a run of so many cells adds at most to a process that has run a few; in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(_run_and_watch, (cells,)))


def _run_and_watch(cells: int) -> float:
    process, most, over = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, process.memory_info().rss)

    with FakeProcess() as fake, tempfile.TemporaryDirectory(prefix="noa-lab-overhead-") as place:
        by_executor("lanes", some_grid(500), Path(place), fake.url)
        grid = some_grid(cells)
        before = process.memory_info().rss
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            by_executor("lanes", grid, Path(place), fake.url)
        finally:
            over.set()
            watcher.join()
    return (most - before) / 1e6


def peers_memory(peers: Peers, cells: int) -> dict[str, float]:
    """The same of the peers: the highest of a run of that many less the highest of one of ten."""
    found = {}
    for name in ("promptfoo", "inspect"):
        peaks = []
        for size in (10, cells):
            with FakeProcess() as fake:
                peaks.append(getattr(peers, name)(some_grid(size), fake.url, "none").bytes)
        found[name] = (peaks[1] - peaks[0]) / 1e6
    return found


def table(speed: dict[str, Times], memory: dict[str, tuple[int, float]], options: argparse.Namespace) -> str:
    about = machine()
    small = options.cells // _SHARE_OF_PEERS
    about_it = (
        "Written by `python benchmarks/overhead.py`, which says how it is measured. "
        f"{about['cpu']}, {about['cores']} cores, {about['system']}; the fake server, in Python, takes one of the cores. "
        f"promptfoo {PROMPTFOO}, Inspect {INSPECT}; {options.runs} runs of {options.cells:,} cells in turn "
        f"(the peers: of {small:,}).\n"
    )
    lines = ["# What a cell costs beside the model\n", about_it]
    lines += [
        "| | ms a cell, median | least to most | cells/s | processor, ms a cell |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm, times in speed.items():
        middle, cpu = statistics.median(times.wall), statistics.median(times.cpu)
        span = f"{min(times.wall):.2f} to {max(times.wall):.2f}"
        taken = "" if math.isnan(cpu) else f"{cpu:.2f}"
        lines.append(f"| {arm} | {middle:.2f} | {span} | {1000 / middle:,.0f} | {taken} |")
    best = min(_EXECUTORS, key=lambda name: statistics.median(speed[name].wall))
    middle = statistics.median(speed[best].wall)
    met = middle <= 1.0
    lines.append(
        f"\nAim: at most 1 ms a cell and at least 1,000 cells/s, committed: {_word(met)} ({best}: {middle:.2f} ms).\n"
    )
    if memory:
        lines += ["| | cells | MB added |", "| --- | --- | --- |"]
        lines += [f"| {name} | {cells:,} | {added:.0f} |" for name, (cells, added) in memory.items()]
        added = memory["noa_lab"][1]
        lines.append(f"\nAim: at most 150 MB for 100,000 cells: {_word(added <= 150)} ({added:.0f} MB).\n")
    return "\n".join(lines)


def _word(met: bool) -> str:
    return "met" if met else "**missed**"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder for promptfoo and Inspect, outside of the repository")
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", type=int, default=100_000, help="cells of the memory run; 0 leaves it out")
    parser.add_argument("--table", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    peers = Peers(options.peers) if options.peers else None
    if peers is not None:
        peers.set_up()
    with tempfile.TemporaryDirectory(prefix="noa-lab-overhead-") as place:
        speed = measure_speed(options, peers, Path(place))
    memory: dict[str, tuple[int, float]] = {}
    if options.memory:
        memory["noa_lab"] = options.memory, added_memory(options.memory)
        if peers is not None:
            small = options.memory // _SHARE_OF_PEERS
            memory |= {name: (small, added) for name, added in peers_memory(peers, small).items()}
    print(json.dumps({"speed": {arm: asdict(times) for arm, times in speed.items()}, "memory": memory}))
    written = table(speed, memory, options)
    options.table.write_text(written)
    print(written)


if __name__ == "__main__":
    main()
