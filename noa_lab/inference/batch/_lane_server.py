"""llama-server as lanes use it: slots by number, saved and restored; answers whole, not as streams.

A stream costs an event a token on both sides, and here nobody looks at the pieces; on a machine whose cores do the inference, that is
time taken from it. Facts about the endpoints: llama.cpp b11312, `tools/server/README.md` and `server-context.cpp`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from noa_lab.errors import RequestRefused
from noa_lab.inference._growing_answers import read_probabilities
from noa_lab.inference._requests import Clock, CompletionResponse
from noa_lab.inference._types import ChatMessage
from noa_lab.inference.batch._wire import Wire

__all__ = ["LaneServer"]


class LaneServer:
    """The requests of lanes.

    Args:
        wire: The server; used on one event loop only, and closed by `aclose`.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def url(self) -> str:
        """The server's address."""
        return self._wire.url

    async def apply_template(self, messages: Sequence[ChatMessage]) -> str:
        """The text that the server's chat template makes of a conversation."""
        body = {"messages": [message.as_openai() for message in messages]}
        return str((await self._wire.ask("/apply-template", body))["prompt"])

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, exactly those that `/completion` makes of it."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return tuple((await self._wire.ask("/tokenize", body))["tokens"])

    async def evaluate(self, lane: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Have a slot evaluate a prompt and keep it.

        Returns:
            Tokens that it still had, and tokens that it evaluated.
        """
        body = {"prompt": list(tokens), "n_predict": 0, "temperature": 0.0, "cache_prompt": True, "id_slot": lane}
        timings = (await self._wire.ask("/completion", body))["timings"]
        return int(timings.get("cache_n", 0)), int(timings.get("prompt_n", 0))

    async def can_save(self) -> bool:
        """Whether this server saves and restores slots."""
        try:
            await self._wire.ask("/slots/0?action=save", {"filename": "noa-trial.bin"})
        except RequestRefused:
            return False
        return True

    async def save(self, lane: int, name: str) -> tuple[int, int]:
        """Save what a slot holds under a name; returns its tokens, and its size in bytes.

        Raises:
            RequestRefused: When this server cannot save, or the disk is full.
        """
        found = await self._wire.ask(f"/slots/{lane}?action=save", {"filename": name})
        return int(found.get("n_saved", 0)), int(found.get("n_written", 0))

    async def restore(self, lane: int, name: str) -> int:
        """Put what was saved into a slot; returns its tokens.

        Raises:
            RequestRefused: When it cannot be read.
        """
        return int((await self._wire.ask(f"/slots/{lane}?action=restore", {"filename": name})).get("n_restored", 0))

    async def working(self) -> dict[int, int]:
        """The slots that work on something, and the number of what they work on."""
        slots = await self._wire.ask("/slots")
        return {int(slot["id"]): int(slot.get("id_task", -1)) for slot in slots if slot.get("is_processing")}

    async def ask(self, body: Mapping[str, Any]) -> list[CompletionResponse]:
        """Ask `/completion` for `n` answers, and wait until all are there."""
        sent = time.perf_counter()
        found = await self._wire.ask("/completion", {**body, "stream": False})
        ended = time.perf_counter()
        parts = found if isinstance(found, list) else [found]
        return [_response(part, sent, ended) for part in sorted(parts, key=lambda part: int(part.get("index", 0)))]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()


def _response(last: Mapping[str, Any], sent: float, ended: float) -> CompletionResponse:
    """One answer. When work on it began is counted back from its end: the server's own times leave out the wait."""
    timings = last.get("timings") or {}
    first = ended - float(timings.get("predicted_ms", 0.0)) / 1000
    started = first - float(timings.get("prompt_ms", 0.0)) / 1000
    return CompletionResponse(
        content=str(last.get("content", "")),
        model=str(last.get("model", "")),
        stop_reason=last.get("stop_type"),
        tokens_evaluated=int(last.get("tokens_evaluated", 0)),
        tokens_predicted=int(last.get("tokens_predicted", 0)),
        tokens_cached=int(timings.get("cache_n", 0)),
        truncated=bool(last.get("truncated", False)),
        index=int(last.get("index", 0)),
        id_slot=int(last.get("id_slot", -1)),
        tokens=tuple(last.get("tokens") or ()),
        probabilities=tuple(read_probabilities(last.get("completion_probabilities") or ())),
        timings=timings,
        clock=Clock(sent, max(sent, started), max(sent, first), ended),
        raw=last,
    )
