"""Tools that a model may call: made from typed functions, and calls checked against them. Nothing here executes a call."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_type_hints

from noa_lab.errors import BadInput, ToolCallInvalid
from noa_lab.inference._types import ToolCall

if TYPE_CHECKING:
    from pydantic import BaseModel

    from noa_lab.inference._completion import Completion

__all__ = ["Tool", "ToolChoice", "as_tools", "check_call", "tool"]

ToolChoice = str
"""Whether a tool is called: "auto" (the model decides), "required" (some tool), "none", or the name of the tool to call."""

_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model is told about a function.

    Attributes:
        name: Letters, digits, "_" and "-", at most 64.
        description: What it does, for the model.
        parameters: JSON Schema of its arguments, an object.
        arguments: The same as a pydantic model, where the tool was made from a function: it checks and converts arguments.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    arguments: type[BaseModel] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise BadInput(
                f"{self.name!r} cannot be the name of a tool.",
                fix="Use letters, digits, '_' and '-', at most 64.",
                field="name",
                value=self.name,
            )
        if self.parameters.get("type") != "object":
            raise BadInput(
                f"The parameters of the tool {self.name!r} are not an object.",
                fix='Give a JSON Schema with "type": "object", or make the tool from a function with tool(function).',
                field="parameters",
                value=dict(self.parameters),
            )

    def as_openai(self) -> dict[str, Any]:
        """The tool in the form of OpenAI's chat format."""
        about = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": about}


def tool(function: Callable[..., Any], *, name: str | None = None, description: str | None = None) -> Tool:
    """Describe a typed function to a model.

    The name, the types and defaults of the parameters and the docstring are used: its first paragraph says what the function does,
    a Google style "Args:" section what the parameters mean.

    Args:
        function: A function whose parameters all have types that JSON can carry.
        name: Other name than the function's.
        description: Other description than the docstring's.

    Raises:
        BadInput: When a parameter has no type, cannot be given by name, or has a type that JSON cannot carry.
    """
    from pydantic import ConfigDict, Field, PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, create_model

    called = name or function.__name__
    summary, meanings = _docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise _unfit(called, parameter.name, "cannot be given by name")
        if parameter.name not in hints:
            raise _unfit(called, parameter.name, "has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], Field(default, description=meanings.get(parameter.name)))
    try:
        model: type[BaseModel] = create_model(called, __config__=ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
        raise BadInput(
            f"The tool {called!r} has a parameter that JSON cannot carry: {str(error).splitlines()[0]}",
            fix="Use str, int, float, bool, lists, dicts, Literal, enums, dataclasses or pydantic models.",
            field="function",
            value=called,
        ) from None
    schema.pop("title", None)
    return Tool(called, description if description is not None else summary, schema, model)


def as_tools(given: Sequence[Tool | Callable[..., Any]]) -> tuple[Tool, ...]:
    """The tools, with functions described; two of one name are refused."""
    tools = tuple(each if isinstance(each, Tool) else tool(each) for each in given)
    names = [each.name for each in tools]
    for each in names:
        if names.count(each) > 1:
            raise BadInput(
                f"Two tools are called {each!r}.", fix="Give one of them another name.", field="tools", value=each
            )
    return tools


def check_choice(choice: str, tools: Sequence[Tool]) -> str:
    """The choice, if it can be made among these tools."""
    known = {each.name for each in tools}
    if choice in {"auto", "none"} or (tools and choice == "required") or choice in known:
        return choice
    raise BadInput(
        f"tool_choice = {choice!r} is not possible.",
        fix=f'Give "auto", "required", "none" or one of: {", ".join(sorted(known)) or "(no tools were given)"}.',
        field="tool_choice",
        value=choice,
    )


def check_call(name: str, arguments: str | Mapping[str, Any], tools: Sequence[Tool], *, id_: str = "") -> ToolCall:
    """A call as the model wrote it, checked against the tools.

    Raises:
        ToolCallInvalid: When there is no such tool, or its schema does not allow the arguments.
    """
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    wanted = next((each for each in tools if each.name == name), None)
    if wanted is None:
        raise _invalid(name, written, f"there is no tool {name!r}")
    try:
        values = json.loads(written or "{}")
    except ValueError as error:
        raise _invalid(name, written, f"its arguments are no JSON ({error})") from None
    if not isinstance(values, dict):
        raise _invalid(name, written, "its arguments are no object")
    if (reason := _fault(wanted, values)) is not None:
        raise _invalid(name, written, reason)
    return ToolCall(name=name, arguments=values, id=id_)


def check_called(answer: Completion, choice: str) -> Completion:
    """The answer, if a tool was called where one had to be: servers let a model write as much as it likes before the call."""
    if answer.tool_calls or choice == "auto":
        return answer
    raise _invalid("", answer.text, f"none was made before the answer ended ({answer.finish_reason})")


def _fault(wanted: Tool, values: dict[str, Any]) -> str | None:
    import jsonschema

    checker = jsonschema.Draft202012Validator(
        dict(wanted.parameters), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    found = jsonschema.exceptions.best_match(checker.iter_errors(values))
    if found is None:
        return None
    return f"{'.'.join(map(str, found.absolute_path)) or 'its arguments'}: {found.message}"


def _invalid(name: str, written: str, reason: str) -> ToolCallInvalid:
    return ToolCallInvalid(
        f"The model's call {f'of {name!r} ' if name else ''}is not valid: {reason}.",
        fix="Ask again, describe the tool more plainly, or use a larger model.",
        name=name,
        arguments=written,
        reason=reason,
    )


def _unfit(called: str, parameter: str, reason: str) -> BadInput:
    return BadInput(
        f"The parameter {parameter!r} of the tool {called!r} {reason}.",
        fix="Write the function as def f(city: str, days: int = 1).",
        field=f"{called}.{parameter}",
        value=None,
    )


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """First paragraph, and what the "Args:" section says of each parameter."""
    summary = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    section = re.search(r"(?m)^Args:\s*\n((?:[ \t]+.*\n?|\n)*)", text)
    meanings: dict[str, str] = {}
    if section is None:
        return summary, meanings
    current = ""
    for line in inspect.cleandoc(section[1]).splitlines():
        started = re.match(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$", line)
        if started:
            current = started[1]
            meanings[current] = started[2].strip()
        elif current and line.strip():
            meanings[current] += " " + line.strip()
    return summary, meanings
