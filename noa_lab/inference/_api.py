"""llama-server's endpoints as coroutines: what both clients and the server engine are made of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from noa_lab.errors import BadInput, ContextOverflow, InferenceError, NoaLabError, StreamBroken
from noa_lab.inference._http import Connection, refusal
from noa_lab.inference._requests import Clock, CompletionResponse
from noa_lab.inference._sse import events
from noa_lab.inference._streams import Emit
from noa_lab.inference._types import ChatMessage

__all__ = ["ServerApi"]


class ServerApi:
    """One llama-server. Every coroutine runs on the private loop.

    Sources: `tools/server/README.md` and `server-context.cpp` of llama.cpp b11312.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, patience: float = 300.0) -> None:
        self.connection = Connection(base_url, api_key, patience=patience)

    async def complete(self, body: Mapping[str, Any], emit: Emit) -> CompletionResponse:
        """Ask `/completion`, always as a stream, so that closing the connection stops the work at the next token.

        Raises:
            StreamBroken: When the answer stops half-way; `fields["text"]` is what had arrived.
            Unreachable: When the server does not answer, or is silent for longer than the patience allows.
            RequestRefused: When the server answers with an error.
            ContextOverflow: When the prompt leaves no room for one token.
        """
        sent = {**body, "stream": True, "return_progress": True}
        if max(int(body.get("n") or 1), int(body.get("n_cmpl") or 1)) > 1:
            raise BadInput(
                "One request gives one answer here.", fix="Ask several times.", field="n", value=body.get("n")
            )
        answer = _Answer(emit)
        try:
            last = await self._listen("/completion", sent, answer)
        except ContextOverflow as error:
            error.fields["max_tokens"] = body.get("n_predict")
            raise
        if last.get("stop_type") == "limit" and answer.unseen and body.get("stop"):
            answer.add(await self._held_back(answer.unseen, body["stop"]))
        return answer.response(last)

    async def chat(self, messages: Sequence[ChatMessage], options: Mapping[str, Any], emit: Emit) -> CompletionResponse:
        """Ask `/v1/chat/completions`, always as a stream."""
        body = {
            **options,
            "messages": [message.model_dump(mode="json") for message in messages],
            "stream": True,
            "return_progress": True,
            "stream_options": {"include_usage": True},
        }
        answer = _ChatAnswer(emit)
        last = await self._listen("/v1/chat/completions", body, answer)
        return answer.response(last)

    async def _listen(self, path: str, body: Mapping[str, Any], answer: _Answer) -> dict[str, Any]:
        import httpx

        url = self.connection.base_url + path
        try:
            async with self._patient(answer), self.connection.open("POST", path, body) as response:
                async for event in events(response.aiter_bytes()):
                    if "error" in event:
                        raise _failed_later(event["error"], answer, url)
                    answer.take(event)
        except TimeoutError:
            raise self._broken(f"it was silent for {self.connection.patience:g} s", answer, url) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._broken(str(error) or type(error).__name__, answer, url) from error
        except ValueError as error:
            if isinstance(error, NoaLabError):
                raise
            raise self._broken(f"it sent {error}", answer, url) from error
        if answer.last is None:
            raise self._broken("the stream ended without an end mark", answer, url)
        return answer.last

    def _broken(self, reason: str, answer: _Answer, url: str) -> InferenceError:
        if not answer.alive:
            return self.connection.unreachable(reason)
        return StreamBroken(
            f"The answer of {self.connection.base_url} stopped half-way: {reason}.",
            fix="Look at the server's log (`noa-lab logs`) and ask again.",
            text=answer.text,
            url=url,
        )

    @contextlib.asynccontextmanager
    async def _patient(self, answer: _Answer) -> AsyncIterator[None]:
        """Give up after a silence, not after a time: each event, and while the request waits for a slot each sign of health, counts."""
        patience = self.connection.patience

        async def watch(deadline: asyncio.Timeout) -> None:
            seen = 0
            while True:
                await asyncio.sleep(patience / 4)
                waiting = not answer.alive and await self.connection.alive(patience / 4)
                if answer.events > seen or waiting:
                    seen = answer.events
                    deadline.reschedule(asyncio.get_running_loop().time() + patience)

        async with asyncio.timeout(patience) as deadline:
            watcher = asyncio.create_task(watch(deadline))
            try:
                yield
            finally:
                watcher.cancel()

    async def _held_back(self, tokens: list[int], stops: Sequence[str]) -> str:
        """Text that the server held back because a stop text might have begun, and never sent: streams lose it at the length limit."""
        text = (await self.detokenize(tokens)).removesuffix("\ufffd")
        begun = any(stop.startswith(text[at:]) for stop in stops for at in range(len(text)))
        return text if begun else ""

    async def health(self) -> bool:
        """Whether the server is up and its model loaded."""
        return await self.connection.alive(within=5.0)

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text; by default exactly those that `/completion` makes of it."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        found: list[int] = await self._field("POST", "/tokenize", "tokens", list, body)
        return found

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        found: str = await self._field("POST", "/detokenize", "content", str, {"tokens": list(tokens)})
        return found

    async def apply_template(self, messages: Sequence[ChatMessage]) -> str:
        """The text that the server's chat template makes of a conversation."""
        body = {"messages": [message.model_dump(mode="json") for message in messages]}
        found: str = await self._field("POST", "/apply-template", "prompt", str, body)
        return found

    async def props(self) -> dict[str, Any]:
        """What the server says about itself and its model."""
        found: dict[str, Any] = await self._typed("/props", dict)
        return found

    async def slots(self) -> list[dict[str, Any]]:
        """What each slot is doing."""
        found: list[dict[str, Any]] = await self._typed("/slots", list)
        return found

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server offers."""
        found: list[dict[str, Any]] = await self._field("GET", "/v1/models", "data", list)
        return found

    async def metrics(self) -> str:
        """The server's counters, in Prometheus' text format."""
        return (await self.connection.read("GET", "/metrics")).decode()

    async def _typed(
        self, path: str, kind: type[Any], method: str = "GET", body: Mapping[str, Any] | None = None
    ) -> Any:
        found = await self.connection.json(method, path, body)
        if not isinstance(found, kind):
            raise self.connection.nonsense(path, json.dumps(found).encode())
        return found

    async def _field(
        self, method: str, path: str, name: str, kind: type[Any], body: Mapping[str, Any] | None = None
    ) -> Any:
        found = await self._typed(path, dict, method, body)
        if not isinstance(found.get(name), kind):
            raise self.connection.nonsense(path, json.dumps(found).encode())
        return found[name]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.connection.aclose()


class _Answer:
    """An answer of `/completion` as it grows."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._pieces: list[str] = []
        self.sent = time.perf_counter()
        self.started = self.first = 0.0
        self.events = 0
        self.unseen: list[int] = []
        """Tokens since the last that brought text."""
        self.last: dict[str, Any] | None = None

    @property
    def alive(self) -> bool:
        """Whether the server has begun to work on the request."""
        return self.events > 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, event: dict[str, Any]) -> None:
        self.events += 1
        self.started = self.started or time.perf_counter()
        if event.get("stop") is True:
            self.last = event
        elif "prompt_progress" in event:
            return
        self.first = self.first or time.perf_counter()
        self.unseen.extend(event.get("tokens") or ())
        self.add(event.get("content") or "")

    def add(self, piece: str) -> None:
        if piece:
            self.unseen.clear()
            self._pieces.append(piece)
            self._emit(piece)

    def clock(self) -> Clock:
        return Clock(self.sent, self.started, self.first, time.perf_counter())

    def response(self, last: dict[str, Any]) -> CompletionResponse:
        timings = last.get("timings") or {}
        return CompletionResponse(
            content=self.text,
            model=str(last.get("model", "")),
            stop_reason=last.get("stop_type"),
            tokens_evaluated=int(last.get("tokens_evaluated", 0)),
            tokens_predicted=int(last.get("tokens_predicted", 0)),
            tokens_cached=int(timings.get("cache_n", 0)),
            truncated=bool(last.get("truncated", False)),
            timings=timings,
            clock=self.clock(),
            raw={**last, "content": self.text},
        )


class _ChatAnswer(_Answer):
    """An answer of `/v1/chat/completions` as it grows: the reason, the usage and the timings come in different events."""

    def take(self, event: dict[str, Any]) -> None:
        self.events += 1
        self.started = self.started or time.perf_counter()
        if "prompt_progress" in event:
            return
        merged = {**(self._merged or {}), **event}
        for choice in event.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content")
            if piece:
                self.first = self.first or time.perf_counter()
                self.add(piece)
            if choice.get("finish_reason"):
                merged["finish_reason"] = choice["finish_reason"]
        self._merged = merged
        if "finish_reason" in merged:
            self.last = merged

    _merged: dict[str, Any] | None = None

    def response(self, last: dict[str, Any]) -> CompletionResponse:
        usage, timings = last.get("usage") or {}, last.get("timings") or {}
        return CompletionResponse(
            content=self.text,
            model=str(last.get("model", "")),
            stop_reason=str(last["finish_reason"]),
            tokens_evaluated=int(usage.get("prompt_tokens", 0)),
            tokens_predicted=int(usage.get("completion_tokens", 0)),
            tokens_cached=int(timings.get("cache_n", 0)),
            timings=timings,
            clock=self.clock(),
            raw={**last, "content": self.text},
        )


def _failed_later(error: Any, answer: _Answer, url: str) -> NoaLabError:
    """The error for an `error` event: a refusal when no text had come, else a broken stream."""
    status = int(error.get("code", 500)) if isinstance(error, dict) else 500
    found = refusal(status, json.dumps({"error": error}).encode(), url)
    if not answer.text or not isinstance(found, InferenceError):
        return found
    return StreamBroken(found.message, fix=found.fix, text=answer.text, url=url)
