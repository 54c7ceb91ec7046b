"""From a prediction to an answer: corrected by past loads, with its uncertainty, beside what is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models.memory._estimate import estimate, grown
from noa_lab.models.memory._fit import Fit
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._loads import Correction, Load, corrected, correction_for
from noa_lab.models.memory._measured import measured_architectures
from noa_lab.models.memory._parts import Prediction
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.models.memory._slots import MOST_CHECKPOINTS, checkpoint_bytes
from noa_lab.runtime import FreeMemory

__all__ = ["Subject", "judge"]

_CELLS = 256
_MOST_CONTEXT = 2**20
_WORTH_SAYING = 0.1
"""Of the whole."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Of which model, on which llama.cpp.

    Attributes:
        name: What the model is called.
        header: Header of the whole model.
        sha256: Hash of its file; "" where it is not known.
        runtime: Id of the llama.cpp; "" where none is installed.
    """

    name: str
    header: GgufHeader
    sha256: str = ""
    runtime: str = ""


def judge(
    subject: Subject,
    settings: MemorySettings,
    free: FreeMemory,
    *,
    loads: Sequence[Load] = (),
    told: Prediction | None = None,
    notes: Sequence[str] = (),
) -> Fit:
    """The answer.

    Args:
        subject: The model.
        settings: How it would be run.
        free: What is free.
        loads: What is remembered of past loads.
        told: What `llama-fit-params` says; None: the header alone has to do.
        notes: What else is to be said.
    """
    header = subject.header
    name = header.architecture
    correction = correction_for(
        loads, sha256=subject.sha256, architecture=name, runtime=subject.runtime, settings=settings
    )
    measured = name in measured_architectures() or any(load.architecture == name for load in loads)
    found = corrected(told or estimate(header, settings), correction)
    doubt = _Doubt(correction, told=told is not None, measured=measured)
    said = list(notes)
    if not measured:
        said.append(f"Models of the architecture {name!r} were never measured: the numbers are calculated only.")
    said += _long_conversations(found, Layout.of(header), settings)
    off = doubt.bytes(found)
    return Fit(
        model=subject.name,
        architecture=name,
        settings=settings,
        host=found.host,
        devices=found.devices,
        low_bytes=max(0, found.host.total - off),
        high_bytes=found.host.total + off,
        free_bytes=free.free_bytes,
        total_bytes=free.total_bytes,
        limited_by=free.limited_by,
        largest_context=_largest_context(found, doubt, header, settings, free),
        trained_context=header.of("context_length"),
        how="llama-fit-params" if told is not None else "header",
        loads=correction.loads if correction is not None else 0,
        measured=measured,
        notes=tuple(said),
    )


def _long_conversations(found: Prediction, layout: Layout, settings: MemorySettings) -> list[str]:
    each = checkpoint_bytes(layout, settings)
    most = each * MOST_CHECKPOINTS * settings.slots
    if most < _WORTH_SAYING * found.host.total:
        return []
    note = (
        f"In long conversations llama-server keeps up to {MOST_CHECKPOINTS} checkpoints of {each / 1e6:,.0f} MB in each slot of this "
        f"model, {most / 1e9:,.1f} GB in all; `--ctx-checkpoints` limits them."
    )
    return [note]


@dataclass(frozen=True, slots=True)
class _Doubt:
    """How sure a prediction is.

    The weights are exact. The rest was off by at most this on the loads of benchmarks/fit.py; what was never measured gets twice as much.
    """

    correction: Correction | None
    told: bool
    measured: bool

    def bytes(self, found: Prediction) -> int:
        """How far the truth may be from the total."""
        host, past = found.host, self.correction
        of_program = 0.25 if past is None else {"model": 0.05, "architecture": 0.1}.get(past.of, 0.15)
        doubt = 1e6 + of_program * host.program + (0.15 if self.told else 0.3) * host.compute
        doubt += past.spread if past is not None else 0
        doubt += 0.5 * host.slots
        if not self.measured:
            doubt = 2 * doubt + (0 if self.told else 0.2 * host.kv_cache)
        return int(doubt)


def _largest_context(
    found: Prediction, doubt: _Doubt, header: GgufHeader, settings: MemorySettings, free: FreeMemory
) -> int:
    """Most tokens for each slot of which also the upper estimate is free, by bisection; 0 for none."""
    layout = Layout.of(header)
    most = min(header.of("context_length") or _MOST_CONTEXT, 10_000_000)

    def fits(context: int) -> bool:
        then = grown(found, layout, settings, replace(settings, context_size=max(16, context)))
        on_gpus = all(each.free_bytes is None or each.parts.total <= each.free_bytes for each in then.devices)
        return on_gpus and then.host.total + doubt.bytes(then) <= free.free_bytes

    if fits(most):
        return most
    low, high = 0, -(-most // _CELLS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * _CELLS) else (low, middle)
    return low * _CELLS
