"""How many threads are fastest on this machine."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from noa_lab.events import CancelToken
from noa_lab.runtime._libraries import beside_first
from noa_lab.runtime._process import clean_environment, run
from noa_lab.runtime._rejection import rejected, rejected_for
from noa_lab.runtime._smoke import program

__all__ = ["fastest_threads"]


def fastest_threads(folder: Path, model: Path, cores: int, *, cancel: CancelToken | None = None) -> int:
    """Which thread count is fastest on this machine, measured with llama-bench on the small model.

    A core more is not always faster: two noisy virtual cores were once seven times slower than one.

    Args:
        folder: llama.cpp's programs.
        model: A small GGUF file.
        cores: Cores that may be used.
        cancel: Ends the measurement.

    Returns:
        Of 1, 2, 4, ... and `cores`, the one with the least time for 32 prompt tokens and 16 generated ones. The best of 3 runs
        counts for each, because other programs only ever make a run slower.

    Raises:
        RuntimeRejected: When llama-bench dies, hangs or prints no numbers.
        Cancelled: When `cancel` was.
    """
    choices = sorted({1, cores, *(2**power for power in range(1, cores.bit_length()) if 2**power <= cores)})
    if choices == [1]:
        return 1
    bench = program(folder, "llama-bench")
    private = Path(tempfile.mkdtemp(prefix="noa-lab-bench-"))
    try:
        counts = ",".join(map(str, choices))
        command = [str(bench), "-m", str(model), "-t", counts, *["-p", "32", "-n", "16"], *["-r", "3", "-o", "jsonl"]]
        done = run(command, env=beside_first(clean_environment(private), folder), seconds=120, cancel=cancel)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if done.returncode != 0 or done.timed_out:
        raise rejected_for(folder, bench.name, done)
    seconds: dict[int, float] = dict.fromkeys(choices, 0.0)
    try:
        for line in done.tail:
            if line.startswith("{"):
                row = json.loads(line)
                seconds[int(row["n_threads"])] += min(row["samples_ns"]) / 1e9
    except (ValueError, LookupError, TypeError):
        # Another age's llama-bench, or not llama.cpp's at all.
        raise rejected(folder, f"{bench.name} printed what is no time", "wrong answer") from None
    if not all(seconds.values()):
        raise rejected(folder, f"{bench.name} printed no times", "wrong answer")
    return min(seconds, key=seconds.__getitem__)
