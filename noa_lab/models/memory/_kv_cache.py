"""How much a model keeps of what it has read.

The rules are those of llama.cpp b11312: `llama_kv_cache` (all layers see everything), `llama_kv_cache_iswa` (some see a sliding window),
multi-head latent attention (keys only), `llama_memory_recurrent` (a state of fixed size for each sequence).
"""

from __future__ import annotations

from noa_lab.models._gguf_types import bytes_of
from noa_lab.models.memory._layout import Layer, Layout
from noa_lab.models.memory._settings import MemorySettings

__all__ = ["cache_of_layers", "tokens_bytes", "window_cells"]

_CELLS = 256


def window_cells(layout: Layout, settings: MemorySettings) -> int:
    """Tokens that a layer with a sliding window has room for: the window and one step of computing, a multiple of 256."""
    wanted = min(settings.cells, layout.window + settings.tokens_at_once)
    return min(settings.cells, -(-wanted // _CELLS) * _CELLS)


def cache_of_layers(layout: Layout, settings: MemorySettings) -> list[int]:
    """Bytes that each layer keeps for all slots together."""
    narrow = window_cells(layout, settings)
    found = []
    for layer in layout.layers:
        cells = (narrow if layer.windowed else settings.cells) * settings.slots
        found.append(tokens_bytes(layer, settings, cells) + 4 * layer.state * settings.slots)
    return found


def tokens_bytes(layer: Layer, settings: MemorySettings, tokens: int) -> int:
    """Keys and values of so many tokens in one layer."""
    each = bytes_of(settings.cache_type_k, layer.key) + bytes_of(settings.cache_type_v, layer.value)
    return each * tokens
