"""What callers give, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from noa_lab.errors import BadInput
from noa_lab.inference._protocol import Prompt
from noa_lab.inference._types import ChatMessage, InferenceConfig

__all__ = [
    "check_config",
    "check_continuation",
    "check_conversation",
    "check_prompt",
    "check_raw",
    "check_texts",
    "is_conversation",
]


def check_config(config: object) -> InferenceConfig:
    """The config to use; None is the defaults."""
    if config is None:
        return InferenceConfig()
    if not isinstance(config, InferenceConfig):
        raise BadInput(
            f"config is a {type(config).__name__}, not an InferenceConfig.",
            fix="Give for example InferenceConfig(max_tokens=40).",
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


def check_tokens(prompt: Sequence[object], field: str = "prompt") -> tuple[int, ...]:
    """Token ids, if they can be some."""
    for index, token in enumerate(prompt):
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 2**31:
            raise BadInput(
                f"{field}[{index}] = {token!r} is not a token id.",
                fix="Give text, or whole numbers as engine.tokenize() returns them.",
                field=field,
                value=token,
            )
    return tuple(prompt)  # type: ignore[arg-type]


def check_raw(prompt: object) -> str | tuple[int, ...]:
    """Text or token ids."""
    if isinstance(prompt, list | tuple) and prompt and not isinstance(prompt[0], ChatMessage):
        return check_tokens(prompt)
    return check_text(prompt)


def check_conversation(messages: object) -> list[ChatMessage]:
    """The messages as a list, if they are a conversation."""
    fix = "Give a list such as [ChatMessage.user('Hello')]."
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise BadInput(
            f"messages is a {type(messages).__name__}, not a list of messages.",
            fix=fix,
            field="messages",
            value=messages,
        )
    if not messages:
        raise BadInput("The conversation is empty.", fix=fix, field="messages", value=[])
    for index, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            raise BadInput(
                f"messages[{index}] is a {type(message).__name__}, not a ChatMessage.",
                fix=fix,
                field=f"messages.{index}",
                value=message,
            )
        check_text(message.content)
    return list(messages)


def check_prompt(prompt: Prompt) -> str | tuple[int, ...] | list[ChatMessage]:
    """Text, token ids or a conversation."""
    if isinstance(prompt, str) or (isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], int)):
        return check_raw(prompt)
    return check_conversation(prompt)


def check_continuation(continuation: object) -> str | tuple[int, ...]:
    """What may follow a prompt: text or token ids, not nothing."""
    if not continuation:
        fix = "Give at least one word."
        raise BadInput("The continuation is empty.", fix=fix, field="continuation", value=continuation)
    if isinstance(continuation, list | tuple):
        return check_tokens(continuation, "continuation")
    return check_text(continuation)


def check_texts(texts: object) -> list[str]:
    """Texts to embed, none of them empty."""
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, Sequence) or isinstance(listed, bytes) or not listed:
        fix = "Give a text or a list of texts."
        raise BadInput(
            f"texts is neither a text nor a list of texts: {texts!r}."[:200], fix=fix, field="texts", value=texts
        )
    for index, text in enumerate(listed):
        if not check_text(text):
            raise BadInput(f"texts[{index}] is empty.", fix="Leave it out.", field=f"texts.{index}", value=text)
    return list(listed)


def is_conversation(prompt: Prompt) -> TypeGuard[Sequence[ChatMessage]]:
    """Whether a checked prompt is a conversation, and neither text nor token ids."""
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], ChatMessage)
