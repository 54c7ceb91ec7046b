"""What each slot takes beside its cache once it has worked.

Where its sampler sorts the vocabulary: about 16 bytes a token, for each slot after the first (the first one's is part of what the program
takes). And checkpoints: what a sliding window has let go of, and what a recurrent state was, cannot be had again, so llama-server (b11312,
`server-context.cpp`) copies both out of the slot: before the last step of computing of a prompt and at its end.
"""

from __future__ import annotations

from noa_lab.models.memory._kv_cache import tokens_bytes
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._settings import MemorySettings

__all__ = ["MOST_CHECKPOINTS", "checkpoint_bytes", "slots_bytes"]

MOST_CHECKPOINTS = 32
"""Checkpoints that llama-server keeps of a slot unless it is told otherwise (`--ctx-checkpoints`)."""

_SAMPLER_BYTES = 16
_CHECKPOINTS_OF_A_PROMPT = 2


def checkpoint_bytes(layout: Layout, settings: MemorySettings) -> int:
    """Size of one checkpoint of a slot that is full; 0 for a model whose every layer sees everything."""
    tokens = min(settings.cells, layout.window)
    windows = sum(tokens_bytes(layer, settings, tokens) for layer in layout.layers if layer.windowed)
    return windows + sum(4 * layer.state for layer in layout.layers)


def slots_bytes(layout: Layout, settings: MemorySettings) -> int:
    """Bytes for all slots when each has read one prompt that fills it."""
    samplers = _SAMPLER_BYTES * layout.vocabulary * (settings.slots - 1)
    checkpoints = min(_CHECKPOINTS_OF_A_PROMPT, -(-settings.cells // settings.ubatch_size))
    return samplers + checkpoint_bytes(layout, settings) * checkpoints * settings.slots
