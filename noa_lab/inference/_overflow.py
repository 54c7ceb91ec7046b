"""What is left out of a prompt that is too long, when the caller has named a policy for that."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence

from noa_lab.errors import ContextOverflow
from noa_lab.inference._completion import Dropped
from noa_lab.inference._protocol import Prompt
from noa_lab.inference._types import ChatMessage, InferenceConfig, MessageRole

__all__ = ["fit_conversation", "fit_tokens", "room_for_prompt"]

CountTurns = Callable[[Sequence[ChatMessage]], Awaitable[int]]


def room_for_prompt(context_size: int, config: InferenceConfig) -> int:
    """Tokens that a prompt may have: the answer keeps `max_tokens`, but at most half of the context."""
    return context_size - min(config.max_tokens, context_size // 2)


def fit_tokens(
    tokens: Sequence[int], room: int, policy: str, beginning: Sequence[int]
) -> tuple[Prompt, Dropped | None]:
    """Cut token ids to `room`.

    The end always stays, because the answer follows it, and so does the token that begins every text of the model.

    Args:
        tokens: The prompt.
        room: Tokens it may have.
        policy: "rolling_window" or "truncate_middle".
        beginning: What the tokenizer adds to an empty text.
    """
    over = len(tokens) - room
    if over <= 0:
        return tuple(tokens), None
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, beginning, strict=False))
    head = max(sum(1 for _ in same), room // 2 if policy == "truncate_middle" else 0)
    return (*tokens[:head], *tokens[head + over :]), Dropped(policy, over)


async def fit_conversation(
    messages: Sequence[ChatMessage], room: int, config: InferenceConfig, context_size: int, count: CountTurns
) -> tuple[Prompt, Dropped | None]:
    """Leave out whole turns until the conversation fits.

    The system message at the beginning and the last user message, with what follows it, always stay; with "truncate_middle" the
    first exchange does, too. An answer is never left without its question. As few turns as possible are left out.

    Args:
        messages: The conversation.
        room: Tokens it may have.
        config: Names the policy.
        context_size: For the error.
        count: Tokens of a conversation after the template.

    Raises:
        ContextOverflow: When what always stays does not fit.
    """
    whole = tokens = await count(messages)
    if tokens <= room:
        return list(messages), None
    kept = 1 if messages[0].role is MessageRole.SYSTEM else 0
    if config.overflow == "truncate_middle":
        kept = _next_user(messages, kept + 1)
    ends = _cuts(messages, kept)
    low, high, found = 0, len(ends) - 1, None
    while low <= high:
        middle = (low + high) // 2
        shorter = [*messages[:kept], *messages[ends[middle] :]]
        left = await count(shorter)
        tokens = min(tokens, left)
        if left <= room:
            found = (shorter, Dropped(config.overflow, whole - left, ends[middle] - kept))
            high = middle - 1
        else:
            low = middle + 1
    if found is not None:
        return found
    raise ContextOverflow(
        f"The conversation has {whole} tokens, and {tokens} without all turns that {config.overflow!r} may leave out; "
        f"there is room for {room} beside the answer.",
        fix="Shorten the last message or the system message, ask for fewer max_tokens, or serve with a larger context_size.",
        prompt_tokens=tokens,
        max_tokens=config.max_tokens,
        context_size=context_size,
    )


def _next_user(messages: Sequence[ChatMessage], start: int) -> int:
    """Index of the first user message from `start` on."""
    users = (at for at in range(start, len(messages)) if messages[at].role is MessageRole.USER)
    return next(users, len(messages))


def _cuts(messages: Sequence[ChatMessage], kept: int) -> Sequence[int]:
    """Where what follows the gap may begin: at user messages after `kept`. The last of them begins what always stays."""
    return [at for at in range(kept + 1, len(messages)) if messages[at].role is MessageRole.USER]
