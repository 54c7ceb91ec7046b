"""Server-sent events, as llama-server sends them: one JSON object per `data:` line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

__all__ = ["events"]

_LONGEST = 256 * 1024 * 1024
"""Bytes of one event; llama-server's own limit for a request, which the last event echoes, is 100 MB."""


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    r"""Read events until the stream ends or says `[DONE]`.

    Lines end at `\n` and nowhere else: llama-server writes U+2028 and its kin unescaped inside JSON, where a general line
    splitter would cut. Comment lines (keep-alive pings) are skipped.

    Raises:
        ValueError: For an event that is no JSON object, or that does not end.
    """
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        if b"\n" not in chunk:
            held.append(chunk)
            size += len(chunk)
            if size > _LONGEST:
                raise ValueError("an event that does not end")
            continue
        *lines, rest = (b"".join(held) + chunk).split(b"\n")
        held, size = [rest], len(rest)
        for line in lines:
            if not line.startswith((b"data:", b"error:")):
                continue
            kind, _, payload = line.partition(b":")
            payload = payload.strip()
            if payload == b"[DONE]":
                return
            event = json.loads(payload)
            if not isinstance(event, dict):
                raise ValueError(f"an event that is no object: {payload[:80]!r}")
            yield {"error": event} if kind == b"error" else event
