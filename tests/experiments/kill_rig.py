"""A comparison on a server of its own that can be killed: `python kill_rig.py DB SERVER_FILE --inputs N --tag TAG`.

The runner is this process, or a Jupyter kernel that runs `work`; the server is the fake of noa_lab.testing as a third process, which
takes its time for each answer. Where it dies, the engine is opened again, and with it another server. When the work began, and how long
the first server took to start, stands in a file beside the server's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from noa_lab.experiments import EngineWish, Grid, Store, score, start
from noa_lab.inference import InferenceEngine, LlamaInferenceEngine

SAMPLINGS = [{"temperature": 0.0, "max_tokens": 8}, {"temperature": 0.7, "max_tokens": 8}]
CELLS_PER_INPUT = 6
"""Two prompts, each asked once greedily and twice warm."""


class Servers:
    """An `engine_for` whose server is a child process; its pid stands in a file as long as it is up.

    Args:
        file: Where the pid is written.
        seconds: How long an answer takes.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._seconds = file, seconds
        self._times = {"begun": time.time()}

    @contextlib.contextmanager
    def __call__(self, model: str, wish: EngineWish | None = None) -> Iterator[InferenceEngine]:
        command = [sys.executable, "-W", "ignore", "-m", "noa_lab.testing._fake_slots"]
        command += ["--slots", "4", "--seconds", str(self._seconds)]
        opening = time.time()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            url = process.stdout.readline().split()[-1]
            self._times.setdefault("server", time.time() - opening)
            written(self._file.with_suffix(".times"), json.dumps(self._times))
            written(self._file, str(process.pid))
            with LlamaInferenceEngine(url, model, patience=5.0) as engine:
                yield engine
        finally:
            self._file.unlink(missing_ok=True)
            process.kill()
            process.wait()
            process.stdout.close()


def written(file: Path, text: str) -> None:
    part = file.with_suffix(f"{file.suffix}.part")
    part.write_text(text)
    os.replace(part, file)


def grid(inputs: int, tag: str) -> Grid:
    prompts = {"plain": f"{tag}: say yes to {{{{ q }}}}", "long": f"{tag}: please say yes to {{{{ q }}}}"}
    rows = [{"q": f"item {number}", "expected": "yes"} for number in range(inputs)]
    return Grid(prompts, rows, ["m"], SAMPLINGS, repeats=2)


def work(database: Path, server_file: Path, inputs: int, tag: str, seconds: float = 0.002) -> str:
    """Begin the grid, or go on with it; returns how it ended."""
    servers = Servers(server_file, seconds)
    with Store(database) as store:
        made = grid(inputs, tag)
        scorers = [score.contains("{{ expected }}")]
        return start(made, scorers, store=store, engine_for=servers, name=tag).result().status


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("server_file", type=Path)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--tag", required=True)
    options = parser.parse_args()
    print(work(options.database, options.server_file, options.inputs, options.tag), flush=True)
