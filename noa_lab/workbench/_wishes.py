"""What a comparison wants an engine for, as settings of a llama-server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noa_lab.experiments import EngineWish
    from noa_lab.models import ModelMetadata

__all__ = ["server_wish"]

_SHARE = 0.5
"""Share of the free memory that the KV cache of a comparison may take."""

_KV_BYTES = 2 * 2
"""A key and a value, two bytes each."""


def server_wish(wish: EngineWish, metadata: ModelMetadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """The server's settings, and how its engine is to be made.

    Args:
        wish: What is wanted.
        metadata: Of the model: how much memory a slot takes.

    Returns:
        Arguments for `serve` and for `Server.engine`.
    """
    if wish.executor == "plain":
        return {}, {}
    size = wish.context_size or 4096
    size = min(size, metadata.context_length or size)
    settings: dict[str, Any] = {"context_size": size, "options": {"cache-ram": 0}}
    if wish.executor in {"strict", "latency"}:
        return {**settings, "slots": 1, "purpose": "one request at a time"}, {"mode": "strict"}
    slots = max(1, min(wish.slots or 1, _fitting(size, metadata)))
    # Lanes count on nobody else using the slots: another process gets a server of its own.
    return {**settings, "slots": slots, "save_slots": True, "purpose": f"comparisons of process {os.getpid()}"}, {}


def _fitting(context_size: int, metadata: ModelMetadata) -> int:
    """How many slots of this size the free memory has room for."""
    import psutil

    head = metadata.embedding_length // metadata.heads if metadata.heads else 0
    slot = context_size * metadata.layers * metadata.kv_heads * head * _KV_BYTES
    return int(psutil.virtual_memory().available * _SHARE // slot) if slot else 1
