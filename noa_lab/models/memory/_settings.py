"""What is asked: how the model would be run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_type_hints

from noa_lab.errors import BadInput, UnknownName

__all__ = ["CACHE_TYPES", "MemorySettings"]

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Number formats of the KV cache that llama.cpp has (`--cache-type-k`)."""

_SMALLEST = {"context_size": 16, "slots": 1, "gpu_layers": -1, "ubatch_size": 1}
_LARGEST = {"context_size": 10_000_000, "slots": 256, "gpu_layers": 10_000, "ubatch_size": 1_000_000}


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """The settings of a llama-server that decide how much memory it takes; names and defaults are those of `ServerSettings`.

    Attributes:
        context_size: Tokens that one request may use.
        slots: Requests worked on at the same time; each has a KV cache of its own.
        cache_type_k: Number format of the keys.
        cache_type_v: Number format of the values.
        gpu_layers: Layers kept on the GPU; 0 none, -1 all.
        ubatch_size: Most prompt tokens computed at once.
        flash_attention: "auto", "on" or "off".

    Raises:
        BadInput: When a value is not allowed. `fields`: field, value.
    """

    context_size: int = 4096
    slots: int = 2
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    gpu_layers: int = 0
    ubatch_size: int = 512
    flash_attention: str = "auto"

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, kinds[each.name]) or isinstance(value, bool):
                raise _bad(each.name, value, f"must be {'text' if kinds[each.name] is str else 'a whole number'}")
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if not smallest <= value <= _LARGEST[name]:
                raise _bad(name, value, f"must be from {smallest:,} to {_LARGEST[name]:,}")
        for name in ("cache_type_k", "cache_type_v"):
            if getattr(self, name) not in CACHE_TYPES:
                raise UnknownName.among("cache type", getattr(self, name), CACHE_TYPES)
        if self.flash_attention not in {"auto", "on", "off"}:
            raise _bad("flash_attention", self.flash_attention, 'must be "auto", "on" or "off"')

    @property
    def cells(self) -> int:
        """Tokens that llama.cpp keeps room for in each slot: a multiple of 256 (llama-context.cpp)."""
        return -(-self.context_size // 256) * 256

    @property
    def tokens_at_once(self) -> int:
        """Most tokens in one step of computing."""
        return min(self.ubatch_size, self.cells * self.slots)


def _bad(name: str, value: object, what: str) -> BadInput:
    return BadInput(f"{name} = {value!r} is not allowed.", fix=f"It {what}.", field=name, value=value)
