"""What goes into an engine and what comes out of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import Field

from noa_lab.config import StrictModel

__all__ = ["ChatMessage", "Completion", "InferenceConfig", "MessageRole", "Timings"]


class MessageRole(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class ChatMessage(StrictModel):
    """One turn of a conversation."""

    role: MessageRole
    content: str

    @classmethod
    def system(cls, content: str) -> ChatMessage:
        """An instruction that stands over the conversation."""
        return cls(role=MessageRole.SYSTEM, content=content)

    @classmethod
    def user(cls, content: str) -> ChatMessage:
        """What the user says."""
        return cls(role=MessageRole.USER, content=content)

    @classmethod
    def assistant(cls, content: str) -> ChatMessage:
        """What the model said."""
        return cls(role=MessageRole.ASSISTANT, content=content)


class InferenceConfig(StrictModel):
    """How an answer is sampled. Every value is sent explicitly: an engine's own defaults never decide.

    The first four fields and their defaults are the seed document's. Whether a field was set by the caller is kept
    (`model_fields_set`), so that a file's values can stand below a call's.
    """

    temperature: float = Field(default=0.7, ge=0.0, le=10.0)
    """Sharpness of the distribution; 0 is greedy: the likeliest token each time."""
    max_tokens: int = Field(default=2048, ge=1, le=1_000_000)
    """Most tokens to generate."""
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    """Smallest set of tokens whose probabilities sum to this is kept."""
    stop_sequences: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    top_k: int = Field(default=40, ge=0, le=1_000_000)
    """Most likely tokens kept; 0 keeps all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Tokens below this share of the likeliest one's probability are dropped; 0 drops none."""
    repeat_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    """Divides the logits of tokens among the last 64; 1 changes nothing."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 2)
    """Seed of the sampler; None draws one, which the completion reports."""

    @property
    def greedy(self) -> bool:
        """Whether sampling is switched off."""
        return self.temperature == 0.0

    def over(self, base: InferenceConfig) -> InferenceConfig:
        """These values where they were set, and `base`'s elsewhere."""
        chosen = {name: getattr(self, name) for name in self.model_fields_set}
        return base.model_copy(update=chosen)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one answer went, in milliseconds.

    Attributes:
        queue_ms: From sending the request to the engine beginning to work on it, as far as that can be seen from outside.
        ttft_ms: From sending the request to the first token (time to first token).
        prefill_ms: Evaluating the prompt tokens that were not cached, by the engine's clock.
        decode_ms: Generating the tokens after the first, by the engine's clock.
        total_ms: From sending the request to the end of the answer.
    """

    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, with everything that is known of how it came about.

    Attributes:
        text: The generated text.
        model: Name of the model that answered, by its own word.
        finish_reason: "stop" (end of text), "stop_sequence" or "length".
        prompt_tokens: All tokens of the prompt, cached ones included.
        cached_tokens: Those of them that were reused from an earlier request.
        completion_tokens: Tokens generated.
        truncated: Whether the context was full before the answer ended.
        seed: The seed that was really used; None for a greedy answer.
        timings: Where the time went.
        raw_request: What was sent.
        raw_response: What came back.
    """

    text: str
    model: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    truncated: bool = False
    seed: int | None = None
    timings: Timings = field(default_factory=Timings)
    raw_request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw_response: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens generated: the short name of `completion_tokens`."""
        return self.completion_tokens

    @property
    def raw(self) -> Mapping[str, Any]:
        """What came back from the engine, as it was."""
        return self.raw_response

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The answer in a notebook; the model's text is escaped."""
        rate = self.completion_tokens / self.timings.decode_ms * 1000 if self.timings.decode_ms else 0.0
        facts = f"{self.model} · {self.prompt_tokens} + {self.completion_tokens} tokens · {rate:.0f} tokens/s · {self.finish_reason}"
        return (
            f'<div style="white-space:pre-wrap">{html.escape(self.text)}</div>'
            f'<div style="opacity:.7;font-size:85%">{html.escape(facts)}</div>'
        )
