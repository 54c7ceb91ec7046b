"""The one protocol that agents and experiments stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from noa_lab.inference._completion import Completion, ContinuationLogprobs, Embeddings
from noa_lab.inference._tools import Tool, ToolChoice
from noa_lab.inference._types import ChatMessage, InferenceConfig

__all__ = ["AsyncTextStream", "Capabilities", "InferenceEngine", "Mode", "Prompt", "TextStream", "ToolSupport"]

Prompt = str | Sequence[ChatMessage] | Sequence[int]
"""Raw text, sent as it is; a conversation, rendered by the model's own chat template; or token ids, taken as they are."""

ToolSupport = Literal["native", "generic", "none"]

Mode = Literal["fast", "strict"]
"""How an engine works. "fast": prompts share cached beginnings and batches, so that the last bits of a probability, and with them now
and then a token, depend on what else goes on. "strict": one request at a time, in one slot, without cached prompts, on a build that is
pinned: the same request gives the same tokens (`noa_lab.check_determinism` measures it)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. What it cannot is refused by name (`Unsupported`), never left out silently.

    Attributes:
        context_size: Tokens that one request may use, prompt and answer together; 0 where the engine does not tell.
        slots: Requests that are worked on at the same time.
        chat_template: Whether the model brings a chat template; without one the seed's plain format is used.
        reports_cached_tokens: Whether `Completion.cached_tokens` is measured, or always 0.
        tokenizer: Whether texts can be tokenized (`count_tokens`, `render`, token ids as a prompt, overflow policies).
        raw_prompts: Whether `generate` continues raw text.
        embeddings: Whether `embed` works.
        logprobs: Whether generated tokens come with their log-probabilities.
        continuation_logprobs: Whether given continuations can be scored.
        constraints: Which of "json_schema" and "grammar" can constrain an answer.
        tools: "native": by the model's own template and format; "generic": described in the system message and constrained by
            schema; "none".
        samplers: Fields of `InferenceConfig` that are honoured; a value other than neutral for another one is refused.
        modes: Of "fast" and "strict", those that the engine can work in (see `Mode`).
    """

    context_size: int
    slots: int = 1
    chat_template: bool = True
    reports_cached_tokens: bool = True
    tokenizer: bool = True
    raw_prompts: bool = True
    embeddings: bool = False
    logprobs: bool = False
    continuation_logprobs: bool = False
    constraints: frozenset[str] = frozenset()
    tools: ToolSupport = "none"
    samplers: frozenset[str] = frozenset({"temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed"})
    modes: frozenset[str] = frozenset({"fast"})


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

    Raises, from every method that asks the model: `ContextOverflow`, `Unsupported`, `Unreachable`, `RequestRefused`, `StreamBroken`.
    """

    @property
    def model_name(self) -> str:
        """Name of the model, as the catalogue or the server calls it."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the first look may ask the server."""

    def generate(self, prompt: str | Sequence[int], config: InferenceConfig | None = None) -> Completion:
        """Continue raw text, or token ids."""

    def chat(
        self,
        messages: Sequence[ChatMessage],
        config: InferenceConfig | None = None,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
    ) -> Completion:
        """Answer a conversation, through the model's chat template."""

    def stream(self, prompt: Prompt, config: InferenceConfig | None = None) -> TextStream:
        """Like `generate` or `chat`, piece by piece."""

    async def agenerate(self, prompt: str | Sequence[int], config: InferenceConfig | None = None) -> Completion:
        """Async twin of `generate`; cancelling the task cancels the request."""

    async def achat(
        self,
        messages: Sequence[ChatMessage],
        config: InferenceConfig | None = None,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
    ) -> Completion:
        """Async twin of `chat`."""

    def astream(self, prompt: Prompt, config: InferenceConfig | None = None) -> AsyncTextStream:
        """Async twin of `stream`."""

    def embed(self, texts: str | Sequence[str]) -> Embeddings:
        """Vectors of texts."""

    async def aembed(self, texts: str | Sequence[str]) -> Embeddings:
        """Async twin of `embed`."""

    def continuation_logprobs(self, prompt: Prompt, continuation: str | Sequence[int]) -> ContinuationLogprobs:
        """How probable a given continuation of a prompt is, token by token."""

    async def acontinuation_logprobs(self, prompt: Prompt, continuation: str | Sequence[int]) -> ContinuationLogprobs:
        """Async twin of `continuation_logprobs`."""

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The exact text that the model's chat template makes of a conversation."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of raw text, exactly those that `generate` makes of it."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of raw text, or of a conversation after its template, by the serving model's tokenizer."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers beside the request: model sha256, template hash, build, executor, slot mode. No secrets."""

    def close(self) -> None:
        """Let go of connections and child processes; the engine cannot be used afterwards."""
