"""What goes into an engine: messages, and how the answer is sampled."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from noa_lab.config import StrictModel
from noa_lab.errors import BadInput

__all__ = ["ChatMessage", "InferenceConfig", "MessageRole", "OverflowPolicy", "ToolCall"]

OverflowPolicy = Literal["error", "rolling_window", "truncate_middle"]
"""What happens to a prompt that is too long; see `InferenceConfig.overflow`."""


class MessageRole(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolCall(StrictModel):
    """A call that the model asks for. Nothing here executes it."""

    name: str
    """The tool."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments by name, as the tool's schema wants them."""
    id: str = ""
    """What the answer to this call is addressed to."""

    def as_openai(self) -> dict[str, Any]:
        """The call in the form of OpenAI's chat format, in which arguments are a JSON text."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


class ChatMessage(StrictModel):
    """One turn of a conversation."""

    role: MessageRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Assistant: the calls it asked for."""
    tool_call_id: str = ""
    """Tool: the call that this is the result of."""

    @classmethod
    def system(cls, content: str) -> ChatMessage:
        """An instruction that stands over the conversation."""
        return cls(role=MessageRole.SYSTEM, content=content)

    @classmethod
    def user(cls, content: str) -> ChatMessage:
        """What the user says."""
        return cls(role=MessageRole.USER, content=content)

    @classmethod
    def assistant(cls, content: str, tool_calls: tuple[ToolCall, ...] = ()) -> ChatMessage:
        """What the model said, and the tools it called."""
        return cls(role=MessageRole.ASSISTANT, content=content, tool_calls=tool_calls)

    @classmethod
    def tool(cls, content: str, call: ToolCall) -> ChatMessage:
        """The result of a tool's call."""
        return cls(role=MessageRole.TOOL, content=content, tool_call_id=call.id)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plain messages stay `{"role", "content"}`: the form that templates and servers know."""
        found: dict[str, Any] = handler(self)
        return {name: value for name, value in found.items() if name in {"role", "content"} or value}

    def as_openai(self) -> dict[str, Any]:
        """The message in OpenAI's chat format."""
        found: dict[str, Any] = {"role": self.role.value, "content": self.content}
        if self.tool_calls:
            found["tool_calls"] = [call.as_openai() for call in self.tool_calls]
        if self.tool_call_id:
            found["tool_call_id"] = self.tool_call_id
        return found


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
    n_probs: int = Field(default=0, ge=0, le=100)
    """Likeliest tokens that are reported at each place, with log-probabilities; 0 reports none. The numbers are the model's own,
    before any sampler."""
    json_schema: dict[str, Any] | None = None
    """Only JSON that this JSON Schema describes can be generated (see `noa_lab.structured` for objects)."""
    grammar: str | None = None
    """Only text that this GBNF grammar describes can be generated."""
    overflow: OverflowPolicy = "error"
    """What happens to a prompt that does not fit beside `max_tokens` (or beside half a context, where that is less).

    "error": a prompt that leaves no room for one token is `ContextOverflow`. "rolling_window": the oldest text, or the oldest turns
    after the system message, are left out. "truncate_middle": the beginning and the end stay. `Completion.dropped` says what was left
    out.
    """

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        if self.grammar is not None and self.json_schema is not None:
            raise BadInput(
                "A grammar and a JSON schema cannot both constrain one answer.",
                fix="Give one of the two.",
                field="grammar",
                value=self.grammar,
            )
        return self

    @property
    def greedy(self) -> bool:
        """Whether sampling is switched off."""
        return self.temperature == 0.0

    def over(self, base: InferenceConfig) -> InferenceConfig:
        """These values where they were set, and `base`'s elsewhere."""
        chosen = {name: getattr(self, name) for name in self.model_fields_set}
        return base.model_copy(update=chosen)
