"""The one protocol that agents and experiments stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from noa_lab.inference._types import ChatMessage, Completion, InferenceConfig

__all__ = ["AsyncTextStream", "Capabilities", "InferenceEngine", "Prompt", "TextStream"]

Prompt = str | Sequence[ChatMessage]
"""Raw text, sent as it is, or a conversation, rendered by the model's own chat template."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        context_size: Tokens that one request may use, prompt and answer together.
        slots: Requests that are worked on at the same time.
        chat_template: Whether the model brings a chat template; without one the seed's plain format is used.
        reports_cached_tokens: Whether `Completion.cached_tokens` is measured, or always 0.
    """

    context_size: int
    slots: int = 1
    chat_template: bool = True
    reports_cached_tokens: bool = True


class TextStream(Protocol):
    """An answer as it arrives: iterate over the pieces, then read `result`. Leaving the loop early and `close` cancel it."""

    def __iter__(self) -> Iterator[str]: ...
    def close(self) -> None:
        """Cancel the request if it is still going on."""

    @property
    def result(self) -> Completion:
        """The whole answer; only after the last piece."""


class AsyncTextStream(Protocol):
    """`TextStream` for `async for`."""

    def __aiter__(self) -> AsyncIterator[str]: ...
    async def aclose(self) -> None:
        """Cancel the request if it is still going on."""

    @property
    def result(self) -> Completion:
        """The whole answer; only after the last piece."""


@runtime_checkable
class InferenceEngine(Protocol):
    """A model that answers. Every method may be called from any thread; the sync ones also inside a running event loop.

    Raises, from every method that asks the model: `ContextOverflow`, `Unreachable`, `RequestRefused`, `StreamBroken`.
    """

    @property
    def model_name(self) -> str:
        """Name of the model, as the catalogue or the server calls it."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the first look may ask the server."""

    def generate(self, prompt: str, config: InferenceConfig | None = None) -> Completion:
        """Continue raw text."""

    def chat(self, messages: Sequence[ChatMessage], config: InferenceConfig | None = None) -> Completion:
        """Answer a conversation, through the model's chat template."""

    def stream(self, prompt: Prompt, config: InferenceConfig | None = None) -> TextStream:
        """Like `generate` or `chat`, piece by piece."""

    async def agenerate(self, prompt: str, config: InferenceConfig | None = None) -> Completion:
        """Async twin of `generate`; cancelling the task cancels the request."""

    async def achat(self, messages: Sequence[ChatMessage], config: InferenceConfig | None = None) -> Completion:
        """Async twin of `chat`."""

    def astream(self, prompt: Prompt, config: InferenceConfig | None = None) -> AsyncTextStream:
        """Async twin of `stream`."""

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The exact text that the model's chat template makes of a conversation."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of raw text, or of a conversation after its template, by the serving model's tokenizer."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers beside the request: model sha256, template hash, build, executor, slot mode. No secrets."""

    def close(self) -> None:
        """Let go of connections and child processes; the engine cannot be used afterwards."""
