"""One endpoint with OpenAI's API: the `openai` package's client, its errors by our names, and what the endpoint is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from noa_lab.errors import InferenceError, NoaLabError, RequestRefused, StreamBroken, Unreachable
from noa_lab.inference._chat_format import BUILT_IN_TEMPLATE_SHA256
from noa_lab.inference._completion import Embeddings
from noa_lab.inference._growing_answers import GrowingAnswers, GrowingChat, GrowingCompletion
from noa_lab.inference._http import as_json, checked_address, checked_patience, is_loopback, refusal
from noa_lab.inference._loop import background
from noa_lab.inference._patience import patient
from noa_lab.inference._requests import CompletionResponse
from noa_lab.inference._streams import Emit
from noa_lab.inference._types import ChatMessage

if TYPE_CHECKING:
    import openai

__all__ = ["Endpoint", "EndpointFacts"]

_NO_KEY = "none"
"""The package insists on a key; endpoints without one take any."""


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What an endpoint is, as far as it tells.

    Attributes:
        llama_cpp: Whether it is llama.cpp's (or noa_lab's router before it).
        context_size: Tokens of prompt and answer together; 0 where it does not tell.
        slots: Requests worked on at the same time.
        chat_template: Whether the model has one of its own.
        native_tools: Whether the model's template knows tools.
        embeddings: Whether it makes embeddings.
        identity: What decides its answers, for fingerprints.
    """

    llama_cpp: bool
    context_size: int = 0
    slots: int = 1
    chat_template: bool = True
    native_tools: bool = True
    embeddings: bool = True
    identity: Mapping[str, Any] = field(default_factory=dict)


class Endpoint:
    """Asks one endpoint about one model. Every coroutine runs on the private loop.

    Args:
        base_url: With "/v1" at the end.
        model: The endpoint's name for the model.
        api_key: Never shown.
        patience: Seconds of silence after which a request is given up.
        max_retries: See `OpenAIEngine`.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None, *, patience: float, max_retries: int) -> None:
        self.base_url = checked_address(base_url)
        self._model = model
        self._api_key = api_key
        self._patience = checked_patience(patience)
        self._max_retries = max_retries
        self._client: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._facts: EndpointFacts | None = None

    def _open(self) -> openai.AsyncOpenAI:
        import openai

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            omit: Any = openai.Omit()
            self._client = openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._api_key or _NO_KEY,
                max_retries=self._max_retries,
                timeout=None,
                # An organization named in the environment is OpenAI's business, not every endpoint's.
                default_headers={"OpenAI-Organization": omit, "OpenAI-Project": omit},
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(self.base_url), timeout=None),
            )
            self._loop = loop
            background().own(self)
        return self._client

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    # Answers

    async def chat(
        self, messages: Sequence[ChatMessage], body: Mapping[str, Any], emit: Emit, max_tokens: int
    ) -> CompletionResponse:
        """Ask `/chat/completions`, as a stream."""
        answer = GrowingChat(emit)
        sent = {**body, "messages": [message.as_openai() for message in messages]}
        await self._listen("/chat/completions", sent, answer, _plain, max_tokens)
        return answer.response()

    async def complete(self, body: Mapping[str, Any], emit: Emit, max_tokens: int) -> CompletionResponse:
        """Ask `/completions`, as a stream."""
        if not await self.is_llama_cpp():
            plain = GrowingChat(emit)
            await self._listen("/completions", body, plain, _as_chat, max_tokens)
            return plain.response()
        answer = GrowingCompletion(1, lambda _, piece: emit(piece))
        await self._listen("/completions", body, answer, _exact, max_tokens)
        stops = body.get("stop") or ()
        for index, tokens in answer.held_back(stops):
            answer.release(index, str((await self.llama("/detokenize", {"tokens": tokens}))["content"]), stops)
        return answer.responses()[0]

    async def _listen(
        self,
        path: str,
        body: Mapping[str, Any],
        answer: GrowingAnswers,
        read: Callable[[Any], dict[str, Any]],
        max_tokens: int,
    ) -> None:
        import openai

        sent = {**body, "model": self._model, "stream": True, "stream_options": {"include_usage": True}}
        as_json(sent)  # what cannot be sent is no fault of the endpoint, as which it would be named below
        try:
            with self._named(path, answer):
                async with patient(answer, self._patience), contextlib.AsyncExitStack() as stack:
                    stream = await self._open().post(
                        path, cast_to=object, body=sent, stream=True, stream_cls=openai.AsyncStream[Any]
                    )
                    stack.push_async_callback(stream.close)
                    async for event in stream:
                        answer.take(read(event))
        except NoaLabError as error:
            if "prompt_tokens" in error.fields:
                error.fields["max_tokens"] = max_tokens
            raise
        if not answer.complete:
            raise self._broken("the stream ended without an end mark", answer)

    @contextlib.contextmanager
    def _named(self, path: str, answer: GrowingAnswers | None = None) -> Iterator[None]:
        """Give the package's errors our names."""
        import httpx2
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raw = json.dumps(error.body).encode() if error.body is not None else error.response.content
            raise refusal(error.status_code, raw, self.base_url + path) from None
        except openai.APIConnectionError as error:
            raise self._broken(str(error.__cause__ or error.message), answer) from None
        except openai.APIError as error:
            status = int(error.code) if error.code and error.code.isdigit() else 500
            found = refusal(status, json.dumps({"error": error.body}).encode(), self.base_url + path)
            if answer is None or not answer.text or not isinstance(found, InferenceError):
                raise found from None
            raise StreamBroken(found.message, fix=found.fix, text=answer.text, url=self.base_url + path) from None
        except TimeoutError:
            raise self._broken(f"it was silent for {self._patience:g} s", answer) from None
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise self._broken(str(error) or type(error).__name__, answer) from None
        except ValueError as error:
            if isinstance(error, NoaLabError):
                raise
            raise self._broken(f"it sent {error}", answer) from None

    def _broken(self, reason: str, answer: GrowingAnswers | None) -> InferenceError:
        if answer is None or not answer.events:
            return Unreachable(
                f"Nothing answers at {self.base_url} ({reason}).",
                fix="Correct the address, or start the endpoint.",
                url=self.base_url,
                reason=reason,
            )
        return StreamBroken(
            f"The answer of {self.base_url} stopped half-way: {reason}.",
            fix="Ask again.",
            text=answer.text,
            url=self.base_url,
        )

    async def embed(self, texts: Sequence[str], *, one_by_one: bool) -> Embeddings:
        """Vectors by `/embeddings`, scaled to length 1.

        Args:
            texts: The texts.
            one_by_one: One request for each text (see `ServerApi.embed` for the reason).
        """
        vectors: list[tuple[float, ...]] = []
        tokens, model = 0, ""
        for batch in [[text] for text in texts] if one_by_one else [list(texts)]:
            with self._named("/embeddings"):
                found = await self._open().embeddings.create(model=self._model, input=batch, encoding_format="float")
            vectors += [_unit(row.embedding) for row in sorted(found.data, key=lambda row: row.index)]
            tokens += found.usage.prompt_tokens if found.usage else 0
            model = found.model
        return Embeddings(tuple(vectors), model, tokens)

    # What it is

    async def is_llama_cpp(self) -> bool:
        """Whether llama.cpp's own endpoints are there."""
        return (await self.facts()).llama_cpp

    async def llama(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask one of llama.cpp's own endpoints, which stand beside "/v1"."""
        url = self.base_url.removesuffix("/v1") + path
        with self._named(path):
            if body is None:
                found: Any = await self._open().get(url, cast_to=object, options={"params": {"model": self._model}})
            else:
                found = await self._open().post(url, cast_to=object, body=dict(body))
        if not isinstance(found, dict):
            raise RequestRefused(
                f"{url} did not answer with an object.",
                fix="Check that the address is that of an OpenAI-compatible API, usually ending in /v1.",
                status=200,
                type="",
                url=url,
            )
        return found

    async def facts(self) -> EndpointFacts:
        """What the endpoint is; asked once."""
        if self._facts is None:
            self._facts = await self._look()
        return self._facts

    async def _look(self) -> EndpointFacts:
        try:
            props = await self.llama("/props")
        except RequestRefused as error:
            if error.fields.get("status") in {401, 403}:
                raise
            props = {}
        settings = props.get("default_generation_settings")
        if not isinstance(settings, dict) or "n_ctx" not in settings:
            return EndpointFacts(llama_cpp=False, context_size=await self._told_context())
        template = str(props.get("chat_template") or "")
        hashed = hashlib.sha256(template.encode()).hexdigest()
        own = bool(template) and hashed != BUILT_IN_TEMPLATE_SHA256
        return EndpointFacts(
            llama_cpp=True,
            context_size=int(settings["n_ctx"]),
            slots=int(props.get("total_slots", 1)),
            chat_template=own,
            native_tools=bool((props.get("chat_template_caps") or {}).get("supports_tools")),
            embeddings=await self._embeds(),
            identity={"build": props.get("build_info"), "chat_template_sha256": hashed if own else None},
        )

    async def _embeds(self) -> bool:
        try:
            await self.embed(["x"], one_by_one=True)
        except RequestRefused:
            return False
        return True

    async def _told_context(self) -> int:
        """The context that vLLM and its kin tell in their list of models; 0 elsewhere."""
        try:
            with self._named("/models"):
                listed = await self._open().get("/models", cast_to=object)
        except RequestRefused:
            return 0
        models = listed.get("data", []) if isinstance(listed, dict) else []
        mine = next((each for each in models if isinstance(each, dict) and each.get("id") == self._model), {})
        return int(mine.get("max_model_len") or mine.get("context_length") or 0)


def _plain(event: Any) -> dict[str, Any]:
    """One event of the API, if it is an object."""
    if not isinstance(event, dict):
        raise ValueError(f"an event that is no object: {str(event)[:80]!r}")
    return event


def _exact(event: Any) -> dict[str, Any]:
    """An event of llama-server's `/v1/completions` in the form of `/completion`, which it brings along when asked to be verbose."""
    found = _plain(event)
    exact = found.get("__verbose")
    if not isinstance(exact, dict):
        raise ValueError("an event without what llama.cpp says when it is verbose")
    progress = {"prompt_progress": found["prompt_progress"]} if "prompt_progress" in found else {}
    return {**exact, **progress, "__verbose": exact}


def _as_chat(event: Any) -> dict[str, Any]:
    """An event of any other `/completions` in the form of a chat's."""
    found = _plain(event)
    choices = [{**choice, "delta": {"content": choice.get("text")}} for choice in found.get("choices") or ()]
    return {**found, "choices": choices}


def _unit(vector: Sequence[float]) -> tuple[float, ...]:
    norm = sum(value * value for value in vector) ** 0.5
    return tuple(value / norm for value in vector) if norm else tuple(vector)
