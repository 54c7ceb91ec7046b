"""What every engine shares: from one coroutine per question to the whole protocol, sync, async and streaming."""

from __future__ import annotations

import abc
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from noa_lab.errors import BadInput
from noa_lab.inference._loop import background
from noa_lab.inference._protocol import AsyncTextStream, Capabilities, Prompt, TextStream
from noa_lab.inference._streams import Emit, RunningAsyncStream, RunningStream
from noa_lab.inference._types import ChatMessage, Completion, InferenceConfig

__all__ = ["EngineBase", "check_conversation", "ignore"]

T = TypeVar("T")


class EngineBase(abc.ABC):
    """The `InferenceEngine` protocol over a handful of coroutines that a subclass writes.

    The coroutines always run on noa_lab's private event loop, so a subclass keeps its connections there and needs no locks.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._closed = False

    # What a subclass writes

    @abc.abstractmethod
    async def _answer(self, prompt: Prompt, config: InferenceConfig, emit: Emit) -> Completion:
        """Answer; call `emit` with each piece of text as it arrives. Cancelling the coroutine must stop the work."""

    @abc.abstractmethod
    async def _render(self, messages: Sequence[ChatMessage]) -> str: ...

    @abc.abstractmethod
    async def _count(self, text: str) -> int: ...

    @abc.abstractmethod
    async def _capabilities(self) -> Capabilities: ...

    @abc.abstractmethod
    async def _fingerprint(self) -> dict[str, Any]: ...

    @abc.abstractmethod
    async def _close(self) -> None: ...

    # The protocol

    @property
    def model_name(self) -> str:
        """Name of the model, as the caller gave it."""
        return self._model_name

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the first look may ask the server."""
        return self._wait(self._capabilities())

    def generate(self, prompt: str, config: InferenceConfig | None = None) -> Completion:
        """Continue raw text.

        Args:
            prompt: The text, sent as it is; the tokenizer adds the model's own beginning-of-text token where it has one.
            config: How to sample; None is `InferenceConfig()`.

        Raises:
            BadInput: For values that no engine could honour.
            ContextOverflow: When the prompt leaves no room for one token.
            InferenceError: When the engine fails: `Unreachable`, `RequestRefused`, `StreamBroken`.
        """
        return self._wait(self._answer(check_text(prompt), check_config(config), ignore))

    def chat(self, messages: Sequence[ChatMessage], config: InferenceConfig | None = None) -> Completion:
        """Answer a conversation, through the model's chat template; raises what `generate` raises."""
        return self._wait(self._answer(check_conversation(messages), check_config(config), ignore))

    def stream(self, prompt: Prompt, config: InferenceConfig | None = None) -> TextStream:
        """Like `generate` (for text) or `chat` (for messages), piece by piece; the request starts with the loop over it."""
        asked, how = _prompt(prompt), check_config(config)
        self._check_open()
        return RunningStream(lambda emit: self._answer(asked, how, emit))

    async def agenerate(self, prompt: str, config: InferenceConfig | None = None) -> Completion:
        """Async twin of `generate`; cancelling the task cancels the request."""
        return await self._hop(self._answer(check_text(prompt), check_config(config), ignore))

    async def achat(self, messages: Sequence[ChatMessage], config: InferenceConfig | None = None) -> Completion:
        """Async twin of `chat`; cancelling the task cancels the request."""
        return await self._hop(self._answer(check_conversation(messages), check_config(config), ignore))

    def astream(self, prompt: Prompt, config: InferenceConfig | None = None) -> AsyncTextStream:
        """Async twin of `stream`."""
        asked, how = _prompt(prompt), check_config(config)
        self._check_open()
        return RunningAsyncStream(lambda emit: self._answer(asked, how, emit))

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The exact text that the model's chat template makes of a conversation, up to where the answer begins."""
        return self._wait(self._render(check_conversation(messages)))

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens that a prompt takes up, by the serving model's tokenizer: equal to `Completion.prompt_tokens`."""
        return self._wait(self._count_prompt(_prompt(prompt)))

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers beside the request. No secrets."""
        return self._wait(self._fingerprint())

    def close(self) -> None:
        """Let go of connections and child processes; closing twice is fine."""
        if not self._closed:
            self._closed = True
            background().run(self._close())

    async def aclose(self) -> None:
        """Async twin of `close`."""
        if not self._closed:
            self._closed = True
            await background().hop(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Plumbing

    async def _count_prompt(self, prompt: Prompt) -> int:
        return await self._count(prompt if isinstance(prompt, str) else await self._render(prompt))

    @staticmethod
    def _no_tokens(text: str) -> BadInput:
        """The error for a prompt that the tokenizer makes nothing of: a model has nothing to continue then."""
        fix = "Give at least one word."
        return BadInput("The prompt is empty: it has no tokens.", fix=fix, field="prompt", value=text)

    def _check_open(self) -> None:
        if self._closed:
            raise BadInput(
                f"The engine of {self._model_name!r} is closed.", fix="Make a new one.", field="engine", value="closed"
            )

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BadInput:
            work.close()
            raise
        return background().run(work)

    async def _hop(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BadInput:
            work.close()
            raise
        return await background().hop(work)


def ignore(piece: str) -> None:
    """An `Emit` for callers that want the whole answer only."""
    del piece


def check_config(config: object) -> InferenceConfig:
    """The config to use; None is the defaults."""
    if config is None:
        return InferenceConfig()
    if not isinstance(config, InferenceConfig):
        raise BadInput(
            f"config is a {type(config).__name__}.",
            fix="Give an InferenceConfig, for example InferenceConfig(max_tokens=40).",
            field="config",
            value=config,
        )
    return config


def check_text(prompt: object) -> str:
    """The text, if a tokenizer can read it."""
    if not isinstance(prompt, str):
        fix = "Use chat for a list of messages, generate for text."
        raise BadInput(f"The prompt is a {type(prompt).__name__}, not text.", fix=fix, field="prompt", value=prompt)
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"The prompt holds half a character (a lone surrogate) at position {error.start}, which no tokenizer can read.",
            fix="Read the text with the right encoding, or with errors='replace'.",
            field="prompt",
            value=prompt[max(0, error.start - 20) : error.start + 20],
        ) from None
    return prompt


def check_conversation(messages: object) -> list[ChatMessage]:
    """The messages as a list, if they are a conversation."""
    fix = "Give a list such as [ChatMessage.user('Hello')]."
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise BadInput(f"messages is a {type(messages).__name__}.", fix=fix, field="messages", value=messages)
    if not messages:
        raise BadInput("The conversation is empty.", fix=fix, field="messages", value=[])
    for index, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            raise BadInput(
                f"messages[{index}] is a {type(message).__name__}.", fix=fix, field=f"messages.{index}", value=message
            )
        check_text(message.content)
    return list(messages)


def _prompt(prompt: Prompt) -> Prompt:
    return check_text(prompt) if isinstance(prompt, str) else check_conversation(prompt)
