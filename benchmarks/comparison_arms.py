"""The arms of `comparisons.py`: each answers a whole grid once, on a server that has seen nothing yet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comparison_grids import BenchGrid, as_grid
from comparison_peers import Peers
from comparison_servers import (
    Bare,
    Counts,
    bare_server,
    endless_model,
    home_beside,
    least_tokens,
    peak_decode,
    read_counts,
    small_model,
)

from noa_lab import runtime, server
from noa_lab.errors import NoaLabError
from noa_lab.experiments import EngineWish
from noa_lab.inference import InferenceEngine, LlamaInferenceEngine
from noa_lab.paths import Home
from noa_lab.server import Server
from noa_lab.workbench import Lab

__all__ = ["CONCURRENCY", "ArmFailed", "Bench", "Took", "version_of"]

CONCURRENCY = (1, 2, 4, 8)


class ArmFailed(Exception):
    """An arm that did not answer the grid as it was asked to."""


@dataclass(frozen=True)
class Took:
    """A grid answered once.

    Attributes:
        seconds: From the first question to the last answer; starting the server is not in it.
        evaluated: Prompt tokens evaluated.
        generated: Tokens generated.
        starting: Seconds that starting the server or loading the model took.
    """

    seconds: float
    evaluated: int
    generated: int
    starting: float = 0.0


class _TimedLab(Lab):
    """A Lab that notes how long its engines take to come and to go, and what their servers counted."""

    opening = closing = 0.0
    counts: Counts | None = None
    tree_is_there = True

    def serve(self, ref: str | None = None, **settings: Any) -> Server:
        self.held = super().serve(ref, **settings)
        return self.held

    @contextlib.contextmanager
    def engine_for(self, ref: str, wish: EngineWish | None = None) -> Iterator[InferenceEngine]:
        began = time.perf_counter()
        with super().engine_for(ref, wish) as engine:
            engine.fingerprint()  # an embedded model is loaded when it is first asked for something
            self.opening = time.perf_counter() - began
            on_server = isinstance(engine, LlamaInferenceEngine)
            self.tree_is_there = not (on_server and wish is not None and wish.executor == "tree")
            if self.tree_is_there:
                yield engine
            else:
                raise NoaLabError("This noa_lab has no tree executor for this model.", fix="Leave the arm out.")
            left = time.perf_counter()
            self.counts = read_counts(self.held.base_url, str(self.held.api_key)) if on_server else None
        self.closing = time.perf_counter() - left


class Bench:
    """Everything that the arms need.

    Args:
        folder: For the model's copy, logs and a home of its own; the caller removes it.
        peers: promptfoo and Inspect; None leaves their arms out.
    """

    def __init__(self, folder: Path, peers: Peers | None) -> None:
        own = Home.default()
        self.runtime = runtime.current(own)
        self.model = endless_model(small_model(own).path, folder / "endless.gguf")
        self._folder, self._peers, self._numbers = folder, peers, 0
        self._home = home_beside(own, folder)
        self.executors = ["lanes", "tree"] if self._has_tree() else ["lanes"]

    def arms(self, grid: BenchGrid) -> list[str]:
        """Those that the grid is run by, beside the plain client."""
        return [*self.executors, *(["promptfoo", "inspect"] if self._peers and grid.peers else [])]

    def run(self, arm: str, grid: BenchGrid) -> Took:
        """One arm, once: "plain 4" is the plain client at concurrency 4."""
        if arm in self.executors:
            took = self._ours(arm, grid)
        elif arm.startswith("plain "):
            took = self._plain(grid, int(arm.split()[1]))
        else:
            took = self._peer(arm, grid)
        if took.generated != grid.size * grid.max_tokens:
            raise ArmFailed(f"{took.generated} tokens generated, not {grid.size * grid.max_tokens}")
        return took

    def limits(self, grids: list[BenchGrid]) -> dict[str, Any]:
        """Peak speeds in tokens a second, and the least prompt tokens of each grid."""
        command = [self.runtime.tool("llama-bench"), "-m", self.model, "-p", "512", "-n", "0", "-r", "4"]
        command += ["-t", str(self.runtime.threads), "-o", "json"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        with self._bare() as bare:
            least = {grid.name: asyncio.run(least_tokens(bare, list(grid.conversations()))) for grid in grids}
            every = {grid.name: asyncio.run(_all_tokens(bare, grid)) for grid in grids}
        decode = peak_decode(self.runtime, self.model, self._folder / "decode.log")
        prefill = max(speed for one in found for speed in one["samples_ts"])
        return {"prefill": prefill, "decode": decode, "least": least, "all": every}

    def _bare(self, slots: int | None = None) -> contextlib.AbstractContextManager[Bare]:
        self._numbers += 1
        return bare_server(self.runtime, self.model, self._folder / f"server-{self._numbers}.log", slots)

    def _plain(self, grid: BenchGrid, concurrency: int) -> Took:
        with self._bare(concurrency) as bare:
            seconds = asyncio.run(_ask_all(bare, grid, concurrency))
            return Took(seconds, **asdict(read_counts(bare.url, bare.key)))

    def _peer(self, arm: str, grid: BenchGrid) -> Took:
        assert self._peers is not None
        with self._bare() as bare:
            took = getattr(self._peers, arm)(grid, bare.url, bare.key)
            if took.answers != grid.size or took.errors:
                raise ArmFailed(str(took))
            return Took(took.seconds, **asdict(read_counts(bare.url, bare.key)))

    def _ours(self, executor: str, grid: BenchGrid) -> Took:
        server.stop_all(self._home)
        (self._home.root / "runs.db").unlink(missing_ok=True)
        for extra in ("-wal", "-shm"):
            (self._home.root / f"runs.db{extra}").unlink(missing_ok=True)
        lab = _TimedLab(self._home)
        lab.models.get(str(self.model))
        try:
            began = time.perf_counter()
            run = lab.compare(as_grid(grid, str(self.model)), executor=executor, fresh=True)
            run.result()
            seconds = time.perf_counter() - began - lab.opening - lab.closing
            (plan,) = run.plan
            counts = lab.counts or Counts(plan.evaluated, plan.generated)
            # Beginnings that are shared end in a token of their own: the server's count of generated ones holds these too.
            generated = int(run.cells()["completion_tokens"].sum())
            return Took(seconds, counts.evaluated, generated, starting=lab.opening)
        finally:
            lab.store.close()
            server.stop_all(self._home)

    def _has_tree(self) -> bool:
        """Whether this noa_lab can run the model as a tree."""
        lab = _TimedLab(self._home)
        wish = EngineWish("tree", 2, 512)
        try:
            with lab.engine_for(str(self.model), wish):
                return True
        except NoaLabError:
            return False
        finally:
            server.stop_all(self._home)


async def _ask_all(bare: Bare, grid: BenchGrid, concurrency: int) -> float:
    """The plain client: so many workers over the conversations in the order that shares most."""
    waiting = iter(list(grid.conversations()))

    async def work() -> None:
        for messages in waiting:
            body = {"messages": messages, "temperature": 0, "max_tokens": grid.max_tokens}
            (await ask.post("/v1/chat/completions", json=body)).raise_for_status()

    async with bare.client() as ask:
        await ask.get("/health")
        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - began


async def _all_tokens(bare: Bare, grid: BenchGrid) -> int:
    """Tokens of all prompts together."""
    total = 0
    async with bare.client() as ask:
        for messages in grid.conversations():
            text = (await ask.post("/apply-template", json={"messages": messages})).json()["prompt"]
            found = (
                await ask.post("/tokenize", json={"content": text, "add_special": True, "parse_special": True})
            ).json()
            total += len(found["tokens"])
    return total


def version_of(command: Path) -> str:
    """What a program of llama.cpp says of its version."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    found = re.search(r"version: (.+)", done.stdout + done.stderr)
    return found[1] if found else ""
