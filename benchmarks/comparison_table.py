"""The table of `comparisons.py` from its raw results: ratios with 95 % intervals, tokens beside the least, and what was aimed at."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_grids import GRIDS
from scipy import stats

__all__ = ["best_plain", "machine", "table"]

Row = dict[str, Any]
_OURS = ("lanes", "tree")
_AIMS = {"promptfoo": {"A": 3.0, "B": 1.4, "C": 1.25}, "inspect": {"A": 2.0, "B": 2.0, "C": 1.3}}
_TREE_AIM = {"A": 1.2, "B": 1.2}
_NEAR = 1.10
"""What the interval of lanes' time over the best plain client's must stay below where lanes are not faster."""
_TOKENS = {"lanes": 1.10, "tree": 1.02}


def machine() -> dict[str, Any]:
    """What it ran on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(), "system": platform.system()}


def best_plain(rows: Sequence[Row], grid: str) -> int | None:
    """The concurrency that was fastest in the pilot, by the mean of those that were tried most often; None before the pilot."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == "pilot" and row["grid"] == grid:
            found.setdefault(int(row["arm"].split()[1]), []).append(row["seconds"])
    most = max(map(len, found.values()), default=0)
    means = {number: statistics.mean(seconds) for number, seconds in found.items() if len(seconds) == most}
    return min(means, key=lambda number: means[number]) if means else None


@dataclass(frozen=True)
class Ratio:
    """How many times as long one arm took as another, in the same repetitions: geometric mean and 95 % interval (t on logarithms)."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count < 2:
            return f"{self.value:.2f} (once)"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(slow: dict[int, float], fast: dict[int, float]) -> Ratio | None:
    logs = [math.log(slow[number] / fast[number]) for number in sorted(slow.keys() & fast.keys())]
    if not logs:
        return None
    mean = statistics.mean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), 0.0, math.inf, len(logs))
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


class GridResults:
    """The results of one grid.

    Args:
        name: Its letter.
        rows: All rows.
        limits: The row of the peak speeds.
    """

    def __init__(self, name: str, rows: Sequence[Row], limits: Row) -> None:
        self.name = name
        self._rows = [row for row in rows if row["kind"] == "run" and row["grid"] == name]
        grid = GRIDS[name]
        self.least, self.everything = limits["least"][name], limits["all"][name]
        self.bound = self.least / limits["prefill"] + grid.size * grid.max_tokens / limits["decode"]
        best = best_plain(rows, name)
        self.plain = f"plain {best}"
        self.failures = [row for row in rows if row["kind"] == "failed" and row["grid"] == name]
        self.pilots = {
            number: [row["seconds"] for row in rows if _is_pilot(row, name, number)] for number in (1, 2, 4, 8)
        }

    @property
    def arms(self) -> list[str]:
        names = (self.plain, *_OURS, "promptfoo", "inspect")
        return [name for name in names if any(row["arm"] == name for row in self._rows)]

    def seconds(self, arm: str) -> dict[int, float]:
        return {row["repetition"]: row["seconds"] for row in self._rows if row["arm"] == arm}

    def evaluated(self, arm: str) -> float:
        return statistics.median(row["evaluated"] for row in self._rows if row["arm"] == arm)

    def over(self, slow: str, fast: str) -> Ratio | None:
        return ratio(self.seconds(slow), self.seconds(fast))

    def better(self) -> str:
        """The faster one of lanes and tree."""
        found = [arm for arm in _OURS if arm in self.arms]
        return min(found, key=lambda arm: statistics.fmean(map(math.log, self.seconds(arm).values())))


def _is_pilot(row: Row, grid: str, concurrency: int) -> bool:
    return bool(row["kind"] == "pilot" and row["grid"] == grid and row["arm"] == f"plain {concurrency}")


def table(rows: Sequence[Row]) -> str:
    """All of it in Markdown."""
    limits = next((row for row in rows if row["kind"] == "limits"), None)
    found = [GridResults(name, rows, limits) for name in GRIDS] if limits else []
    found = [grid for grid in found if grid.arms]
    if limits is None or not found:
        return "# Comparisons\n\nNothing is measured yet.\n"
    notes = [f"{row['text']}\n" for row in rows if row["kind"] == "note"]
    parts = [_head(limits), *notes, *(_grid_part(grid) for grid in found), _aims(found)]
    return "\n".join(parts)


def _head(limits: Row) -> str:
    return (
        "# Comparisons: how long a grid takes\n\n"
        "Written by `python benchmarks/comparisons.py`, which says how it is measured; raw numbers: comparisons.jsonl.\n\n"
        "SmolLM2-135M Q4_1, whose end token is switched off so that all answers have the same length; "
        f"llama.cpp {limits['llama']}, build {limits['build']}; "
        f"promptfoo {limits['promptfoo']} and Inspect {limits['inspect']} with their defaults on a llama-server with its own; "
        f"{limits['cpu']}, {limits['cores']} cores, {limits['threads']} threads, {limits['system']}. "
        f"Peak prefill {limits['prefill']:.0f} tokens/s (llama-bench), "
        f"peak batched decode {limits['decode']:.0f} tokens/s (llama-server, up to 32 slots).\n\n"
        "The bound is the least prompt tokens at peak prefill and all answers at peak decode. "
        "Ratios above 1: lanes or tree are faster. "
        "Seven repetitions are meant; where the column of runs says fewer, the same command goes on.\n"
    )


def _grid_part(grid: GridResults) -> str:
    lines = [f"## {grid.name}: {GRIDS[grid.name].what}\n"]
    pilots = ", ".join(
        f"{number}: {' and '.join(f'{one:.1f}' for one in seconds)} s"
        for number, seconds in grid.pilots.items()
        if seconds
    )
    lines.append(
        f"Prompts have {grid.everything:,} tokens, of which {grid.least:,} must be evaluated; bound {grid.bound:.1f} s. "
        f"Pilot of the plain client by concurrency: {pilots}.\n"
    )
    ours = [arm for arm in _OURS if arm in grid.arms]
    lines.append(
        "| arm | runs | median s | over the bound | evaluated / least |" + "".join(f" / {arm} |" for arm in ours)
    )
    lines.append("| --- | --- | --- | --- | --- |" + " --- |" * len(ours))
    for arm in grid.arms:
        seconds = grid.seconds(arm)
        middle = statistics.median(seconds.values())
        cells = [arm, str(len(seconds)), f"{middle:.2f}", f"{middle / grid.bound:.2f}"]
        cells.append(f"{grid.evaluated(arm):,.0f} = {grid.evaluated(arm) / grid.least:.3f}")
        cells += ["" if arm == mine else str(grid.over(arm, mine)) for mine in ours]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{one['arm']} failed in repetition {one['repetition']}: {one['why']}" for one in grid.failures]
    return "\n".join(lines) + "\n"


def _aims(found: Sequence[GridResults]) -> str:
    lines = ["## What was aimed at\n", "| grid | aim | measured | |", "| --- | --- | --- | --- |"]
    for grid in found:
        lines += [
            f"| {grid.name} | {aim} | {measured} | {'met' if met else '**missed**'} |"
            for aim, measured, met in _of(grid)
        ]
    return "\n".join(lines) + "\n"


def _of(grid: GridResults) -> list[tuple[str, str, bool]]:
    """Aim, what was measured, whether it is met."""
    found: list[tuple[str, str, bool]] = []
    for arm, most in _TOKENS.items():
        if grid.name in _TREE_AIM and arm in grid.arms:
            share = grid.evaluated(arm) / grid.least
            found.append((f"{arm}: at most {most:.2f}x the least tokens", f"{share:.3f}", share <= most))
    if (lanes := grid.over("lanes", grid.plain)) and grid.name != "D":
        found.append(
            (
                f"lanes: as fast as the best plain client, or its interval below {_NEAR:.2f}",
                f"takes {lanes} times as long",
                lanes.value <= 1 or lanes.high < _NEAR,
            )
        )
    if (tree := grid.over(grid.plain, "tree")) and grid.name in _TREE_AIM:
        aim = _TREE_AIM[grid.name]
        found.append((f"tree: {aim}x faster than the best plain client", str(tree), tree.value >= aim))
    if "lanes" not in grid.arms:
        return found
    mine = grid.better()
    for peer, aims in _AIMS.items():
        if (beside := grid.over(peer, mine)) and grid.name in aims:
            aim = aims[grid.name]
            found.append((f"{mine}: {aim:g}x faster than {peer}", str(beside), beside.value >= aim))
    if grid.name == "D":
        beside = grid.over(mine, grid.plain)
        if beside is not None:
            found.append(
                (
                    f"{mine}: not slower than the best plain client beyond the noise",
                    f"takes {beside} times as long",
                    beside.low <= 1,
                )
            )
    return found
