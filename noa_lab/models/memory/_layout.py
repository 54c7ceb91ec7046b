"""What of a header decides how much memory a model takes: what each layer keeps, and how wide it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from noa_lab.models._gguf_header import GgufHeader

__all__ = ["Layer", "Layout"]

_MOST_LAYERS = 4096
_WINDOW_PERIODS = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Of how many layers one sees everything, and whether it is the first of them; where the header does not say (src/models/*.cpp)."""

_WINDOW_UNUSED = frozenset({"phi3"})
"""Architectures whose window llama.cpp does not use."""

_FULL_ATTENTION_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
_BOTH = frozenset({"falcon-h1"})
"""Architectures whose every layer has attention and a recurrent state."""


class Layer(NamedTuple):
    """What one layer keeps.

    Attributes:
        key: Numbers of a token's key; 0 where it keeps none.
        value: Numbers of a token's value; 0 where it keeps none.
        windowed: Whether it sees a sliding window only.
        state: Numbers of a sequence's recurrent state; 0 where it has none.
    """

    key: int
    value: int
    windowed: bool
    state: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A model as its memory sees it.

    Attributes:
        layers: What each layer keeps; empty for a model that keeps nothing, such as one for embeddings.
        blocks: Layers, whether they keep something or not.
        window: Tokens that a layer with a sliding window sees.
        width: Width of the residual stream.
        widest: Numbers of a token in the widest moment of a layer without its attention.
        heads: Attention heads.
        vocabulary: Tokens of the vocabulary.
    """

    layers: tuple[Layer, ...]
    blocks: int
    window: int
    width: int
    widest: int
    heads: int
    vocabulary: int

    @classmethod
    def of(cls, header: GgufHeader) -> Self:
        """The layout that a header describes."""
        width = header.of("embedding_length")
        return cls(
            layers=tuple(_layers(header)),
            blocks=min(header.of("block_count"), _MOST_LAYERS),
            window=header.of("attention.sliding_window"),
            width=width,
            widest=max(_feed_forward(header), 3 * width, 13 * header.of("ssm.inner_size") // 2),
            heads=header.of("attention.head_count"),
            vocabulary=header.vocabulary,
        )


def _layers(header: GgufHeader) -> list[Layer]:
    count = min(header.of("block_count"), _MOST_LAYERS)
    causal = f"{header.text('general.architecture')}.attention.causal"
    if causal in header.values and not header.number(causal):
        return []
    heads = header.per_layer("attention.head_count", count)
    kv_heads = header.per_layer("attention.head_count_kv", count) or heads or [0] * count
    windowed = _windowed(header, count)
    recurrent = _recurrent(header, kv_heads)
    state = _state(header)
    shared_from = count - header.of("attention.shared_kv_layers")
    latent = header.of("attention.key_length_mla") > 0
    widths = {narrow: _head_widths(header, heads, windowed=narrow) for narrow in (True, False)}
    found = []
    for layer in range(count):
        attends = header.architecture in _BOTH or not recurrent[layer]
        kept = kv_heads[layer] if attends and layer < shared_from else 0
        key, value = widths[windowed[layer]]
        numbers = state if recurrent[layer] else 0
        found.append(Layer(kept * key, 0 if latent else kept * value, windowed[layer], numbers))
    return found


def _head_widths(header: GgufHeader, heads: list[int], *, windowed: bool) -> tuple[int, int]:
    most = max(heads, default=0)
    plain = header.of("embedding_length") // most if most else 0
    key = header.of("attention.key_length") or plain
    value = header.of("attention.value_length") or plain
    if windowed:
        return header.of("attention.key_length_swa") or key, header.of("attention.value_length_swa") or value
    return key, value


def _windowed(header: GgufHeader, count: int) -> list[bool]:
    nowhere = [False] * count
    name = header.architecture
    if not header.of("attention.sliding_window") or name in _WINDOW_UNUSED:
        return nowhere
    said = header.numbers(f"{header.text('general.architecture')}.attention.sliding_window_pattern")
    if len(said) == count and count > 1:
        return [bool(each) for each in said]
    period, dense_first = _WINDOW_PERIODS.get(name, (0, False))
    period = said[0] if said else period
    if not period:
        return nowhere
    return [layer % period != 0 if dense_first else layer % period < period - 1 for layer in range(count)]


def _recurrent(header: GgufHeader, kv_heads: list[int]) -> list[bool]:
    count = len(kv_heads)
    if not _state(header):
        return [False] * count
    if header.architecture in _BOTH or not any(kv_heads):
        return [True] * count
    if not all(kv_heads):
        return [not each for each in kv_heads]
    interval = header.of("full_attention_interval") or _FULL_ATTENTION_INTERVAL.get(header.architecture, 0)
    return [bool(interval) and layer % interval < interval - 1 for layer in range(count)]


def _state(header: GgufHeader) -> int:
    """Numbers of one layer's recurrent state (`llama_hparams::n_embd_r`, `n_embd_s`)."""
    width = header.of("embedding_length")
    if header.of("wkv.head_size"):
        return width * (header.of("token_shift_count") or 2) + width * header.of("wkv.head_size")
    if header.of("shortconv.l_cache"):
        return width * (header.of("shortconv.l_cache") - 1)
    inner, size = header.of("ssm.inner_size"), header.of("ssm.state_size")
    convolution = max(0, header.of("ssm.conv_kernel") - 1) * (inner + 2 * header.of("ssm.group_count") * size)
    return convolution + inner * size


def _feed_forward(header: GgufHeader) -> int:
    """Numbers of a token in the widest moment of the feed-forward network, fitted to what llama.cpp reserves."""
    width, inner = header.of("embedding_length"), header.of("feed_forward_length")
    used = header.of("expert_used_count")
    if not used:
        return 3 * inner + 4 * width
    expert = header.of("expert_feed_forward_length") or inner
    shared = 2 * width if header.of("expert_shared_count") else 0
    return used * (2 * width + 2 * expert) + shared
