"""A scripted comparison: in this process for most tests, as a child process (`python comparison_rig.py DB LOG ...`) for the others."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noa_lab.errors import RunBusy
from noa_lab.experiments import EngineWish, Grid, Run, RunProgress, Store, score, start
from noa_lab.inference import InferenceConfig, InferenceEngine
from noa_lab.testing import Reply, ScriptedEngine

GREEDY = InferenceConfig(temperature=0.0, max_tokens=8)
WARM = InferenceConfig(temperature=0.7, max_tokens=8)


class Held:
    """A script, or the pace of a fake server, that stops for `go` after so many answers: what a test does meanwhile is never too late."""

    def __init__(self, after: int, value: Any = "yes") -> None:
        self._left, self._value = after, value
        self.go = threading.Event()

    def __call__(self, *_: Any) -> Any:
        self._left -= 1
        assert self._left >= 0 or self.go.wait(60), "nobody let it go on"
        return self._value


class Rig:
    """An `engine_for` over scripted engines, which remembers what was opened and asked."""

    def __init__(self, script: Any = "yes", *, slots: int = 2, delay: float = 0.0, **named: Any) -> None:
        self.script, self.slots, self.delay, self.named = script, slots, delay, named
        self.opened: list[str] = []
        self.wishes: list[EngineWish | None] = []
        self.closed: list[str] = []
        self.engines: list[ScriptedEngine] = []
        self.fingerprint: dict[str, Any] = {}

    @contextmanager
    def __call__(self, model: str, wish: EngineWish | None = None) -> Iterator[InferenceEngine]:
        self.wishes.append(wish)
        self.opened.append(model)
        engine = ScriptedEngine(self.script, model_name=model, slots=self.slots, delay=self.delay, **self.named)
        real = engine.fingerprint()
        engine.fingerprint = lambda: {**real, **self.fingerprint}  # type: ignore[method-assign]
        self.engines.append(engine)
        try:
            yield engine
        finally:
            engine.close()
            self.closed.append(model)

    @property
    def calls(self) -> list[Any]:
        return [call for engine in self.engines for call in engine.calls]

    @property
    def asked(self) -> Counter[str]:
        """How often each last message was asked."""
        return Counter(call.prompt[-1].content for call in self.calls)


def grid(size: int = 6, *, tag: str = "", **changes: Any) -> Grid:
    defaults: dict[str, Any] = {
        "prompts": {"plain": f"{tag}Say yes to {{{{ q }}}}", "long": f"{tag}Please say yes to {{{{ q }}}}"},
        "inputs": [{"q": f"item {number}", "expected": "yes"} for number in range(size)],
        "models": ["m"],
        "sampling": [GREEDY],
    }
    return Grid(**{**defaults, **changes})


CONTAINS = score.contains("{{ expected }}")


def run_to_end(store: Store, made: Grid, rig: Any, scorers: Any = (CONTAINS,), **options: Any) -> Run:
    return start(made, scorers, store=store, engine_for=rig, **options).result(timeout=30)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# As a child process


def child(database: Path, log: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(database), str(log), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_log(log: Path) -> list[tuple[str, str]]:
    """(event, detail) in order: "asked" a conversation, "shown" a cell id."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(event, detail) for event, _, detail in (line.partition(" ") for line in lines)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--delay", type=float, default=0.002)
    parser.add_argument("--tag", default="")
    options = parser.parse_args()
    descriptor = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*lines: str) -> None:
        # One write for a line, straight to the kernel: it outlives a SIGKILL.
        os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())

    def script(prompt: Any, config: InferenceConfig) -> Reply:
        note(f"asked {prompt[-1].content} / {config.seed}")
        return Reply(f"yes {prompt[-1].content}", delay=options.delay)

    def shown(progress: RunProgress) -> None:
        if progress.changed:
            done = run.cells(progress.changed).query("status == 'done'")
            note(*(f"shown {cell_id}" for cell_id in done["cell_id"]))

    with Store(options.database) as store:
        try:
            run: Run = start(
                grid(options.inputs, tag=options.tag, sampling=[GREEDY, WARM], repeats=2),
                [score.contains("{{ expected }}")],
                store=store,
                engine_for=Rig(script, slots=4),
            )
        except RunBusy as error:
            print(f"busy {error.fields['pid']}", flush=True)
            return
        run.subscribe(shown)
        print(f"started {run.run_id}", flush=True)
        print(run.result().status, flush=True)


if __name__ == "__main__":
    main()
