"""How much memory llama-server may keep earlier prompts in.

It keeps what a slot had read when the slot is given to another prompt, and by itself up to 8 GiB of that (`--cache-ram`, b11312),
whatever the machine has: a server that fitted when it started is killed hours later. noa_lab gives it an eighth of the machine.
"""

from __future__ import annotations

from noa_lab.runtime import free_memory

__all__ = ["prompt_cache_bytes"]

_SHARE = 8
_LEAST, _MOST, _STEP = 128 * 2**20, 8192 * 2**20, 64 * 2**20


def prompt_cache_bytes(total_bytes: int | None = None) -> int:
    """An eighth of the memory, from 128 MiB to llama-server's own 8 GiB, in steps of 64 MiB.

    Args:
        total_bytes: Memory of the machine, or of the container; default: this one's.
    """
    total = free_memory().total_bytes if total_bytes is None else total_bytes
    return min(_MOST, max(_LEAST, total // _SHARE // _STEP * _STEP))
