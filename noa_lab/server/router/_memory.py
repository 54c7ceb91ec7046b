"""How much memory a model takes: foreseen from its file, then measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.server._settings import ServerSettings

__all__ = ["measured_bytes", "predicted_bytes"]

_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
}
"""Bits for each value of the KV cache, the scales of a block included (`ggml/src/ggml-common.h`)."""

_COMPUTE = 96 << 20
"""Compute buffers and the program itself; about what small models were measured with."""


def predicted_bytes(model: ModelFile, settings: ServerSettings) -> int:
    """About what a llama-server with this model will take: the file, the KV cache of all slots, and buffers.

    Once the model has run, what was measured counts instead.
    """
    header = model.metadata
    context = min(settings.context_size, header.context_length or settings.context_size) * settings.slots
    width = header.embedding_length // max(1, header.heads) * header.kv_heads
    bits = _BITS[settings.cache_type_k] + _BITS[settings.cache_type_v]
    cache = int(context * header.layers * width * bits / 8)
    return model.size_bytes + cache + _COMPUTE


def measured_bytes(pid: int) -> int:
    """Resident memory of a process, pages of the mapped model file included; 0 when it is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
