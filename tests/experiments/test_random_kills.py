"""`kill -9` of the runner, of its kernel and of its server, at random moments: nothing finished is lost, nothing is recorded twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import kill_rig
import psutil
import pytest
from kill_rig import CELLS_PER_INPUT

from noa_lab.experiments import Store, list_runs

VICTIMS = ("runner", "server", "server", "kernel")
RIG = kill_rig.__file__
SECONDS = 60.0


class Runner:
    """The comparison in a process of its own."""

    def __init__(self, place: Path, inputs: int, tag: str) -> None:
        command = [sys.executable, RIG, str(place / "runs.db"), str(place / "server.pid"), "--inputs", str(inputs)]
        with (place / "runner.log").open("a") as log:
            self._process = subprocess.Popen([*command, "--tag", tag], stdout=log, stderr=log)

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    close = kill


class Kernel:
    """The comparison in a Jupyter kernel, as a notebook's cell."""

    def __init__(self, place: Path, inputs: int, tag: str) -> None:
        from jupyter_client.manager import KernelManager

        self._manager = KernelManager(kernel_name="python3")
        self._manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        with (place / "kernel.log").open("a") as log:
            self._manager.start_kernel(stdout=log, stderr=log)
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)
        paths = f"Path({str(place / 'runs.db')!r}), Path({str(place / 'server.pid')!r})"
        self._cell = self._client.execute(
            f"import sys; sys.path.insert(0, {str(Path(RIG).parent)!r})\nfrom pathlib import Path\nimport kill_rig\n"
            f"kill_rig.work({paths}, {inputs}, {tag!r})"
        )

    @property
    def over(self) -> bool:
        with contextlib.suppress(Exception):  # queue.Empty, most of the time
            return self._client.get_shell_msg(timeout=0)["parent_header"].get("msg_id") == self._cell
        return False

    def kill(self) -> None:
        os.kill(self._manager.provisioner.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


class Matrix:
    """Kills at random and looks at what is left, in one store.

    Args:
        place: A folder.
        inputs: Of each grid; where a run comes to its end, the next grid begins.
        seed: Of what is killed when.
    """

    def __init__(self, place: Path, inputs: int, seed: int) -> None:
        self._place, self._inputs = place, inputs
        self._draw = random.Random(seed)
        self._number = 1
        self._kept: dict[tuple[str, str], tuple] = {}
        self._again = False
        """Whether the run that is begun next goes on with one that was killed."""
        self.killed: Counter[str] = Counter()
        self.resumed: list[tuple[float, float, float]] = []
        """Of each resumed run: seconds from the start of its process to the first new answer, from the call of `start` to it, and
        how many of them the fake server took to start."""

    def kill(self, trials: int, victims: tuple[str, ...]) -> None:
        waiting = [victims[number % len(victims)] for number in range(trials)]
        self._draw.shuffle(waiting)
        ended = True
        while waiting:
            kind = Kernel if waiting[-1] == "kernel" else Runner
            self._again, started = not ended, time.time()
            runner = kind(self._place, self._inputs, f"g{self._number}")
            try:
                ended = not self._wait_for_more(runner)
                if self._again and not ended:
                    self._note_resumed(started)
                while waiting and not ended:
                    victim = waiting[-1]
                    if (victim == "kernel") != (kind is Kernel) and victim != "server":
                        break  # another kind of runner is next; ending this one is a kill as well
                    time.sleep(self._draw.uniform(0, 0.3))
                    if runner.over:
                        ended = True
                        break
                    if victim == "server":
                        self._end_server()
                    else:
                        runner.kill()
                    waiting.pop()
                    self.killed[victim] += 1
                    self._check()
                    if victim != "server":
                        break
                    ended = not self._wait_for_more(runner)
                self._number += ended
            finally:
                runner.close()
                self._end_server()
        self._again = not ended

    def finish(self) -> None:
        """Let the last grid come to its end, and look at all of them."""
        started = time.time()
        runner = Runner(self._place, self._inputs, f"g{self._number}")
        try:
            deadline = time.monotonic() + 120
            while not runner.over:
                assert time.monotonic() < deadline, (self._place / "runner.log").read_text()[-2000:]
                time.sleep(0.02)
        finally:
            runner.close()
            self._end_server()
        self._check()
        if self._again:
            self._note_resumed(started)
        with Store(self._place / "runs.db") as store:
            runs = list_runs(store)
            assert len({run.name for run in runs}) == len(runs) == self._number
            assert [(run.done, run.failed) for run in runs] == [(self._inputs * CELLS_PER_INPUT, 0)] * self._number
            for run in runs:
                cells = store.cells(run.run_id)
                assert len({cell["cell_id"] for cell in cells}) == len(cells) == self._inputs * CELLS_PER_INPUT
                assert {cell["answer"] for cell in cells} == {"yes"}
                assert all(cell["scores"] for cell in cells)

    def _note_resumed(self, started: float) -> None:
        times = json.loads((self._place / "server.times").read_text())
        new = [found[-1] for found in self._done().values() if (found[-1] or 0) > times["begun"]]
        if new and times["begun"] > started:  # else everything was answered before, and only the end was missing
            self.resumed.append((min(new) - started, min(new) - times["begun"], times["server"]))

    def report_resumed(self) -> None:
        """Say how soon resumed runs had their first new answer; the bound is for a machine that does other things as well."""
        assert self.resumed
        soon = [statistics.median(each) for each in zip(*self.resumed, strict=True)]
        own = [call - server for _, call, server in self.resumed]
        print(
            f"{len(self.resumed)} resumed runs, medians: first new answer {soon[0]:.2f} s after the start of the process, {soon[1]:.2f} s "
            f"after the call, of which the fake server took {soon[2]:.2f} s to start; without that {statistics.median(own):.2f} s "
            f"({min(own):.2f} to {max(own):.2f} s)"
        )
        assert statistics.median(own) < 60

    def _wait_for_more(self, runner: Runner | Kernel) -> bool:
        """Wait until something more is finished; False when the run is over."""
        before, deadline = len(self._kept), time.monotonic() + SECONDS
        while not runner.over:
            if len(self._done()) > before:
                return True
            assert time.monotonic() < deadline, "nothing is finished any more"
            time.sleep(0.01)
        return False

    def _done(self) -> dict[tuple[str, str], tuple]:
        """What is recorded of the finished cells, times included: one that was asked again has another."""
        path = self._place / "runs.db"
        if not path.exists():
            return {}
        connection = sqlite3.connect(path, timeout=30)
        try:
            rows = connection.execute(
                "SELECT run_id, cell_id, answer, seed, total_ms, queue_ms, finished FROM cells WHERE status = 'done'"
            ).fetchall()
        except sqlite3.OperationalError:
            return {}  # the tables are just being made
        finally:
            connection.close()
        return {row[:2]: row[2:] for row in rows}

    def _check(self) -> None:
        now = self._done()
        assert self._kept.items() <= now.items(), "a finished cell was lost, or asked again"
        self._kept = now

    def _end_server(self) -> None:
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self._place / "server.pid").read_text()))
            if "noa_lab.testing._fake_slots" in process.cmdline():
                process.kill()
                process.wait(10)


def test_a_few_kills_of_runner_server_and_kernel(tmp_path):
    matrix = Matrix(tmp_path, inputs=60, seed=3)
    matrix.kill(5, ("runner", "server", "server", "kernel", "runner"))
    matrix.finish()
    assert matrix.killed == {"runner": 2, "server": 2, "kernel": 1}
    matrix.report_resumed()


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_hundred_kills_over_five_thousand_cells(tmp_path):
    matrix = Matrix(tmp_path, inputs=834, seed=5)
    matrix.kill(200, VICTIMS)
    matrix.finish()
    assert matrix.killed == {"runner": 50, "server": 100, "kernel": 50}
    matrix.report_resumed()
