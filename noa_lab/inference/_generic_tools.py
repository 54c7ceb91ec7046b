"""Tools for models whose template knows none: described in the system message, the reply held to a schema.

llama-server leaves tools out without a word where the template has no place for them (`supports_tools` in `/props`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from noa_lab.errors import ToolCallInvalid
from noa_lab.inference._checks import check_conversation
from noa_lab.inference._completion import Completion
from noa_lab.inference._question import Question
from noa_lab.inference._tools import Tool, check_call
from noa_lab.inference._types import ChatMessage, MessageRole
from noa_lab.inference.schema import schema_grammar

__all__ = ["read_generic", "with_generic_tools"]


def with_generic_tools(question: Question) -> Question:
    """The same question to an engine that knows no tools.

    Raises:
        SchemaUnsupported: When a tool's parameters cannot be held to.
    """
    tools = [tool for tool in question.tools if question.tool_choice in {"auto", "required", tool.name}]
    messages = check_conversation(question.prompt)
    about = _description(tools, may_reply=question.tool_choice == "auto")
    if messages[0].role is MessageRole.SYSTEM:
        messages[0] = ChatMessage.system(f"{messages[0].content}\n\n{about}")
    else:
        messages.insert(0, ChatMessage.system(about))
    grammar = schema_grammar(_reply_schema(tools, may_reply=question.tool_choice == "auto"))
    plain = [_plain(message, messages[:index]) for index, message in enumerate(messages)]
    return dataclasses.replace(question, prompt=plain, tools=(), tool_choice="none", grammar=grammar)


def read_generic(answer: Completion, tools: Sequence[Tool], number: int) -> Completion:
    """The answer with its call, or with its reply as text.

    Args:
        answer: What came back to `with_generic_tools`'s question.
        tools: The tools of the original question.
        number: Makes the call's id unique in its conversation.

    Raises:
        ToolCallInvalid: When it ended before it was whole, or does not fit its tool.
    """
    try:
        found = json.loads(answer.text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ToolCallInvalid(
            f"The model's call ended before it was whole ({answer.finish_reason}): {answer.text[-80:]!r}.",
            fix="Allow more max_tokens.",
            name="",
            arguments=answer.text,
            reason=f"ended by {answer.finish_reason}",
        )
    if "reply" in found:
        return dataclasses.replace(answer, text=str(found["reply"]))
    call = check_call(str(found.get("tool")), found.get("arguments", {}), tools, id_=f"call-{number}")
    return dataclasses.replace(answer, text="", tool_calls=(call,), finish_reason="tool_calls")


def _description(tools: Sequence[Tool], *, may_reply: bool) -> str:
    told = [f"- {tool.name}({_arguments(tool.parameters)}): {tool.description}".rstrip(": ") for tool in tools]
    lines = ["You can call these tools:", *told]
    lines.append('To call one, answer only with JSON: {"tool": "name", "arguments": {...}}')
    if may_reply:
        lines.append('To answer without a tool, write {"reply": "your answer"}')
    return "\n".join(lines)


def _arguments(parameters: Mapping[str, Any]) -> str:
    """The arguments as in a function's head: shorter than their schema, and better understood by small models."""
    required = parameters.get("required", [])
    told = []
    for name, about in parameters.get("properties", {}).items():
        kind = about.get("type") or ("one of " + json.dumps(about["enum"]) if "enum" in about else "any")
        meaning = f" ({about['description']})" if about.get("description") else ""
        told.append(f"{name}{'' if name in required else '?'}: {kind}{meaning}")
    return ", ".join(told)


def _reply_schema(tools: Sequence[Tool], *, may_reply: bool) -> dict[str, Any]:
    options: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for tool in tools:
        for name, schema in tool.parameters.get("$defs", {}).items():
            definitions[f"{tool.name}.{name}"] = _moved(schema, tool.name)
        arguments = {key: value for key, value in tool.parameters.items() if key != "$defs"}
        options.append(_record(tool={"const": tool.name}, arguments=_moved(arguments, tool.name)))
    if may_reply:
        options.append(_record(reply={"type": "string"}))
    return {"$defs": definitions, "anyOf": options}


def _record(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _moved(schema: Any, tool: str) -> Any:
    """The schema with its references led to where its definitions are now."""
    if isinstance(schema, list):
        return [_moved(each, tool) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, tool) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        moved["$ref"] = f"#/$defs/{tool}.{reference.removeprefix('#/$defs/')}"
    return moved


def _plain(message: ChatMessage, before: Sequence[ChatMessage]) -> ChatMessage:
    """A turn about tools in words that every template knows."""
    if message.tool_calls:
        call = message.tool_calls[0]
        return ChatMessage.assistant(json.dumps({"tool": call.name, "arguments": call.arguments}, ensure_ascii=False))
    if message.role is MessageRole.TOOL:
        calls = [call for each in before for call in each.tool_calls if call.id == message.tool_call_id]
        name = calls[-1].name if calls else "the tool"
        return ChatMessage.user(f"Result of {name}: {message.content}")
    return message
