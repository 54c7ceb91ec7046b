"""How much llama.cpp needs to compute a step.

Fitted to what llama.cpp b11312 reserves for the shapes in `noa_lab.testing` (`benchmarks/fit.py shapes` shows how well): the widest
moment is in the feed-forward network, or, without flash attention, where each token is held against all others.
"""

from __future__ import annotations

from noa_lab.models.memory._kv_cache import window_cells
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._settings import MemorySettings

__all__ = ["compute_bytes", "logits_bytes"]

_FLOAT = 4
_HALF = 2


def compute_bytes(layout: Layout, settings: MemorySettings) -> int:
    """Bytes of the compute buffer of a llama-server, which wants the scores of one token for each slot."""
    tokens = settings.tokens_at_once
    step = tokens * _FLOAT * layout.widest
    flash = settings.flash_attention != "off"
    if not flash:
        kept = max((layer.key for layer in layout.layers), default=0)
        scores = settings.cells * tokens * layout.heads * _FLOAT
        step = max(step, scores + tokens * _FLOAT * (4 * layout.width + 3 * kept))
    logits = logits_bytes(layout, settings.slots) + tokens * _FLOAT * layout.width
    return max(step, logits) + _mask_bytes(layout, settings, flash=flash)


def _mask_bytes(layout: Layout, settings: MemorySettings, *, flash: bool) -> int:
    cells = settings.cells if any(layer.key and not layer.windowed for layer in layout.layers) else 0
    cells += window_cells(layout, settings) if any(layer.windowed for layer in layout.layers) else 0
    return cells * settings.tokens_at_once * (_HALF if flash else _FLOAT)


def logits_bytes(layout: Layout, rows: int) -> int:
    """Bytes of the scores of all tokens of the vocabulary, for so many rows; the output buffer has one for each slot."""
    return rows * layout.vocabulary * _FLOAT
