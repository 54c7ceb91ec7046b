"""Scoring a given continuation: which tokens it consists of, and how an engine is made to choose exactly these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from noa_lab.errors import BadInput, ContextOverflow
from noa_lab.inference._completion import ContinuationLogprobs
from noa_lab.inference._requests import CompletionResponse

__all__ = ["Tokenize", "check_room", "forced", "scored", "split_continuation"]


class Tokenize(Protocol):
    """Tokenizes, special tokens read as such; `add_special` says whether the model's own beginning of text is added."""

    async def __call__(self, text: str, *, add_special: bool = True) -> list[int]: ...


async def split_continuation(
    prompt: str | Sequence[int],
    continuation: str | Sequence[int],
    tokenize: Tokenize,
    detokenize: Callable[[Sequence[int]], Awaitable[str]],
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of what follows it.

    Both texts are tokenized together, so that the continuation has the tokens it would have there (some tokenizers write the
    first word of a text differently). Where a token would reach over the border, the continuation is tokenized alone.

    Raises:
        BadInput: When the prompt has no tokens, or the tokenizer would change the text at the border.
    """
    before = await tokenize(prompt) if isinstance(prompt, str) else list(prompt)
    if not before:
        raise BadInput(
            "The prompt is empty: it has no tokens.", fix="Give at least one word.", field="prompt", value=prompt
        )
    if not isinstance(continuation, str):
        return before, list(continuation)
    if isinstance(prompt, str):
        whole = await tokenize(prompt + continuation)
        if whole[: len(before)] == before and len(whole) > len(before):
            return before, whole[len(before) :]
    alone = await tokenize(continuation, add_special=False)
    if await detokenize([*before, *alone]) != await detokenize(before) + continuation:
        raise BadInput(
            "The continuation cannot be cut off from the prompt: one token would hold the end of one and the start of the other.",
            fix="Let the continuation begin with the space, or give it as token ids.",
            field="continuation",
            value=continuation,
        )
    return before, alone


def check_room(before: Sequence[int], after: Sequence[int], context_size: int) -> None:
    """Raise `ContextOverflow` when a prompt and its continuation do not fit together."""
    if len(before) + len(after) > context_size:
        raise ContextOverflow(
            f"The prompt has {len(before)} tokens and the continuation {len(after)}; the context holds {context_size}.",
            fix="Shorten one of them, or serve the model with a larger context_size.",
            prompt_tokens=len(before),
            max_tokens=len(after),
            context_size=context_size,
        )


def forced(tokens: Sequence[int]) -> dict[str, Any]:
    """The fields of `/completion` that make it choose these tokens: a grammar over token ids (`grammars/README.md`, b11312).

    The probabilities that it reports are the model's own, before the grammar (`populate_token_probs` in `server-context.cpp`).
    """
    grammar = "root ::= " + " ".join(f"<[{token}]>" for token in tokens)
    return {"grammar": grammar, "n_predict": len(tokens), "stop": [], "samplers": ["top_k"], "top_k": 1}


def scored(response: CompletionResponse, tokens: Sequence[int]) -> ContinuationLogprobs | None:
    """What an answer to `forced` says of these tokens; None where it is about others, as of a server that knows no such grammar."""
    if [found.token for found in response.probabilities] != list(tokens):
        return None
    return ContinuationLogprobs(response.probabilities, response.tokens_evaluated, response.tokens_cached, response.raw)
