"""llama-server's endpoints as coroutines: what both clients and the server engine are made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from noa_lab.errors import ContextOverflow, InferenceError, NoaLabError, RequestRefused, StreamBroken, Unreachable
from noa_lab.inference._completion import Embeddings
from noa_lab.inference._growing_answers import EmitAt, GrowingAnswers, GrowingChat, GrowingCompletion
from noa_lab.inference._http import Connection, refusal
from noa_lab.inference._patience import patient
from noa_lab.inference._requests import ChatResponse, CompletionResponse
from noa_lab.inference._server_facts import Metrics, Props, Slot
from noa_lab.inference._sse import events
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import ChatMessage

__all__ = ["Recover", "ServerApi"]

T = TypeVar("T")

Recover = Callable[[InferenceError], Awaitable[str | None]]
"""Awaited when a server went away under a request that had not brought a token. Waits until the server is back and returns its
address, at which the request is then sent again; None when it will not come back, which raises the error it was given."""

_SENDINGS = 3
"""Most times one request is sent: one that kills the server each time must not go round for ever."""


class ServerApi:
    """One llama-server. Every coroutine runs on the private loop.

    Sources: `tools/server/README.md` and `server-context.cpp` of llama.cpp b11312.

    Args:
        base_url: "http://host:port".
        api_key: Sent as a bearer token; never shown.
        patience: Seconds of silence after which a request is given up.
        model: Named in every request, for a server that has several models (a router); None names none.
        recover: See `Recover`; without one, nothing is sent again.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        patience: float = 300.0,
        model: str | None = None,
        recover: Recover | None = None,
    ) -> None:
        self.connection = Connection(base_url, api_key, patience=patience)
        self.model = model
        self._recover = recover
        self._embedding = asyncio.Lock()
        """Held by the one request for embeddings that goes on; see `embed`."""

    # Answers

    async def complete(self, body: Mapping[str, Any], emit: Emit) -> CompletionResponse:
        """Ask `/completion` for one answer; see `complete_all`."""
        return (await self.complete_all({**body, "n": 1}, lambda _, piece: emit(piece)))[0]

    async def complete_all(self, body: Mapping[str, Any], emit: EmitAt) -> list[CompletionResponse]:
        """Ask `/completion` for `n` answers, always as a stream, so that closing the connection stops the work at the next token.

        Raises:
            StreamBroken: When an answer stops half-way; `fields["text"]` is what had arrived of the first.
            Unreachable: When the server does not answer, or is silent for longer than the patience allows.
            RequestRefused: When the server answers with an error.
            ContextOverflow: When the prompt leaves no room for one token.
        """
        n = int(body.get("n") or 1)
        answers = GrowingCompletion(n, emit)
        sent = {**body, "stream": True, "return_progress": True}
        if n == 1:
            sent.pop("n", None)
        try:
            await self._listen("/completion", sent, answers)
        except ContextOverflow as error:
            error.fields["max_tokens"] = body.get("n_predict")
            raise
        stops = body.get("stop") or ()
        for index, tokens in answers.held_back(stops):
            answers.release(index, await self.detokenize(tokens), stops)
        return answers.responses()

    async def chat(self, body: Mapping[str, Any], emit: Emit) -> ChatResponse:
        """Ask `/v1/chat/completions`, always as a stream; raises what `complete_all` raises."""
        answer = GrowingChat(emit)
        sent = {**body, "stream": True, "return_progress": True, "stream_options": {"include_usage": True}}
        try:
            await self._listen("/v1/chat/completions", sent, answer)
        except ContextOverflow as error:
            error.fields["max_tokens"] = body.get("n_predict", body.get("max_tokens"))
            raise
        return answer.response()

    async def _listen(self, path: str, body: Mapping[str, Any], answers: GrowingAnswers) -> None:
        def once() -> Awaitable[None]:
            answers.again()
            return self._listen_once(path, body, answers)

        await self._recovering(once, lambda: answers.touched)

    async def _recovering(self, work: Callable[[], Awaitable[T]], touched: Callable[[], bool]) -> T:
        """Do the work, again where the server comes back and nothing had been delivered."""
        for sending in range(1, _SENDINGS + 1):
            try:
                return await work()
            except (Unreachable, StreamBroken, RequestRefused) as error:
                gone = not isinstance(error, RequestRefused) or error.fields.get("type") == "unavailable_error"
                if touched() or not gone or self._recover is None or sending == _SENDINGS:
                    raise
                address = await self._recover(error)
                if address is None:
                    raise
                await self.connection.move(address)
        raise AssertionError

    async def _listen_once(self, path: str, body: Mapping[str, Any], answers: GrowingAnswers) -> None:
        import httpx

        url = self.connection.base_url + path
        try:
            async with (
                patient(answers, self.connection.patience, self.connection.alive),
                self.connection.open("POST", path, self._named(body)) as response,
            ):
                async for event in events(response.aiter_bytes()):
                    if "error" in event:
                        raise _failed_later(event["error"], answers, url)
                    answers.take(event)
        except TimeoutError:
            raise self._broken(f"it was silent for {self.connection.patience:g} s", answers, url) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            raise self._broken(str(error) or type(error).__name__, answers, url) from error
        except ValueError as error:
            if isinstance(error, NoaLabError):
                raise
            raise self._broken(f"it sent {error}", answers, url) from error
        if not answers.complete:
            raise self._broken("the stream ended without an end mark", answers, url)

    def _named(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body if self.model is None else {"model": self.model, **body}

    def _broken(self, reason: str, answers: GrowingAnswers, url: str) -> InferenceError:
        if not answers.events:
            return self.connection.unreachable(reason)
        return StreamBroken(
            f"The answer of {self.connection.base_url} stopped half-way: {reason}.",
            fix="Look at the server's log (`noa-lab logs`) and ask again.",
            text=answers.text,
            url=url,
        )

    # Everything else

    async def health(self) -> bool:
        """Whether the server is up and its model loaded."""
        return await self.connection.alive(within=5.0)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Vectors by `/v1/embeddings`, each of length 1; the server must have been started with embeddings and a pooling type.

        One text at a time: llama-server (b11312, separate caches for its slots) evaluates texts of two slots in equal pieces and
        pools the longer one over its last piece only. That vector is wrong, and nothing says so.
        """
        vectors, tokens, model = [], 0, ""
        async with self._embedding:
            for text in texts:
                found = await self._typed("/v1/embeddings", dict, {"input": [text], "encoding_format": "float"})
                try:
                    vectors.append(tuple(map(float, found["data"][0]["embedding"])))
                    tokens += int(found["usage"]["prompt_tokens"])
                except (KeyError, IndexError, TypeError, ValueError):
                    raise self.connection.nonsense("/v1/embeddings", json.dumps(found).encode()) from None
                model = str(found.get("model", ""))
        return Embeddings(tuple(vectors), model, tokens)

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text; by default exactly those that `/completion` makes of it."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        found: list[int] = await self._field("/tokenize", "tokens", list, body)
        return found

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        found: str = await self._field("/detokenize", "content", str, {"tokens": list(tokens)})
        return found

    async def apply_template(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        """The text that the server's chat template makes of a conversation."""
        body: dict[str, Any] = {"messages": [message.as_openai() for message in messages]}
        if tools:
            body["tools"] = [tool.as_openai() for tool in tools]
        found: str = await self._field("/apply-template", "prompt", str, body)
        return found

    async def props(self) -> Props:
        """What the server says about itself and its model."""
        return Props(await self._typed("/props", dict))

    async def slots(self) -> list[Slot]:
        """What each slot is doing."""
        return [Slot(each) for each in await self._typed("/slots", list)]

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server offers."""
        found: list[dict[str, Any]] = await self._field("/v1/models", "data", list)
        return found

    async def metrics(self) -> Metrics:
        """The server's counters."""
        return Metrics((await self._read("/metrics")).decode())

    async def _read(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The whole answer of an endpoint that changes nothing: asked again where the server comes back."""
        method, sent = ("GET", None) if body is None else ("POST", self._named(body))
        asked = path if body is not None or self.model is None else f"{path}?{urlencode({'model': self.model})}"
        return await self._recovering(lambda: self.connection.read(method, asked, sent), lambda: False)

    async def _typed(self, path: str, kind: type[Any], body: Mapping[str, Any] | None = None) -> Any:
        raw = await self._read(path, body)
        try:
            found = json.loads(raw)
        except ValueError:
            raise self.connection.nonsense(path, raw) from None
        if not isinstance(found, kind):
            raise self.connection.nonsense(path, raw)
        return found

    async def _field(self, path: str, name: str, kind: type[Any], body: Mapping[str, Any] | None = None) -> Any:
        found = await self._typed(path, dict, body)
        if not isinstance(found.get(name), kind):
            raise self.connection.nonsense(path, json.dumps(found).encode())
        return found[name]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.connection.aclose()


def _failed_later(error: Any, answers: GrowingAnswers, url: str) -> NoaLabError:
    """The error for an `error` event: a refusal when no text had come, else a broken stream."""
    status = int(error.get("code", 500)) if isinstance(error, dict) else 500
    found = refusal(status, json.dumps({"error": error}).encode(), url)
    if not answers.text or not isinstance(found, InferenceError):
        return found
    return StreamBroken(found.message, fix=found.fix, text=answers.text, url=url)
