"""A Lab that answers at once, with the same method signatures as the real one; a contract test compares them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from panel_fake_models import FakeModels

from noa_lab.errors import RuntimeMissing
from noa_lab.events import Progress, silent
from noa_lab.experiments import RunProgress, estimate
from noa_lab.runtime import InstallPlan, Obstacle, Runtime, spelled_out
from noa_lab.runtime._wish import read_wish
from noa_lab.server import CheckResult, ServerStatus, Tuned
from noa_lab.workbench import Finding, Report

RUNTIME = Runtime(
    "b11312-cpu",
    Path("/home/x/runtimes/b"),
    "sdist",
    "b11312",
    11312,
    "0c1e57098",
    threads=2,
    compiler="gcc 12",
    tools=("llama-server",),
)


class FakeLab:
    """`gate`: when given, long work waits for it, and stops when cancelled."""

    def __init__(self, home=None):
        self.home = home
        self.gate = None
        self.error = None
        self.threads = set()
        self.installed = False
        self.notes = ()
        self.builds = [RUNTIME]
        self.calls = []
        self.up = []
        self.foreign = []
        self.healthy = True
        self.run = None
        self.earlier = None
        self.models = FakeModels(self)

    def work(self, step, report, cancel, *, unit="", total=20.0):
        self.threads.add(threading.current_thread().name)
        for done in range(20):
            report(Progress(step, f"part {done}", done * total / 20, total, unit))
        while self.gate is not None and not self.gate.wait(0.01):
            if cancel is not None:
                cancel.check(step)
        if self.error is not None:
            raise self.error
        report(Progress(step, "done", total, total, unit, finished=True))

    def check(self):
        here = self.installed
        return Report((
            Finding("CPU", "ok", "Imaginary CPU, 2 cores (avx2)"),
            Finding("Memory", "warning", "1.2 of 4.0 GiB free", "Close other programs, or use a small model."),
            Finding("llama.cpp", "ok", "b11312") if here else Finding("llama.cpp", "problem", "not here <b>", "Run `noa-lab install`."),
        ))  # fmt: skip

    @spelled_out
    def install(self, *, report=silent, cancel=None, **options):
        self.calls.append(("install", options))
        self.work("Build llama.cpp", report, cancel)
        self.installed = True
        return replace(RUNTIME, notes=self.notes)

    @spelled_out
    def plan_install(self, **options):
        wish = read_wish(options)
        if wish.way == "system":
            obstacle = Obstacle("There is no llama-server on PATH <b>.", "Install one.")
            return InstallPlan("system", (), obstacles=(obstacle,))
        if wish.plain and self.installed:
            return InstallPlan("auto", ("Nothing: b11312-cpu is here, was tried, and is in use",), ready=True)
        steps = (f"Get llama.cpp by {wish.way} {wish.tag or ''}", "Try it", "Switch servers to it")
        return InstallPlan(wish.way, steps, ("the one in use stays",))

    def rollback(self):
        if len(self.builds) < 2:
            raise RuntimeMissing("There is no earlier llama.cpp to go back to.", fix="Install another one.")
        self.builds.reverse()
        return self.runtimes()[0]

    def runtimes(self):
        if not self.installed:
            return []
        return [
            replace(one, marks=("current",) if number == 0 else ("previous",)) for number, one in enumerate(self.builds)
        ]

    # Servers

    def serve(self, ref=None, *, keep=False, allow_oversize=False, report=silent, cancel=None, **settings):
        self.calls.append(("serve", ref, keep, settings))
        self.work("Start llama-server", report, cancel)
        server = FakeServer(self, ref or "smollm2-135m")
        self.up = [*self.up, server]
        return server

    def servers(self):
        return [server.status() for server in self.up]

    def foreign_servers(self):
        return list(self.foreign)

    def keep(self, name, *, stay=True):
        self.calls.append(("keep", name, stay))
        for server in self.up:
            server.more["keep"] = stay

    def test_server(self, target=None, *, api_key=None, timeout=60.0):
        self.calls.append(("test_server", target))
        return [CheckResult("health", True, "ok", 3.0), CheckResult("completion", self.healthy, "8 tokens", 120.0)]

    def tune(self, ref=None, *, rounds=3, report=silent, cancel=None):
        self.calls.append(("tune", ref))
        self.work("Tune", report, cancel)
        return Tuned("smollm2-135m", "b11312-cpu", "here", 2, 2, 2048, 512, 4, "2026-11-25T00:00:00+00:00")

    def stop(self, name):
        self.calls.append(("stop", name))
        self.up = [server for server in self.up if server.name != name]

    # Comparisons

    def estimate(self, grid):
        return estimate(grid.with_default_model("smollm2-135m"))

    def newest_run(self, grid, *, executor="auto"):
        return self.earlier

    def compare(self, grid, scorers=(), *, fresh=False, name="", executor="auto", budget=None):
        self.calls.append(("compare", grid, tuple(scorers), fresh, name))
        if self.error is not None:
            raise self.error
        self.run = FakeRun(grid.with_default_model("smollm2-135m"), tuple(scorers), name)
        return self.run


class FakeServer:
    def __init__(self, lab, name):
        self._lab, self.name = lab, name
        self.base_url = "http://127.0.0.1:40123"
        self.api_key = "sk-THE-SECRET"
        self.released = False
        self.state = "ready"
        self.more = {}

    def status(self):
        facts = {
            "holders": 1, "held_by": ("notebook (pid 42)",), "slots_busy": 1, "slots_total": 2, "tokens_per_second": 41.5,
            "tokens_per_second_now": 38.0, "memory_bytes": 260_000_000, "memory_peak_bytes": 300_000_000, "uptime_seconds": 83.0,
            "notes": ("context_size 9000 is more than the model was trained for.",), "origins": {"threads": "tuned for this model"},
            "slots": ({"id": 0, "busy": True, "context_size": 4096, "read": 1200, "written": 17},
                      {"id": 1, "busy": False, "context_size": 4096, "read": 0, "written": 0}),
        }  # fmt: skip
        settings = {"context_size": 4096, "slots": 2, "threads": 2}
        return ServerStatus(
            self.name, self.state, "smollm2-135m", 4711, self.base_url, "b11312-cpu", settings, **{**facts, **self.more}
        )

    def release(self):
        self.released = True
        self._lab.stop(self.name)


class FakeRun:
    """A run whose cells the test finishes by hand: `answer(count)`."""

    run_id = "r-2f9c81d4"

    def __init__(self, grid, scorers, name):
        self.grid, self.name = grid, name
        self.prompts = tuple(grid.prompts)
        self.scorers = tuple(getattr(scorer, "name", str(scorer)) for scorer in scorers)
        self.status = "running"
        self.error = ""
        self.calls = []
        self.reads = 0
        self._cells = [
            {"prompt": prompt, "input_id": found.id, "model": model, "sampling": sampling, "repeat": repeat, "status": "pending",
             "answer": None, "error": None, "finish_reason": None, **{f"score.{name}": None for name in self.scorers}}
            for found in grid.inputs for prompt in self.prompts for model in grid.models
            for sampling in range(len(grid.sampling)) for repeat in range(grid.repeats)
        ]  # fmt: skip

    def answer(self, count, text="An answer.", score=1.0, error=None):
        waiting = [cell for cell in self._cells if cell["status"] == "pending"]
        for cell in waiting[:count]:
            cell.update(status="failed", error=error) if error else cell.update(
                status="done", answer=text, finish_reason="stop"
            )
            cell.update({} if error else {f"score.{name}": score for name in self.scorers})
        if all(cell["status"] != "pending" for cell in self._cells):
            self.status = "done"

    def progress(self):
        counts = {
            status: sum(cell["status"] == status for cell in self._cells)
            for status in ("done", "failed", "running", "pending")
        }
        return RunProgress(
            self.run_id, self.status, total=len(self._cells), eta_seconds=12.0, error=self.error, **counts
        )

    def cells(self):
        self.reads += 1
        return pd.DataFrame(self._cells)

    def pause(self):
        self.status = "paused"

    def resume(self):
        self.status = "running"

    def cancel(self):
        self.status = "cancelled"

    def verdicts(self, margin=0.05):
        over, *arms = self.prompts
        return [
            SimpleNamespace(
                outcome="better", sentence=f"{arm} is better than {over} on {on}: +0.25 [0.10, 0.40], 24 inputs."
            )
            for on in self.scorers
            for arm in arms
        ]

    def report(self, path):
        Path(path).write_text("<html>")
        return Path(path)
