"""How long comparisons take: lanes and tree beside a plain async client, promptfoo and Inspect, on the same llama.cpp and model.

    python benchmarks/comparisons.py --peers FOLDER [--minutes 60] [--grids ABCD] [--repetitions 7]
    python benchmarks/comparisons.py table          only the table, from what is measured so far

Every arm answers the whole grid on a server that is fresh; starting servers, Node and Python is not counted for anybody. The plain client
is tuned first: of the concurrencies 1, 2, 4 and 8, the best of a pilot is its arm. Within a repetition the order of the arms is random;
ratios are of the same repetition. Results go to comparisons.jsonl line by line: the same command again goes on where it was stopped, and
`--fresh` begins anew. comparisons.md is written from it at the end.

promptfoo and Inspect are installed into FOLDER by npm and pip, if they are not there; without --peers they are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from comparison_arms import CONCURRENCY, ArmFailed, Bench, version_of
from comparison_grids import GRIDS, BenchGrid
from comparison_peers import INSPECT, PROMPTFOO, Peers
from comparison_table import best_plain, machine, table

from noa_lab.errors import NoaLabError

RESULTS = Path(__file__).with_name("comparisons.jsonl")
_PILOTS = 2
_WORTH_A_SECOND = 1.25
"""A concurrency that took that many times as long as the best one in the first pilot is not tried again."""

_FAILURES = (ArmFailed, NoaLabError, OSError, subprocess.SubprocessError, httpx.HTTPError)
"""What ends an arm's turn and not the benchmark."""


class Results:
    """What is measured so far: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def has(self, **wanted: Any) -> bool:
        return any(all(row.get(name) == value for name, value in wanted.items()) for row in self.rows)


class Schedule:
    """Runs what is missing, until the time is up.

    Args:
        bench: The arms.
        results: What is there.
        minutes: After these, nothing further is begun.
    """

    def __init__(self, bench: Bench, results: Results, minutes: float) -> None:
        self._bench, self._results = bench, results
        self._end = time.monotonic() + 60 * minutes

    def run(self, grids: list[BenchGrid], repetitions: int) -> None:
        for row in self._results.rows:
            grids = [grid for grid in grids if grid.name in row["least"]] if row["kind"] == "limits" else grids
        for grid in grids:
            self._pilot(grid)
        for repetition in range(repetitions):
            for grid in grids:
                self._repeat(grid, repetition)

    def _pilot(self, grid: BenchGrid) -> None:
        first: dict[int, float] = {}
        for number in range(_PILOTS):
            for concurrency in CONCURRENCY:
                if number and first.get(concurrency, 0) > _WORTH_A_SECOND * min(first.values()):
                    continue
                self._once(grid, f"plain {concurrency}", "pilot", number)
            first = {
                int(row["arm"].split()[1]): row["seconds"]
                for row in self._results.rows
                if row["kind"] == "pilot" and row["grid"] == grid.name and row["repetition"] == 0
            }

    def _repeat(self, grid: BenchGrid, repetition: int) -> None:
        best = best_plain(self._results.rows, grid.name)
        if best is None:
            return
        arms = [f"plain {best}", *self._bench.arms(grid)]
        random.Random(f"{grid.name} {repetition}").shuffle(arms)
        for arm in arms:
            self._once(grid, arm, "run", repetition)

    def _once(self, grid: BenchGrid, arm: str, kind: str, repetition: int) -> None:
        what = {"kind": kind, "grid": grid.name, "arm": arm, "repetition": repetition}
        if self._results.has(**what) or time.monotonic() > self._end:
            return
        try:
            took = self._bench.run(arm, grid)
        except _FAILURES as error:
            self._results.add(kind="failed", grid=grid.name, arm=arm, repetition=repetition, why=str(error)[:300])
            print(f"{kind} {repetition} {grid.name} {arm}: failed: {error}", flush=True)
            return
        self._results.add(**what, **asdict(took))
        print(
            f"{kind} {repetition} {grid.name} {arm}: {took.seconds:.2f} s, {took.evaluated} tokens evaluated",
            flush=True,
        )


def measure(options: argparse.Namespace, grids: list[BenchGrid]) -> None:
    peers = Peers(options.peers) if options.peers else None
    if peers is not None:
        peers.set_up()
    if options.fresh:
        options.results.unlink(missing_ok=True)
    results = Results(options.results)
    with tempfile.TemporaryDirectory(prefix="noa-lab-comparisons-") as place:
        bench = Bench(Path(place), peers)
        if not results.has(kind="limits"):
            about = {
                "llama": version_of(bench.runtime.tool("llama-server")),
                "build": bench.runtime.id,
                "threads": bench.runtime.threads,
            }
            about |= {"promptfoo": PROMPTFOO, "inspect": INSPECT, **machine()}
            results.add(kind="limits", **bench.limits(list(GRIDS.values())), **about)
        Schedule(bench, results, options.minutes).run(grids, options.repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("measure", "table"), default="measure")
    parser.add_argument("--peers", type=Path, help="folder for promptfoo and Inspect, outside of the repository")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing further after these")
    parser.add_argument("--grids", default="".join(GRIDS), help="their letters")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="forget what is measured")
    options = parser.parse_args()
    if options.what == "measure":
        measure(options, [GRIDS[letter] for letter in options.grids])
    written = table(Results(options.results).rows)
    options.results.with_suffix(".md").write_text(written)
    print(written)


if __name__ == "__main__":
    main()
