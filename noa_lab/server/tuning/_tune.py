"""`tune`: threads, batch and slots, measured one after the other; each with what was found before it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.runtime import machine
from noa_lab.server._settings import ServerSettings
from noa_lab.server.tuning._bench import Bench
from noa_lab.server.tuning._choice import candidates, fastest, smallest_near_best
from noa_lab.server.tuning._slots import measure_slots
from noa_lab.server.tuning._tuned import Tuned, machine_words, write_tuned

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime

__all__ = ["tune"]

STEP = "Tune"
_UBATCHES = (128, 256, 512, 1024, 2048)
_SLOTS = (1, 2, 4, 8)
_DEFAULT_UBATCH = 512
_BATCH = 2048
_TEST_SECONDS = 1.0
"""About how long one measurement shall take."""
_LONG_SECONDS = 5.0
"""The same for one of a long prompt, of which the measurement of batches is one."""


def tune(
    runtime: Runtime,
    model: ModelFile,
    *,
    home: Home,
    gpu_layers: int = 0,
    most_slots: int = max(_SLOTS),
    rounds: int = 3,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> Tuned:
    """Measure which threads, batch and number of slots are fastest for a model here, and remember them.

    Nothing is remembered unless all of it was measured. Other programs that compute at the same time make the result worse: each
    candidate counts with its best round.

    Args:
        runtime: The llama.cpp.
        model: The model.
        home: Where the result is kept.
        gpu_layers: Layers kept on the GPU; -1 for all.
        most_slots: The most slots to try, for models whose cache leaves room for few.
        rounds: How often everything is measured.
        report: Told of the progress.
        cancel: Gives up.

    Raises:
        ServerError: When llama-bench or llama-server fails on the model.
        UnknownName: When the runtime lacks one of them.
        Cancelled: When `cancel` was.
    """
    started = time.monotonic()
    job = _Job(runtime, model, gpu_layers, rounds, report, cancel)
    job.first_look()
    threads, threads_batch = job.threads()
    ubatch = job.ubatch(threads_batch)
    batch = max(_BATCH, ubatch) if gpu_layers else ubatch  # see ServerSettings.batch_size
    settings = ServerSettings(
        threads=threads, threads_batch=threads_batch, batch_size=batch, ubatch_size=ubatch, gpu_layers=gpu_layers
    )
    slots = job.slots(settings, [count for count in _SLOTS if count <= most_slots] or [1])
    found = Tuned(
        model=model.name,
        runtime=runtime.id,
        machine=machine_words(),
        threads=threads,
        threads_batch=threads_batch,
        batch_size=batch,
        ubatch_size=ubatch,
        slots=slots,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        gpu_layers=gpu_layers,
        speeds=job.speeds,
    )
    write_tuned(home, runtime, model, found.machine, found)
    report(Progress(STEP, str(found), done=1, total=1, finished=True))
    return found


class _Job:
    """One tuning: what is measured, and what it has shown so far."""

    def __init__(
        self,
        runtime: Runtime,
        model: ModelFile,
        gpu_layers: int,
        rounds: int,
        report: Report,
        cancel: CancelToken | None,
    ) -> None:
        here = machine()
        self._runtime, self._model = runtime, model
        self._gpu_layers = gpu_layers
        self._counts = candidates(here.cores, here.physical_cores, runtime.threads)
        self._rounds = rounds
        self._report, self._cancel = report, cancel
        self._order = random.Random(1)
        self._prompt, self._generate, self._rate = 64, 16, 64.0
        self.speeds: dict[str, dict[str, float]] = {}
        """What was measured: for each setting tokens a second by value."""
        longest = model.metadata.context_length or _BATCH
        self._ubatches = [each for each in _UBATCHES if each <= max(longest, min(_UBATCHES))]

    def _tell(self, words: str) -> None:
        if self._cancel is not None:
            self._cancel.check("Tuning")
        self._report(Progress(STEP, f"{self._model.name}: {words}"))

    def _new_bench(self) -> Bench:
        return Bench(self._runtime, self._model, gpu_layers=self._gpu_layers, cancel=self._cancel)

    def _rounds_of(self, what: str, values: list[int]) -> Iterator[list[int]]:
        """The values in another order for each round."""
        for number in range(self._rounds):
            self._tell(f"{what} {', '.join(map(str, values))} (round {number + 1} of {self._rounds})")
            yield self._order.sample(values, len(values))

    def first_look(self) -> None:
        """Find out how much of the model's work takes about a second."""
        self._tell("a first look")
        bench, usual = self._new_bench(), max(1, self._runtime.threads)
        bench.measure([usual], [_DEFAULT_UBATCH], prompt=32, generate=8)
        self._prompt = _between(32, bench.reading[usual, _DEFAULT_UBATCH] * _TEST_SECONDS, 512)
        self._generate = _between(8, bench.writing[usual, _DEFAULT_UBATCH] * _TEST_SECONDS, 64)

    def threads(self) -> tuple[int, int]:
        """Threads for generating and for prompts."""
        bench, usual = self._new_bench(), max(1, self._runtime.threads)
        for counts in self._rounds_of("threads", self._counts):
            bench.measure(counts, [_DEFAULT_UBATCH], prompt=self._prompt, generate=self._generate)
        writing = {threads: speed for (threads, _), speed in bench.writing.items()}
        reading = {threads: speed for (threads, _), speed in bench.reading.items()}
        self.speeds |= {"threads": _words(writing), "threads_batch": _words(reading)}
        self._rate = max(reading.values())
        best = fastest(writing, usual)
        return best, fastest(reading, best)

    def ubatch(self, threads: int) -> int:
        """Prompt tokens computed at once; on a prompt that fills the largest candidate, or as long a one as takes about 5 s."""
        prompt = max(self._prompt, min(max(self._ubatches), int(_LONG_SECONDS * self._rate)))
        tried = [each for each in self._ubatches if each <= max(prompt, _DEFAULT_UBATCH)]
        bench = self._new_bench()
        for values in self._rounds_of("ubatch", tried):
            bench.measure([threads], values, prompt=prompt, generate=0)
        reading = {tokens: speed for (_, tokens), speed in bench.reading.items()}
        self.speeds["ubatch_size"] = _words(reading)
        return fastest(reading, _DEFAULT_UBATCH)

    def slots(self, settings: ServerSettings, choices: list[int]) -> int:
        """Requests worked on at the same time."""
        speeds = measure_slots(
            self._runtime,
            self._model,
            settings,
            choices,
            tokens=self._generate,
            rounds=self._rounds,
            tell=lambda count: self._tell(f"{count} requests at once"),
            cancel=self._cancel,
        )
        self.speeds["slots"] = _words(speeds)
        return smallest_near_best(speeds)


def _between(least: int, wanted: float, most: int) -> int:
    return max(least, min(most, int(wanted)))


def _words(speeds: dict[int, float]) -> dict[str, float]:
    return {str(value): round(speed, 2) for value, speed in sorted(speeds.items())}
