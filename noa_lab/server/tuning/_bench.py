"""Speeds from llama-bench (`tools/llama-bench` of llama.cpp): one JSON object a line for each combination and test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import ServerError
from noa_lab.events import CancelToken
from noa_lab.runtime import run_tool

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime

__all__ = ["Bench"]

_LONGEST_SECONDS = 1800.0

Key = tuple[int, int]
"""Threads and tokens of a batch that are computed at once."""


class Bench:
    """llama-bench on one model; keeps the best speed that each combination has shown, since other programs only ever make one slower.

    Args:
        runtime: The llama.cpp.
        model: The model.
        gpu_layers: Layers kept on the GPU; -1 for all.
        cancel: Ends a measurement.
    """

    def __init__(self, runtime: Runtime, model: ModelFile, *, gpu_layers: int, cancel: CancelToken | None) -> None:
        self._runtime, self._model, self._cancel = runtime, model, cancel
        self._gpu_layers = gpu_layers
        self.reading: dict[Key, float] = {}
        """Prompt tokens a second."""
        self.writing: dict[Key, float] = {}
        """Generated tokens a second."""

    def measure(self, threads: Sequence[int], ubatches: Sequence[int], *, prompt: int, generate: int) -> None:
        """Measure every combination once, in this order.

        Args:
            threads: Thread counts.
            ubatches: Tokens of a batch that are computed at once.
            prompt: Prompt tokens to read; 0 for none.
            generate: Tokens to generate; 0 for none.

        Raises:
            ServerError: When llama-bench dies, hangs or prints no speeds.
            Cancelled: When `cancel` was.
        """
        layers = 999 if self._gpu_layers < 0 else self._gpu_layers
        arguments = ["-m", str(self._model.path), "-t", _list(threads), "-ub", _list(ubatches), "-b", "2048"]
        arguments += ["-p", str(prompt), "-n", str(generate), "-r", "1", "-ngl", str(layers), "-o", "jsonl"]
        done = run_tool(self._runtime, "llama-bench", arguments, seconds=_LONGEST_SECONDS, cancel=self._cancel)
        rows = [json.loads(line) for line in done.tail if line.startswith("{")]
        if done.returncode or done.timed_out or not rows:
            said = next((line for line in reversed(done.tail) if line.strip()), "it said nothing")
            raise ServerError(
                f"llama-bench could not measure {self._model.name}: {said.strip()[:200]}.",
                fix="Check the model with `noa-lab models verify`, and whether it fits with `noa-lab models fit`.",
                model=self._model.name,
                exit_code=done.returncode,
            )
        for row in rows:
            self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        key = (int(row["n_threads"]), int(row["n_ubatch"]))
        seconds = min(row["samples_ns"]) / 1e9
        for speeds, tokens in ((self.reading, int(row["n_prompt"])), (self.writing, int(row["n_gen"]))):
            if tokens and seconds > 0:
                speeds[key] = max(speeds.get(key, 0.0), tokens / seconds)


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
