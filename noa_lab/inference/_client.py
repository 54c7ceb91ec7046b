"""The seed document's client of llama-server, sync and async, over one implementation."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from noa_lab.errors import BadInput
from noa_lab.inference._api import Recover, ServerApi
from noa_lab.inference._checks import check_conversation, check_texts
from noa_lab.inference._completion import Embeddings
from noa_lab.inference._engine import ignore
from noa_lab.inference._loop import background
from noa_lab.inference._requests import ChatRequest, ChatResponse, CompletionRequest, CompletionResponse
from noa_lab.inference._server_facts import Metrics, Props, Slot
from noa_lab.inference._streams import RunningAsyncStream, RunningStream
from noa_lab.inference._types import ChatMessage

__all__ = ["AsyncLlamaClient", "LlamaClient"]

T = TypeVar("T")


class _Client:
    """What both clients hold. The work is done on noa_lab's private event loop, whichever thread or loop asks."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        patience: float = 300.0,
        model: str | None = None,
        recover: Recover | None = None,
    ) -> None:
        self._api = ServerApi(base_url, api_key, patience=patience, model=model, recover=recover)

    @property
    def base_url(self) -> str:
        """The server's address."""
        return self._api.connection.base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class LlamaClient(_Client):
    """A client of llama-server. Works in any thread, also where an event loop is running (a notebook cell).

    Args:
        base_url: "http://host:port".
        api_key: The server's key; sent as a bearer token, never shown.
        patience: Seconds of silence after which a request is given up. Waiting for a free slot is not silence as long as
            `/health` answers.
        model: The model that must answer, for servers that have several (a router).
        recover: Awaited when the server went away under a request that had not brought a token (see `Recover`).

    Every method raises `Unreachable` when nothing answers and `RequestRefused` when the server answers with an error; both hold
    the address in `fields`, never the key.
    """

    def completion(self, request: CompletionRequest) -> CompletionResponse:
        """Continue a prompt; Ctrl-C cancels it on the server.

        Raises:
            BadInput: When the request asks for several answers: `completions` gives them.
            ContextOverflow: When the prompt leaves no room for one token.
            StreamBroken: When the answer stops half-way; `fields["text"]` is what had arrived.
        """
        return self._run(self._api.complete(_one(request), ignore))

    def completions(self, request: CompletionRequest) -> list[CompletionResponse]:
        """All `request.n` answers to one prompt, which is evaluated once; raises what `completion` raises."""
        return self._run(self._api.complete_all(request.body(), _ignore_all))

    def stream(self, request: CompletionRequest) -> RunningStream[CompletionResponse]:
        """Like `completion`, piece by piece; leaving the loop cancels it on the server."""
        body = _one(request)
        return RunningStream(lambda emit: self._api.complete(body, emit))

    def chat(self, messages: ChatRequest | Sequence[ChatMessage], **options: Any) -> ChatResponse:
        """Answer a conversation by `/v1/chat/completions`.

        Args:
            messages: A whole request, or its messages.
            options: With messages: the other fields of `ChatRequest` (`max_tokens`, `tools`, ...).
        """
        return self._run(self._api.chat(_chat(messages, options), ignore))

    def chat_stream(self, messages: ChatRequest | Sequence[ChatMessage], **options: Any) -> RunningStream[ChatResponse]:
        """Like `chat`, piece by piece; leaving the loop cancels it on the server."""
        body = _chat(messages, options)
        return RunningStream(lambda emit: self._api.chat(body, emit))

    def embed(self, texts: str | Sequence[str]) -> Embeddings:
        """Vectors of texts by `/v1/embeddings`; refused by servers started without embeddings."""
        return self._run(self._api.embed(check_texts(texts)))

    def health_check(self) -> bool:
        """Whether the server is up and its model loaded; False, never an error, when nothing answers."""
        return self._run(self._api.health())

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text; by default exactly those that `/completion` makes of it."""
        return self._run(self._api.tokenize(text, add_special=add_special, parse_special=parse_special))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self._run(self._api.detokenize(tokens))

    def apply_template(self, messages: Sequence[ChatMessage]) -> str:
        """The text that the server's chat template makes of a conversation."""
        return self._run(self._api.apply_template(check_conversation(messages)))

    def props(self) -> Props:
        """What the server says about itself and its model."""
        return self._run(self._api.props())

    def slots(self) -> list[Slot]:
        """What each slot is doing; refused by servers started with `--no-slots`."""
        return self._run(self._api.slots())

    def metrics(self) -> Metrics:
        """The server's counters; refused by servers started without `--metrics`."""
        return self._run(self._api.metrics())

    def models(self) -> list[dict[str, Any]]:
        """The models that the server offers."""
        return self._run(self._api.models())

    def close(self) -> None:
        """Close the connections; the client can be used again afterwards."""
        self._run(self._api.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return background().run(work)


class AsyncLlamaClient(_Client):
    """`LlamaClient` for `await`; may be used from several event loops. Cancelling the task cancels the request."""

    async def completion(self, request: CompletionRequest) -> CompletionResponse:
        """Async twin of `LlamaClient.completion`."""
        return await self._hop(self._api.complete(_one(request), ignore))

    async def completions(self, request: CompletionRequest) -> list[CompletionResponse]:
        """Async twin of `LlamaClient.completions`."""
        return await self._hop(self._api.complete_all(request.body(), _ignore_all))

    def stream(self, request: CompletionRequest) -> RunningAsyncStream[CompletionResponse]:
        """Async twin of `LlamaClient.stream`, for `async for`."""
        body = _one(request)
        return RunningAsyncStream(lambda emit: self._api.complete(body, emit))

    async def chat(self, messages: ChatRequest | Sequence[ChatMessage], **options: Any) -> ChatResponse:
        """Async twin of `LlamaClient.chat`."""
        return await self._hop(self._api.chat(_chat(messages, options), ignore))

    def chat_stream(
        self, messages: ChatRequest | Sequence[ChatMessage], **options: Any
    ) -> RunningAsyncStream[ChatResponse]:
        """Async twin of `LlamaClient.chat_stream`, for `async for`."""
        body = _chat(messages, options)
        return RunningAsyncStream(lambda emit: self._api.chat(body, emit))

    async def embed(self, texts: str | Sequence[str]) -> Embeddings:
        """Async twin of `LlamaClient.embed`."""
        return await self._hop(self._api.embed(check_texts(texts)))

    async def health_check(self) -> bool:
        """Async twin of `LlamaClient.health_check`."""
        return await self._hop(self._api.health())

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Async twin of `LlamaClient.tokenize`."""
        return await self._hop(self._api.tokenize(text, add_special=add_special, parse_special=parse_special))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Async twin of `LlamaClient.detokenize`."""
        return await self._hop(self._api.detokenize(tokens))

    async def apply_template(self, messages: Sequence[ChatMessage]) -> str:
        """Async twin of `LlamaClient.apply_template`."""
        return await self._hop(self._api.apply_template(check_conversation(messages)))

    async def props(self) -> Props:
        """Async twin of `LlamaClient.props`."""
        return await self._hop(self._api.props())

    async def slots(self) -> list[Slot]:
        """Async twin of `LlamaClient.slots`."""
        return await self._hop(self._api.slots())

    async def metrics(self) -> Metrics:
        """Async twin of `LlamaClient.metrics`."""
        return await self._hop(self._api.metrics())

    async def models(self) -> list[dict[str, Any]]:
        """Async twin of `LlamaClient.models`."""
        return await self._hop(self._api.models())

    async def aclose(self) -> None:
        """Close the connections; the client can be used again afterwards."""
        await self._hop(self._api.aclose())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _hop(self, work: Coroutine[Any, Any, T]) -> T:
        return await background().hop(work)


def _one(request: CompletionRequest) -> dict[str, Any]:
    """The body of a request for one answer."""
    if request.n not in {None, 1}:
        raise BadInput(
            f"The request asks for {request.n} answers, and one can be returned.",
            fix="Use completions(request), or leave n out.",
            field="n",
            value=request.n,
        )
    return request.body()


def _chat(messages: ChatRequest | Sequence[ChatMessage], options: dict[str, Any]) -> dict[str, Any]:
    """The body of a request for a chat."""
    if isinstance(messages, ChatRequest):
        return messages.body()
    return ChatRequest(messages=check_conversation(messages), **options).body()


def _ignore_all(index: int, piece: str) -> None:
    del index, piece
