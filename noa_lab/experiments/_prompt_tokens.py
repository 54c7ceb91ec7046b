"""About how many tokens conversations have, without a tokenizer: by their characters, and by what the chat template puts around them."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Sequence

from noa_lab.errors import TemplateInvalid
from noa_lab.inference import ChatMessage, MessageRole, format_chat_prompt
from noa_lab.inference.batch import Prefixes
from noa_lab.inference.embedded import ChatTemplate

__all__ = ["UNKNOWN_TEMPLATE", "prompt_tokens"]

UNKNOWN_TEMPLATE = ""
"""Stands for the template of a model that is not here: ChatML is taken, which most have, or something of its length."""

_CHARACTERS = 4
"""Characters of a token of what people write, for most texts and tokenizers."""

_PIECE = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]|\w+|[^\w\s]|\n")
"""About one token of what a template writes: a mark such as `<|im_end|>` is one, however long."""

_PLACES, _PIECES = 0xF0000, 0xE000
"""Where Unicode's private characters begin: a turn's place in a rendered template, and the pieces of the template itself."""


def prompt_tokens(conversations: Sequence[Sequence[ChatMessage]], template: str | None) -> tuple[float, float]:
    """About the tokens of some conversations.

    Args:
        conversations: The conversations.
        template: The model's chat template; None for a model without one, or `UNKNOWN_TEMPLATE`.

    Returns:
        Tokens of all, and those that have to be evaluated when what they share at the beginning is evaluated once.
    """
    prefixes = Prefixes([_packed(turns, template) for turns in conversations])
    return prefixes.total / _CHARACTERS, prefixes.minimum / _CHARACTERS


def _packed(turns: Sequence[ChatMessage], template: str | None) -> bytes:
    """A conversation as characters of four bytes, `_CHARACTERS` for each token: they compare as packed tokens do."""
    first, *others = _frame(tuple(turn.role for turn in turns), template)
    texts = [first, *(turn.content + after for turn, after in zip(turns, others, strict=True))]
    return "".join(texts).encode("utf-32-be", "surrogatepass")


@functools.lru_cache(maxsize=256)
def _frame(roles: tuple[MessageRole, ...], template: str | None) -> tuple[str, ...]:
    """What a template puts before, between and after the contents of turns, weighed."""
    places = [chr(_PLACES + number) for number in range(len(roles))]
    turns = [ChatMessage(role=role, content=place) for role, place in zip(roles, places, strict=True)]
    rendered = format_chat_prompt(turns) if template is None else _rendered(template, turns)
    pattern = f"[{chr(_PLACES)}-{chr(_PLACES + len(roles))}]"
    if re.findall(pattern, rendered) != places:
        rendered = "".join(f"<|im_start|>{turn.role.value}\n{turn.content}<|im_end|>\n" for turn in turns)
        rendered += "<|im_start|>assistant\n"
    return tuple(map(_weighed, re.split(pattern, rendered)))


def _rendered(template: str, turns: Sequence[ChatMessage]) -> str:
    """By the template; "" where it refuses these roles, as the run will say by name."""
    try:
        return ChatTemplate(template).render([{"role": turn.role.value, "content": turn.content} for turn in turns])
    except TemplateInvalid:
        return ""


def _weighed(text: str) -> str:
    """A template's text as `_CHARACTERS` characters for each of its tokens."""
    pieces = _PIECE.findall(text)
    return "".join(chr(_PIECES + zlib.crc32(piece.encode()) % 6400) * _CHARACTERS for piece in pieces)
