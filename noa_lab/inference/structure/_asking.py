"""The conversation that leads to an object."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from noa_lab.errors import BadInput, ReplyInvalid, SchemaUnsupported, ToolCallInvalid
from noa_lab.inference._checks import check_config, check_conversation, check_text
from noa_lab.inference._completion import Completion
from noa_lab.inference._loop import background
from noa_lab.inference._protocol import InferenceEngine
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import ChatMessage, InferenceConfig, MessageRole
from noa_lab.inference.schema import schema_fault, schema_grammar
from noa_lab.inference.structure._reading import NoJson, read_lenient, read_strict
from noa_lab.inference.structure._result import Attempt, How, Structured, StructureMode
from noa_lab.inference.structure._shape import shape

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["astructured", "structured"]

M = TypeVar("M", bound="BaseModel")

_QUOTED = 600
"""Characters of a bad reply that are shown to the model again."""

_WARMER = 0.2
"""Added to the temperature from the second retry on: a model that stands by its mistake needs a push."""

_TOOL = "answer"


@overload
def structured(
    engine: InferenceEngine,
    prompt: str | Sequence[ChatMessage],
    schema: type[M],
    *,
    mode: StructureMode,
    config: InferenceConfig | None = None,
    retries: int = 1,
) -> Structured[M]: ...
@overload
def structured(
    engine: InferenceEngine,
    prompt: str | Sequence[ChatMessage],
    schema: Mapping[str, Any],
    *,
    mode: StructureMode,
    config: InferenceConfig | None = None,
    retries: int = 1,
) -> Structured[Any]: ...
def structured(
    engine: InferenceEngine,
    prompt: str | Sequence[ChatMessage],
    schema: Any,
    *,
    mode: StructureMode,
    config: InferenceConfig | None = None,
    retries: int = 1,
) -> Structured[Any]:
    """Ask for an object, and return it only when it is valid.

    There is no default mode, because the mode is a choice: holding a small model to a schema makes its replies valid, and often wrong.

    Args:
        engine: Any engine.
        prompt: A question, or a conversation. The form of the JSON is added to the last message.
        schema: A pydantic model, or a JSON Schema.
        mode: How the model is brought to write an object (see `StructureMode`).
        config: How to sample.
        retries: Further attempts after a reply that is not valid; what was wrong with it is quoted.

    Raises:
        ReplyInvalid: When no attempt was valid. `fields`: reply, reason, kind ("length", "json", "schema" or "tool"), attempts.
        SchemaUnsupported: For a schema that the mode would have to hold the model to and cannot; the keyword is named, and nothing
            is sent.
        BadInput: For a mode that does not exist, or a schema that is none.
    """
    return background().run(_ask(engine, prompt, schema, mode, config, retries))


async def astructured(
    engine: InferenceEngine,
    prompt: str | Sequence[ChatMessage],
    schema: type[M] | Mapping[str, Any],
    *,
    mode: StructureMode,
    config: InferenceConfig | None = None,
    retries: int = 1,
) -> Structured[Any]:
    """Async twin of `structured`."""
    return await background().hop(_ask(engine, prompt, schema, mode, config, retries))


async def _ask(
    engine: InferenceEngine,
    prompt: object,
    schema: Any,
    mode: StructureMode,
    config: InferenceConfig | None,
    retries: int,
) -> Structured[Any]:
    target = _Target(schema)
    if mode not in get_args(StructureMode):
        known = ", ".join(get_args(StructureMode))
        raise BadInput(f"mode = {mode!r} does not exist.", fix=f"Give one of {known}.", field="mode", value=mode)
    if mode not in {"prompt_only", "lenient"}:
        schema_grammar(target.schema)  # refused before anything is sent, whatever will hold the model to it
    asking = _Asking(engine, mode, check_config(config), target)
    base = [ChatMessage.user(check_text(prompt))] if isinstance(prompt, str) else check_conversation(prompt)
    attempts: list[Attempt] = []
    for number in range(max(0, retries) + 1):
        found = await asking.attempt(base, number, attempts[-1] if attempts else None)
        attempts.append(found.attempt)
        if found.attempt.fault is None:
            assert found.attempt.how is not None
            coerced = schema_fault(found.data, target.schema) is not None
            return Structured(found.value, found.data, mode, found.attempt.how, coerced, tuple(attempts))
    raise _failed(mode, attempts, asking.kind)


class _Target:
    """What a reply must be."""

    def __init__(self, given: Any) -> None:
        import jsonschema
        from pydantic import BaseModel

        self.model = given if isinstance(given, type) and issubclass(given, BaseModel) else None
        if self.model is None and not isinstance(given, Mapping):
            raise BadInput(
                f"schema is a {type(given).__name__}, not a schema.",
                fix="Give a pydantic model or a JSON Schema.",
                field="schema",
                value=given,
            )
        self.schema: dict[str, Any] = dict(given) if self.model is None else self.model.model_json_schema()
        try:
            jsonschema.Draft202012Validator.check_schema(self.schema)
        except jsonschema.SchemaError as error:
            place = "/".join(["#", *map(str, error.absolute_path)])
            raise SchemaUnsupported(
                f"This is not a JSON Schema: {error.message} (at {place}).",
                fix="Correct the schema at that place.",
                keyword=str(error.absolute_path[-1]) if error.absolute_path else "",
                path=place,
                reason=error.message,
                field="schema",
                value=error.instance,
            ) from None

    def check(self, data: Any) -> tuple[Any, str | None]:
        """The value that a reply's data stands for, or what is wrong with it."""
        if self.model is None:
            return data, schema_fault(data, self.schema)
        from pydantic import ValidationError

        try:
            return self.model.model_validate(data), None
        except ValidationError as error:
            told = [f"{'.'.join(map(str, each['loc'])) or 'the object'}: {each['msg']}" for each in error.errors()[:3]]
            return None, "; ".join(told)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    attempt: Attempt
    value: Any = None
    data: Any = None


class _Asking:
    """Attempts at one object."""

    def __init__(self, engine: InferenceEngine, mode: StructureMode, config: InferenceConfig, target: _Target) -> None:
        self._engine, self._mode, self._config, self._target = engine, mode, config, target
        self.kind = ""
        """Why the last attempt failed, in a word."""

    async def attempt(self, base: list[ChatMessage], number: int, before: Attempt | None) -> _Found:
        """One reply, read and checked."""
        config = self._warmed(number)
        turns, reasoning = list(base), None
        if self._mode == "reason_then_schema":
            reasoning = before.reasoning if before is not None else await self._reason(base, config)
            assert reasoning is not None
            turns += [ChatMessage.assistant(reasoning.text), ChatMessage.user("Now write your answer.")]
        if self._mode != "tool_call":
            turns[-1] = _with_form(turns[-1], self._target.schema)
        if before is not None:
            turns += _correction(before)
        try:
            completion = await self._reply(turns, config)
        except ToolCallInvalid as error:
            self.kind = "tool"
            empty = Completion(str(error.fields["arguments"]), self._engine.model_name, "tool_calls", 0, 0, 0)
            return _Found(Attempt(empty, reasoning, str(error.fields["reason"])))
        return self._read(completion, reasoning)

    def _warmed(self, number: int) -> InferenceConfig:
        """The config of an attempt: another seed each time, and from the second retry on a little warmer."""
        changes: dict[str, Any] = {}
        if number and self._config.seed is not None:
            changes["seed"] = (self._config.seed + number) % (2**32 - 1)
        if number > 1:
            changes["temperature"] = min(10.0, self._config.temperature + _WARMER * (number - 1))
        return self._config.model_copy(update=changes)

    async def _reason(self, base: list[ChatMessage], config: InferenceConfig) -> Completion:
        """The free part: no form is shown yet, so that nothing but the question is thought about."""
        last = base[-1]
        asked = ChatMessage(role=last.role, content=f"{last.content}\n\nThink about it step by step.")
        return await self._engine.achat([*base[:-1], asked], config)

    async def _reply(self, turns: list[ChatMessage], config: InferenceConfig) -> Completion:
        if self._mode == "tool_call":
            return await self._engine.achat(turns, config, tools=[self._tool()], tool_choice=_TOOL)
        if self._mode in {"hard_schema", "reason_then_schema"}:
            config = config.model_copy(update={"json_schema": self._target.schema})
        return await self._engine.achat(turns, config)

    def _tool(self) -> Tool:
        schema = self._target.schema
        about = str(schema.get("description") or "Give your answer.")
        return Tool(_TOOL, " ".join(about.split()), schema if schema.get("type") == "object" else _boxed(schema))

    def _read(self, completion: Completion, reasoning: Completion | None) -> _Found:
        found: _Found | None = None
        for data, how in self._values(completion):
            value, fault = self._target.check(data)
            if fault is None:
                return _Found(Attempt(completion, reasoning, None, how), value, data)
            found = found or _Found(Attempt(completion, reasoning, fault, how))
        if completion.finish_reason == "length":
            # What was cut off is no failure of form.
            self.kind = "length"
            cut = f"the reply was cut off at {completion.completion_tokens} tokens; answer more briefly"
            return _Found(Attempt(completion, reasoning, cut))
        if found is not None:
            self.kind = "schema"
            return found
        self.kind = "tool" if self._mode == "tool_call" else "json"
        fault = "it does not call the tool" if self._mode == "tool_call" else _no_json(completion.text)
        return _Found(Attempt(completion, reasoning, fault))

    def _values(self, completion: Completion) -> Iterator[tuple[Any, How]]:
        """What the reply may mean, the likeliest first."""
        if self._mode == "tool_call":
            for call in completion.tool_calls:
                boxed = self._target.schema.get("type") != "object"
                yield (call.arguments["value"] if boxed else dict(call.arguments)), "called"
        elif self._mode == "lenient":
            yield from read_lenient(completion.text)
        else:
            with contextlib.suppress(NoJson):
                yield read_strict(completion.text), "exact"


def _no_json(text: str) -> str:
    try:
        read_strict(text)
    except NoJson as error:
        return str(error)
    return "it holds no JSON"


def _boxed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of something else than an object as the parameter "value" of a tool."""
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    inner = {name: value for name, value in schema.items() if name not in definitions}
    return {"type": "object", "properties": {"value": inner}, "required": ["value"], **definitions}


def _with_form(message: ChatMessage, schema: Mapping[str, Any]) -> ChatMessage:
    form = f"Answer only with JSON of this form:\n{shape(schema)}"
    return ChatMessage(role=message.role, content=f"{message.content}\n\n{form}")


def _correction(before: Attempt) -> list[ChatMessage]:
    """The bad reply and what was wrong with it; earlier ones are left out."""
    reply = before.completion.text
    quoted = reply if len(reply) <= _QUOTED else f"{reply[:_QUOTED]} ..."
    wrong = f"That is not valid: {before.fault}. Answer again, only with the corrected JSON."
    return [ChatMessage.assistant(quoted), ChatMessage(role=MessageRole.USER, content=wrong)]


def _failed(mode: StructureMode, attempts: Sequence[Attempt], kind: str) -> ReplyInvalid:
    last = attempts[-1]
    tries = f"{len(attempts)} attempts" if len(attempts) > 1 else "one attempt"
    fixes = {
        "length": "Allow more max_tokens, or limit the lengths of texts and lists in the schema.",
        "json": 'Use mode="lenient" or mode="hard_schema", or a larger model.',
        "tool": 'Use mode="hard_schema", or a larger model.',
        "schema": 'Use mode="hard_schema" or mode="reason_then_schema", more retries, or a larger model.',
    }
    return ReplyInvalid(
        f"The model's reply is not valid after {tries} ({mode}): {last.fault}.",
        fix=fixes.get(kind, ""),
        reply=last.completion.text,
        reason=last.fault,
        kind=kind,
        mode=mode,
        attempts=len(attempts),
    )
