"""Answers, vectors, scores and errors as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from noa_lab import errors
from noa_lab.errors import NoaLabError
from noa_lab.inference._checks import is_conversation
from noa_lab.inference._completion import (
    Completion,
    ContinuationLogprobs,
    Dropped,
    Embeddings,
    Timings,
    TokenLogprob,
)
from noa_lab.inference._protocol import Capabilities, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._types import InferenceConfig, ToolCall

__all__ = [
    "dump_capabilities",
    "dump_completion",
    "dump_embeddings",
    "dump_error",
    "dump_prompt",
    "dump_question",
    "dump_scores",
    "load_capabilities",
    "load_completion",
    "load_defaults",
    "load_embeddings",
    "load_error",
    "load_scores",
]

Record = dict[str, Any]


def dump_prompt(prompt: Prompt) -> Any:
    """Text as it is, token ids as a list, turns in OpenAI's form."""
    if is_conversation(prompt):
        return [message.as_openai() for message in prompt]
    return prompt if isinstance(prompt, str) else list(prompt)


def dump_question(question: Question) -> Record:
    """All that was asked."""
    return {
        "prompt": dump_prompt(question.prompt),
        "config": question.config.model_dump(mode="json"),
        "tools": [tool.as_openai() for tool in question.tools],
        "tool_choice": question.tool_choice,
        "mode": question.mode,
    }


def dump_completion(answer: Completion) -> Record:
    """An answer with what was sent and what came back; engines keep keys out of both."""
    found: Record = {each.name: getattr(answer, each.name) for each in fields(answer)}
    found["timings"] = {each.name: getattr(answer.timings, each.name) for each in fields(answer.timings)}
    found["logprobs"] = [_dump_logprob(each) for each in answer.logprobs]
    found["tool_calls"] = [call.model_dump(mode="json") for call in answer.tool_calls]
    if answer.dropped is not None:
        found["dropped"] = {each.name: getattr(answer.dropped, each.name) for each in fields(answer.dropped)}
    del found["replayed"]
    return found


def load_completion(found: Mapping[str, Any]) -> Completion:
    """The answer again, marked as replayed."""
    return Completion(
        **{
            **found,
            "timings": Timings(**found["timings"]),
            "token_ids": tuple(found["token_ids"]),
            "logprobs": tuple(_load_logprob(each) for each in found["logprobs"]),
            "tool_calls": tuple(ToolCall(**call) for call in found["tool_calls"]),
            "dropped": None if found["dropped"] is None else Dropped(**found["dropped"]),
        },
        replayed=True,
    )


def dump_embeddings(found: Embeddings) -> Record:
    """Vectors with their model."""
    return {"vectors": found.vectors, "model": found.model, "prompt_tokens": found.prompt_tokens}


def load_embeddings(found: Mapping[str, Any]) -> Embeddings:
    """The vectors again."""
    return Embeddings(tuple(tuple(each) for each in found["vectors"]), found["model"], found["prompt_tokens"])


def dump_scores(found: ContinuationLogprobs) -> Record:
    """Scored tokens."""
    tokens = [_dump_logprob(each) for each in found.tokens]
    return {"tokens": tokens, "prompt_tokens": found.prompt_tokens, "cached_tokens": found.cached_tokens}


def load_scores(found: Mapping[str, Any]) -> ContinuationLogprobs:
    """The scored tokens again."""
    tokens = tuple(_load_logprob(each) for each in found["tokens"])
    return ContinuationLogprobs(tokens, found["prompt_tokens"], found["cached_tokens"])


def _dump_logprob(found: TokenLogprob) -> Record:
    top = [_dump_logprob(each) for each in found.top]
    return {"token": found.token, "bytes": list(found.piece), "logprob": found.logprob, "top": top}


def _load_logprob(found: Mapping[str, Any]) -> TokenLogprob:
    top = tuple(_load_logprob(each) for each in found["top"])
    return TokenLogprob(found["token"], bytes(found["bytes"]), found["logprob"], top)


def dump_capabilities(what: Capabilities) -> Record:
    """What the recorded engine can do."""
    found = {each.name: getattr(what, each.name) for each in fields(what)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in found.items()}


def load_capabilities(found: Mapping[str, Any]) -> Capabilities:
    """What the recorded engine could do."""
    known = {each.name for each in fields(Capabilities)}
    values: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, list) else value for name, value in found.items() if name in known
    }
    return Capabilities(**values)


def load_defaults(head: Mapping[str, Any] | None) -> InferenceConfig:
    """What a config left open with the recorded engine, by a cassette's first line; older ones do not say it."""
    return InferenceConfig(**((head or {}).get("defaults") or {}))


def dump_error(error: NoaLabError) -> Record:
    """An error by its name."""
    return {"name": type(error).__name__, "message": error.message, "fix": error.fix, "fields": error.fields}


def load_error(found: Mapping[str, Any]) -> NoaLabError:
    """The error again; one that this version does not know is an `InferenceError`."""
    kind = getattr(errors, found["name"], None)
    if not (isinstance(kind, type) and issubclass(kind, NoaLabError)):
        kind = errors.InferenceError
    return kind(found["message"], fix=found["fix"], **found["fields"])
