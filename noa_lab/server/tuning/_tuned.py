"""What `noa-lab tune` has found, kept for one model on one machine with one build: `tuned/KEY.json` in the home."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.paths import write_atomic

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime

__all__ = ["Tuned", "find_tuned", "forget_tuned", "machine_words", "read_tuned", "tuned_path", "write_tuned"]

_SETTINGS = ("threads", "threads_batch", "batch_size", "ubatch_size", "slots")


@dataclass(frozen=True, slots=True)
class Tuned:
    """The fastest settings that were measured.

    Attributes:
        model: Name of the model.
        runtime: Id of the runtime.
        machine: What the machine is, in words.
        threads: CPU threads for generating.
        threads_batch: CPU threads for prompts.
        batch_size: Most prompt tokens handed over at once.
        ubatch_size: Most prompt tokens computed at once.
        slots: Requests worked on at the same time.
        measured: When (ISO 8601, UTC).
        seconds: How long the measuring took.
        gpu_layers: Layers kept on the GPU meanwhile; servers with another number do not start with these settings.
        speeds: The measurements: for each setting tokens a second by value.
    """

    model: str
    runtime: str
    machine: str
    threads: int
    threads_batch: int
    batch_size: int
    ubatch_size: int
    slots: int
    measured: str
    seconds: float = 0.0
    gpu_layers: int = 0
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_settings(self) -> dict[str, int]:
        """The values as fields of `ServerSettings`."""
        return {name: getattr(self, name) for name in _SETTINGS}

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.as_settings().items())
        return f"{self.model} is fastest with {values}"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def machine_words() -> str:
    """What tells this machine from others that are not alike: processor, cores, GPUs."""
    from noa_lab.runtime import machine

    here = machine()
    return ", ".join((f"{here.cpu}, {here.cores} cores", *here.gpus))


def find_tuned(home: Home, runtime: Runtime, model: ModelFile) -> Tuned | None:
    """What was found for this model with this build on this machine, or None."""
    if not any(home.tuned.iterdir()):
        return None  # and the machine needs not be looked at
    return read_tuned(home, runtime, model, machine_words())


def tuned_path(home: Home, runtime: Runtime, model: ModelFile, machine: str) -> Path:
    """Where the result for this model, machine and build is kept.

    Args:
        home: The home; it may be shared between machines.
        runtime: The build.
        model: The model; the same bytes under another name are the same model.
        machine: What tells machines apart that are not alike: processor, cores, GPUs.
    """
    identity = model.sha256 or f"{model.path}:{model.size_bytes}"
    key = hashlib.sha256(f"{machine}\n{runtime.id}\n{identity}".encode()).hexdigest()[:24]
    return home.tuned / f"{key}.json"


def read_tuned(home: Home, runtime: Runtime, model: ModelFile, machine: str) -> Tuned | None:
    """What was found, or None where nothing was, or what is there cannot be read."""
    try:
        data = json.loads(tuned_path(home, runtime, model, machine).read_text(encoding="utf-8"))
        known = {item.name for item in fields(Tuned)}
        found = Tuned(**{name: value for name, value in data.items() if name in known})
        usable = all(isinstance(value, int) and value >= 1 for value in found.as_settings().values())
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found if usable else None


def write_tuned(home: Home, runtime: Runtime, model: ModelFile, machine: str, found: Tuned) -> Path:
    """Keep a result; it replaces an earlier one."""
    path = tuned_path(home, runtime, model, machine)
    write_atomic(path, json.dumps(found.as_dict(), indent=1))
    return path


def forget_tuned(home: Home, runtime: Runtime, model: ModelFile) -> bool:
    """Remove what was found for this model with this build on this machine; whether there was something."""
    path = tuned_path(home, runtime, model, machine_words())
    there = path.exists()
    path.unlink(missing_ok=True)
    return there
