"""What past loads really took: a small record in the home that corrects the next prediction."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from noa_lab.events import silent
from noa_lab.models.memory._parts import MemoryParts, Prediction
from noa_lab.models.memory._program import TOUCHED_AT_START, WORKING_BYTES
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.paths import Home, write_atomic
from noa_lab.runtime import exclusive

__all__ = ["Correction", "Load", "corrected", "correction_for", "past_loads", "record_load"]

_MOST_KEPT = 300
_MAPPED = frozenset({"auto", "mmap", "mmap+mlock"})
_LEAST_SPREAD = 2_000_000
"""What the peaks of one and the same load differ by from time to time."""


@dataclass(frozen=True, slots=True)
class Load:
    """One model that a llama-server has loaded.

    Attributes:
        model: Its name.
        sha256: Hash of its file; "" where it is not known.
        architecture: For example "llama".
        runtime: Id of the llama.cpp.
        settings: How it was run.
        load_mode: How the file got into memory, as `ServerSettings` names it.
        peak_bytes: Most memory that the process had right after it had loaded.
        host: What was predicted, by its parts.
        repacked: Weights that were rearranged for this CPU.
        at: When, seconds since the epoch.
    """

    model: str
    sha256: str
    architecture: str
    runtime: str
    settings: MemorySettings
    load_mode: str
    peak_bytes: int
    host: MemoryParts
    repacked: int = 0
    at: float = field(default_factory=time.time)

    @property
    def identity(self) -> tuple[object, ...]:
        """What two loads have in common that are worth remembering once: model, llama.cpp, settings, load mode."""
        return self.sha256 or self.model, self.runtime, self.settings, self.load_mode

    @property
    def surprise(self) -> int:
        """Bytes that the load took more than was predicted for its start."""
        host = self.host
        expected = host.weights + host.kv_cache + host.output + host.program - WORKING_BYTES
        expected += int(TOUCHED_AT_START * host.compute)
        # A mapped file stays in memory until what is rearranged has been copied out of it.
        return self.peak_bytes - expected - (self.repacked if self.load_mode in _MAPPED else 0)


@dataclass(frozen=True, slots=True)
class Correction:
    """What past loads say about the next.

    Attributes:
        bytes: To be added to the prediction.
        spread: How far single loads were from that, at most.
        loads: How many they were.
        of: What they have in common with the next: "model", "architecture" or "llama.cpp".
    """

    bytes: int
    spread: int
    loads: int
    of: str


def record_load(home: Home, load: Load) -> None:
    """Remember a load; of several with the same model and settings the newest is kept.

    Raises:
        OSError: When the home cannot be written to.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with exclusive(_path(home).with_suffix(".lock"), "Remember the load", report=silent, cancel=None):
        kept = [old for old in past_loads(home) if old.identity != load.identity][1 - _MOST_KEPT :]
        records = [asdict(each) for each in (*kept, load)]
        write_atomic(_path(home), json.dumps({"loads": records}, indent=1) + "\n")


def past_loads(home: Home) -> list[Load]:
    """The loads that are remembered, the oldest first; [] where there is no readable record."""
    try:
        found = json.loads(_path(home).read_text(encoding="utf-8"))["loads"]
        return [_from_record(each) for each in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def correction_for(
    loads: Sequence[Load], *, sha256: str, architecture: str, runtime: str, settings: MemorySettings
) -> Correction | None:
    """What to correct a prediction by: from loads of the same model, else of its architecture, else of this llama.cpp.

    Loads with layers on a GPU say nothing about those without, and the other way round.
    """
    alike = [
        load
        for load in loads
        if load.runtime == runtime
        and bool(load.settings.gpu_layers) == bool(settings.gpu_layers)
        # Less than its weights: the system had put a part of it out of memory again.
        and load.surprise > -load.host.program
    ]
    for of, chosen in (
        ("model", [load for load in alike if sha256 and load.sha256 == sha256]),
        ("architecture", [load for load in alike if load.architecture == architecture]),
        ("llama.cpp", alike),
    ):
        if chosen:
            surprises = [load.surprise for load in chosen]
            middle = int(median(surprises))
            spread = max(_LEAST_SPREAD, *(abs(each - middle) for each in surprises))
            return Correction(middle, spread, len(chosen), of)
    return None


def corrected(prediction: Prediction, correction: Correction | None) -> Prediction:
    """A prediction with what past loads say; the program is what it is most uncertain about, so that part takes the change."""
    if correction is None:
        return prediction
    return prediction.with_program(max(0, prediction.host.program + correction.bytes))


def _from_record(data: dict[str, Any]) -> Load:
    known = {each.name for each in fields(Load)}
    values = {name: value for name, value in data.items() if name in known}
    return Load(**values | {"settings": MemorySettings(**data["settings"]), "host": MemoryParts(**data["host"])})


def _path(home: Home) -> Path:
    return home.root / "loads.json"
