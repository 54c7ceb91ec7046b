"""What comes out of an engine: an answer, with everything that is known of how it came about."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from noa_lab.inference._types import ChatMessage, ToolCall

__all__ = ["Completion", "ContinuationLogprobs", "Dropped", "Embeddings", "Timings", "TokenLogprob"]


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
class TokenLogprob:
    """One token with its probability.

    Attributes:
        token: Its id; -1 where the engine does not tell ids.
        piece: Its bytes; a character may be split over several tokens.
        logprob: Natural logarithm of its probability, by the model, before any sampler.
        top: The likeliest tokens at this place, the likeliest first.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        """Its text; half a character is shown as U+FFFD."""
        return self.piece.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Dropped:
    """What an overflow policy left out of a prompt.

    Attributes:
        policy: The policy.
        tokens: Tokens left out.
        messages: Turns left out; 0 for raw text.
    """

    policy: str
    tokens: int
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, with everything that is known of how it came about.

    Attributes:
        text: The generated text.
        model: Name of the model that answered, by its own word.
        finish_reason: "stop" (end of text), "stop_sequence", "length" or "tool_calls".
        prompt_tokens: All tokens of the prompt, cached ones included.
        cached_tokens: Those of them that were reused from an earlier request.
        completion_tokens: Tokens generated.
        truncated: Whether the context was full before the answer had ended or reached `max_tokens`.
        seed: The seed that was really used; None for a greedy answer.
        timings: Where the time went.
        token_ids: Ids of the generated tokens, those of the end of text and of a stop text included; empty where the engine does not
            tell them.
        logprobs: One entry for each generated token, where `n_probs` asked for them; where a stop text ended the answer, its tokens
            are left out.
        tool_calls: The tools that the model asks for, checked against their schemas.
        dropped: What an overflow policy left out of the prompt; None when nothing.
        replayed: Whether this is a recording; its timings are then those of the recording.
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
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    dropped: Dropped | None = None
    replayed: bool = False
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

    @property
    def message(self) -> ChatMessage:
        """The answer as the next turn of the conversation."""
        return ChatMessage.assistant(self.text, self.tool_calls)

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of generation after the first token; None for a single token, or where it was not measured."""
        after = self.completion_tokens - 1
        return after / self.timings.decode_ms * 1000 if after > 0 and self.timings.decode_ms > 0 else None

    def __str__(self) -> str:
        return self.text

    def facts(self) -> str:
        """The facts of the answer in one line, for people."""
        cached = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
        said = [self.model, f"{self.prompt_tokens}{cached} + {self.completion_tokens} tokens"]
        if self.dropped is not None:
            said.append(f"{self.dropped.tokens} prompt tokens left out ({self.dropped.policy})")
        if self.tokens_per_second is not None:
            said.append(f"{self.tokens_per_second:.0f} tokens/s")
        said.append(self.finish_reason + (", context full" if self.truncated else ""))
        if self.seed is not None:
            said.append(f"seed {self.seed}")
        return " · ".join([*said, *(["replayed"] if self.replayed else [])])

    def _repr_html_(self) -> str:
        """The answer in a notebook; the model's text is escaped."""
        calls = "".join(f"<div><code>{html.escape(_call_text(call))}</code></div>" for call in self.tool_calls)
        return (
            f'<div style="white-space:pre-wrap">{html.escape(self.text)}</div>{calls}'
            f'<div style="opacity:.7;font-size:85%">{html.escape(self.facts())}</div>'
        )


def _call_text(call: ToolCall) -> str:
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


@dataclass(frozen=True, slots=True)
class ContinuationLogprobs:
    """How probable a given continuation of a prompt is.

    Attributes:
        tokens: The continuation's tokens, in order.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of them that were reused from an earlier request.
        raw_response: What came back.
    """

    tokens: tuple[TokenLogprob, ...]
    prompt_tokens: int
    cached_tokens: int = 0
    raw_response: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def logprob(self) -> float:
        """Natural logarithm of the whole continuation's probability: the sum over its tokens."""
        return sum(token.logprob for token in self.tokens)

    @property
    def greedy(self) -> bool:
        """Whether each of its tokens was the likeliest one."""
        return all(token.top and token.top[0].token == token.token for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts. `numpy.asarray(embeddings)` has the shape (texts, dimensions).

    Attributes:
        vectors: One vector for each text, each of length 1 (Euclidean norm).
        model: Name of the model, by its own word.
        prompt_tokens: Tokens of all texts together.
        raw_response: What came back.
    """

    vectors: tuple[tuple[float, ...], ...]
    model: str
    prompt_tokens: int
    raw_response: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return self.vectors[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.vectors, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        size = len(self.vectors[0]) if self.vectors else 0
        return f"Embeddings({len(self.vectors)} texts x {size} dimensions, model={self.model!r})"
