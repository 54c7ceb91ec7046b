"""Tools: from typed functions to what a model is told, and from what it writes to checked calls."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from noa_lab.errors import BadInput, SchemaUnsupported, ToolCallInvalid, Unsupported
from noa_lab.inference import ChatMessage, InferenceConfig, ScriptedEngine, Tool, ToolCall, tool
from noa_lab.inference._tools import check_call

ASK = [ChatMessage.user("What is the weather in Paris?")]


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(BaseModel):
    city: str
    country: str | None = None


def weather(place: Place, days: Annotated[int, Field(ge=1, le=7)] = 1, unit: Unit = Unit.C) -> str:
    """Say what the weather will be.

    Only for places on land.

    Args:
        place: Where; a city
            and its country.
        days (int): How far ahead.
    """
    raise AssertionError("nothing is executed")


def clock() -> str:
    """Tell the time."""
    raise AssertionError


def call(name: str, **arguments: object) -> str:
    return json.dumps({"tool": name, "arguments": arguments})


def test_a_tool_from_a_function() -> None:
    made = tool(weather)
    assert (made.name, made.description) == ("weather", "Say what the weather will be.")
    assert made.parameters["required"] == ["place"]
    properties = made.parameters["properties"]
    assert properties["days"] == {
        "default": 1,
        "description": "How far ahead.",
        "maximum": 7,
        "minimum": 1,
        "title": "Days",
        "type": "integer",
    }
    assert properties["place"]["description"] == "Where; a city and its country."
    assert tool(clock).parameters["properties"] == {}
    assert tool(clock, name="now", description="").name == "now"


def test_functions_that_cannot_be_tools() -> None:
    def untyped(a):
        return a

    def open_ended(*args: int) -> None: ...

    def positional(a: int, /) -> None: ...

    def odd(a: Callable[[int], int]) -> None: ...

    for function, place in ((untyped, "a"), (open_ended, "args"), (positional, "a"), (odd, "odd")):
        with pytest.raises(BadInput, match=place):
            tool(function)
    with pytest.raises(BadInput, match="name"):
        Tool("two words", "", {"type": "object"})
    with pytest.raises(BadInput, match="object"):
        Tool("t", "", {"type": "string"})


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("wether", "{}", "no tool"),
        ("weather", "{", "no JSON"),
        ("weather", "[1]", "no object"),
        ("weather", '{"days": 1}', "'place' is a required"),
        ("weather", '{"place": {"city": "Paris"}, "days": 9}', "days: 9 is greater"),
        ("weather", '{"place": {"city": 3}}', "place.city"),
        ("weather", '{"place": {"city": "Paris"}, "wind": 1}', "wind"),
    ],
)
def test_calls_that_no_tool_takes(name: str, arguments: str, reason: str) -> None:
    with pytest.raises(ToolCallInvalid, match=reason) as caught:
        check_call(name, arguments, [tool(weather)])
    assert (caught.value.fields["name"], caught.value.fields["arguments"]) == (name, arguments)


def test_a_call_in_the_generic_format() -> None:
    engine = ScriptedEngine([call("weather", place={"city": "Paris"}, unit="celsius")])
    answer = engine.chat(ASK, tools=[weather, clock])
    assert answer.tool_calls == (
        ToolCall(name="weather", arguments={"place": {"city": "Paris"}, "unit": "celsius"}, id="call-1"),
    )
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert "weather(place=" in answer._repr_html_()
    told = engine.calls[0].rendered
    assert "- weather(place: any (Where; a city and its country.), days?: integer (How far ahead.)" in told
    assert "- clock()" in told


def test_an_answer_without_a_call() -> None:
    engine = ScriptedEngine(['{"reply": "It is \\"sunny\\"."}'])
    answer = engine.chat([ChatMessage.system("Be kind."), *ASK], tools=[clock])
    assert (answer.text, answer.tool_calls, answer.finish_reason) == ('It is "sunny".', (), "stop")
    assert engine.calls[0].rendered.startswith(
        "<|system|>\nBe kind.\n\nYou can call these tools:\n- clock(): Tell the time."
    )


def test_results_go_back_into_the_conversation() -> None:
    engine = ScriptedEngine([call("clock"), '{"reply": "Noon."}'])
    first = engine.chat(ASK, tools=[clock])
    turns = [*ASK, first.message, ChatMessage.tool("12:00", first.tool_calls[0])]
    assert engine.chat(turns, tools=[clock]).text == "Noon."
    told = engine.calls[1].rendered
    assert '<|assistant|>\n{"tool": "clock", "arguments": {}}\n' in told
    assert "Result of clock: 12:00" in told
    assert turns[1].as_openai()["tool_calls"][0]["function"] == {"name": "clock", "arguments": "{}"}
    assert turns[2].as_openai() == {"role": "tool", "content": "12:00", "tool_call_id": "call-1"}


@pytest.mark.parametrize(("choice", "grammar"), [("auto", True), ("required", False), ("clock", False)])
def test_the_choice_decides_what_can_be_written(choice: str, grammar: bool) -> None:
    seen: list[Any] = []

    class Spy(ScriptedEngine):
        async def _answer(self, question: Any, emit: Any) -> Any:
            seen.append(question)
            return await super()._answer(question, emit)

    Spy([call("clock")]).chat(ASK, tools=[weather, clock], tool_choice=choice)
    assert ('"\\"reply\\""' in seen[0].grammar) is grammar
    assert ('"\\"weather\\""' in seen[0].grammar) is (choice != "clock")
    assert seen[0].tools == ()


def test_no_tools_no_change() -> None:
    engine = ScriptedEngine(["Hello."])
    assert engine.chat(ASK, tools=[clock], tool_choice="none").text == "Hello."
    assert "clock" not in engine.calls[0].rendered


def test_bad_calls() -> None:
    engine = ScriptedEngine([call("weather", place={"city": 5}), '{"tool": "clock", "argu'] + [call("clock")] * 3)
    with pytest.raises(ToolCallInvalid, match=r"place\.city"):
        engine.chat(ASK, tools=[weather])
    with pytest.raises(ToolCallInvalid, match="max_tokens"):
        engine.chat(ASK, tools=[clock])
    for text in ("5", '["clock"]', "It is noon."):
        with pytest.raises(ToolCallInvalid, match="whole"):
            ScriptedEngine(text).chat(ASK, tools=[clock])
    with pytest.raises(BadInput, match="Two tools"):
        engine.chat(ASK, tools=[clock, tool(weather, name="clock")], tool_choice="two")
    for choice in ("any", "wether"):
        with pytest.raises(BadInput, match="tool_choice"):
            engine.chat(ASK, tools=[clock], tool_choice=choice)
    with pytest.raises(BadInput, match="constrained"):
        engine.chat(ASK, InferenceConfig(grammar='root ::= "a"'), tools=[clock])


def test_parameters_that_cannot_be_held_to() -> None:
    def pick(numbers: set[int]) -> None: ...

    with pytest.raises(SchemaUnsupported, match="uniqueItems"):
        ScriptedEngine().chat(ASK, tools=[pick])


def test_an_engine_without_tools() -> None:
    from dataclasses import replace

    engine = ScriptedEngine()
    engine._what = replace(engine._what, tools="none")
    with pytest.raises(Unsupported, match="tools"):
        engine.chat(ASK, tools=[clock])


def test_definitions_of_two_tools_stay_apart() -> None:
    def first(place: Place) -> None: ...

    class Other(BaseModel):
        number: Literal[1, 2]

    Other.__name__ = "Place"
    second = Tool(
        "second",
        "",
        {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/Place"}},
            "required": ["place"],
            "$defs": {"Place": Other.model_json_schema()},
        },
    )
    engine = ScriptedEngine([call("second", place={"number": 2})])
    assert engine.chat(ASK, tools=[first, second]).tool_calls[0].arguments == {"place": {"number": 2}}
