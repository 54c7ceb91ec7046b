"""Requests to llama-server and what comes back, under the seed document's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import Field, model_validator

from noa_lab.config import StrictModel
from noa_lab.errors import BadInput
from noa_lab.inference._completion import TokenLogprob
from noa_lab.inference._types import ChatMessage

__all__ = ["ChatRequest", "ChatResponse", "Clock", "CompletionRequest", "CompletionResponse"]


class _Request(StrictModel):
    """What requests for a completion and for a chat share. Fields left at None are not sent: the server's own defaults then decide."""

    temperature: float | None = Field(default=None, ge=0.0)
    """Sharpness of the distribution; 0 is greedy."""
    max_tokens: int | None = Field(default=None, ge=-1, le=2**31 - 1)
    """Most tokens to generate; -1 is unlimited. Sent as `n_predict`."""
    stop: list[str] | None = None
    """Texts that end the answer; they are not part of it."""
    top_k: int | None = Field(default=None, ge=0)
    """Most likely tokens kept; 0 keeps all."""
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    """Smallest set of tokens whose probabilities sum to this is kept."""
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    """Tokens below this share of the likeliest one's probability are dropped."""
    repeat_penalty: float | None = Field(default=None, gt=0.0)
    """Divides the logits of recent tokens; 1 changes nothing."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    """Seed of the sampler; llama-server never reports one that it drew itself, so send one."""
    cache_prompt: bool | None = None
    """Whether the slot's earlier prompt may be reused."""
    id_slot: int | None = Field(default=None, ge=-1)
    """The slot that must answer; -1 is any."""
    grammar: str | None = None
    """GBNF grammar of the answer."""
    json_schema: dict[str, Any] | None = None
    """JSON Schema of the answer. llama-server skips keywords that it does not know without a word."""
    samplers: list[str] | None = None
    """Samplers in their order."""
    model: str | None = None
    """The model that must answer, for servers that have several (a router)."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Any further field of llama-server's, sent as it is (`mirostat`, `lora`, ...)."""

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        for name in self.extra:
            if name in type(self).model_fields or name in {"n_predict", "n_cmpl"}:
                known = {"n_predict": "max_tokens", "n_cmpl": "n"}.get(name, name)
                raise BadInput(
                    f"extra holds {name!r}, for which there is a field.",
                    fix=f"Give it as {type(self).__name__}({known}=...).",
                    field=f"extra.{name}",
                    value=self.extra[name],
                )
        return self

    def body(self) -> dict[str, Any]:
        """The JSON body, in llama-server's names."""
        sent = self.model_dump(exclude_none=True, exclude={"extra", "max_tokens"})
        if self.max_tokens is not None:
            sent["n_predict"] = self.max_tokens
        return {**sent, **self.extra}


class CompletionRequest(_Request):
    """A request to `/completion`.

    Names and meanings are llama.cpp's (`tools/server/README.md`), but for the seed document's `max_tokens`.
    """

    prompt: str | list[int]
    """Text, sent as it is, or token ids."""
    n: int | None = Field(default=None, ge=1)
    """Answers to give; the prompt is evaluated once. Answer k uses `seed` + k. At most as many as the server has slots."""
    n_probs: int | None = Field(default=None, ge=0)
    """Likeliest tokens reported at each place, with log-probabilities."""
    return_tokens: bool | None = None
    """Whether the last message of an answer that is no stream repeats the ids of the generated tokens (streams tell them anyway)."""


class ChatRequest(_Request):
    """A request to `/v1/chat/completions`, which renders the conversation and reads the model's own format of tool calls."""

    messages: list[ChatMessage] = Field(min_length=1)
    """The conversation."""
    tools: list[dict[str, Any]] | None = None
    """Tools in OpenAI's form (`Tool.as_openai()`)."""
    tool_choice: str | None = None
    """"auto", "required" or "none"; llama-server knows no choice by name."""
    top_logprobs: int | None = Field(default=None, ge=0)
    """Likeliest tokens reported at each place, with log-probabilities."""
    reasoning_format: str | None = None
    """"none", "deepseek" or "auto": whether thoughts are told apart from the answer."""

    def body(self) -> dict[str, Any]:
        """The JSON body, in the endpoint's names."""
        sent = {**super().body(), "messages": [message.as_openai() for message in self.messages]}
        return sent | ({"logprobs": True} if self.top_logprobs is not None else {})


@dataclass(frozen=True, slots=True)
class Clock:
    """When things happened to one request, in seconds by this process's `time.perf_counter()`.

    Attributes:
        sent: The request was sent.
        started: The server began to work on it (its first sign of life for this request).
        first: The first token arrived.
        ended: The answer was complete.
    """

    sent: float
    started: float
    first: float
    ended: float


@dataclass(frozen=True, slots=True)
class CompletionResponse:
    """What `/completion` answered.

    Attributes:
        content: The generated text.
        model: The server's name for the model that answered.
        stop_reason: "eos", "word" (a stop text), "limit" or "none"; llama-server's `stop_type`.
        tokens_evaluated: All tokens of the prompt, cached ones included.
        tokens_predicted: Tokens generated, the end-of-text token included.
        tokens_cached: Prompt tokens reused from an earlier request (llama-server's `timings.cache_n`; its own field
            `tokens_cached` means something else).
        truncated: Whether the context was full before the answer ended.
        index: Which of `n` answers this is, from 0.
        id_slot: The slot that answered; -1 where that is not told.
        tokens: Ids of the generated tokens.
        probabilities: One entry for each generated token, where `n_probs` asked for them.
        timings: The server's measurements, in milliseconds and tokens: `cache_n`, `prompt_n`, `prompt_ms`, `predicted_n`,
            `predicted_ms`, ...
        clock: This side's measurements.
        raw: The last message of the server, whole.
    """

    content: str
    model: str
    stop_reason: str | None
    tokens_evaluated: int
    tokens_predicted: int
    tokens_cached: int = 0
    truncated: bool = False
    index: int = 0
    id_slot: int = -1
    tokens: tuple[int, ...] = field(default=(), repr=False)
    probabilities: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    timings: Mapping[str, float] = field(default_factory=dict)
    clock: Clock = field(default=Clock(0.0, 0.0, 0.0, 0.0), repr=False)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.content


@dataclass(frozen=True, slots=True)
class ChatResponse(CompletionResponse):
    """What `/v1/chat/completions` answered. `stop_reason` is its `finish_reason`: "stop", "length" or "tool_calls".

    Attributes:
        reasoning: Thoughts that the server told apart from the answer.
        tool_calls: Calls as the model wrote them: `{"id", "name", "arguments"}`, the arguments a JSON text, not checked.
    """

    reasoning: str = ""
    tool_calls: tuple[Mapping[str, str], ...] = ()
