"""Objects from replies: five modes, what is read out of a reply, what is quoted on a retry, how failures are named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from noa_lab.errors import BadInput, ReplyInvalid, SchemaUnsupported, Unsupported
from noa_lab.inference import (
    ChatMessage,
    InferenceConfig,
    Reply,
    ScriptedEngine,
    StructureMode,
    astructured,
    structured,
)
from noa_lab.inference.structure._reading import read_lenient
from noa_lab.inference.structure._shape import shape


class City(BaseModel):
    """A city."""

    name: str = Field(description="its name")
    people: int = Field(ge=0, description="how many live there")
    river: Literal["Seine", "Tiber"] | None = None


GOOD = '{"name": "Paris", "people": 2100000, "river": "Seine"}'
MODES = ("prompt_only", "lenient", "reason_then_schema", "hard_schema", "tool_call")


def said(mode: str, reply: str) -> list[str]:
    """What a model says in a mode to give this JSON."""
    if mode == "tool_call":
        return [json.dumps({"tool": "answer", "arguments": json.loads(reply)})]
    return ["Let me think.", reply] if mode == "reason_then_schema" else [reply]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_returns_the_object_and_how(mode: StructureMode) -> None:
    engine = ScriptedEngine(said(mode, GOOD))
    found = structured(engine, "Tell me of Paris.", City, mode=mode)
    assert found.value == City(name="Paris", people=2_100_000, river="Seine")
    assert found.data == json.loads(GOOD)
    assert (found.mode, found.how) == (mode, "called" if mode == "tool_call" else "exact")
    assert (len(found.attempts), found.coerced) == (1, False)
    assert (found.attempts[0].reasoning is not None) == (mode == "reason_then_schema")
    assert "Paris" in found._repr_html_()
    last = engine.calls[-1]
    assert (last.config.json_schema is not None) == (mode in {"hard_schema", "reason_then_schema"})
    assert ('"people": integer' in last.rendered) == (mode != "tool_call")


def test_a_schema_gives_plain_values() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    for mode in ("hard_schema", "tool_call"):
        replies = ["[1, 2]"] if mode == "hard_schema" else ['{"tool": "answer", "arguments": {"value": [1, 2]}}']
        assert structured(ScriptedEngine(replies), "Count.", schema, mode=mode).value == [1, 2]


def test_reasoning_comes_before_the_form_is_shown() -> None:
    engine = ScriptedEngine(said("reason_then_schema", GOOD))
    structured(engine, [ChatMessage.system("Be exact."), ChatMessage.user("Paris?")], City, mode="reason_then_schema")
    first, second = engine.calls
    assert "JSON" not in first.rendered
    assert "step by step" in first.rendered
    assert "Let me think." in second.rendered
    assert second.rendered.index("Let me think.") < second.rendered.index('"people"')


@pytest.mark.parametrize(
    ("reply", "how"),
    [
        (GOOD, "exact"),
        (f"\n {GOOD}\n", "exact"),
        (f"Sure!\n```json\n{GOOD}\n```\nAnything else?", "extracted"),
        (f"As [1] says, it is {GOOD}. See {{}}.", "extracted"),
        ("{'name': 'Paris', 'people': 2100000, // many\n 'river': 'Seine',}", "repaired"),
        ('Here: {"name": "Paris", "people": 2100000, "river": "Seine"', "repaired"),
        ('{"city": {"name": "Paris", "people": 2100000, "river": "Seine"}}', "extracted"),
    ],
)
def test_lenient_reading(reply: str, how: str) -> None:
    found = structured(ScriptedEngine([reply]), "x", City, mode="lenient", retries=0)
    assert (found.value.people, found.how) == (2_100_000, how)
    if how != "exact":
        with pytest.raises(ReplyInvalid) as caught:
            structured(ScriptedEngine([reply]), "x", City, mode="prompt_only", retries=0)
        assert caught.value.fields["kind"] in {"json", "schema"}


@pytest.mark.parametrize("reply", ["", "No.", "{", "[" * 100_000, "NaN", "```json\n\n```", "\x00"])
def test_replies_without_an_object(reply: str) -> None:
    with pytest.raises(ReplyInvalid) as caught:
        structured(ScriptedEngine([reply]), "x", City, mode="lenient", retries=0)
    assert reply.startswith(caught.value.fields["reply"])
    list(read_lenient(reply))


def test_converted_values_are_said_to_be() -> None:
    found = structured(ScriptedEngine(['{"name": "Paris", "people": "12"}']), "x", City, mode="prompt_only")
    assert (found.value.people, found.coerced) == (12, True)
    schema = City.model_json_schema()
    with pytest.raises(ReplyInvalid, match="people"):
        structured(ScriptedEngine(lambda *_: '{"name": "Paris", "people": "12"}'), "x", schema, mode="prompt_only")


def test_a_retry_quotes_the_reply_and_its_fault() -> None:
    engine = ScriptedEngine(['{"name": "Paris", "people": -1}', '{"name": 3}', GOOD])
    config = InferenceConfig(temperature=0.5, seed=7, max_tokens=60)
    found = structured(engine, "Paris?", City, mode="hard_schema", config=config, retries=2)
    assert [attempt.fault is None for attempt in found.attempts] == [False, False, True]
    assert found.completion_tokens == sum(attempt.completion.completion_tokens for attempt in found.attempts)
    second, third = engine.calls[1].rendered, engine.calls[2].rendered
    assert '{"name": "Paris", "people": -1}' in second
    assert "people: Input should be greater than or equal to 0" in second
    assert '"people": -1' not in third  # only the last one is quoted
    assert [call.config.seed for call in engine.calls] == [7, 8, 9]
    assert [round(call.config.temperature, 1) for call in engine.calls] == [0.5, 0.5, 0.7]


@pytest.mark.parametrize(
    ("mode", "reply", "kind"),
    [
        ("prompt_only", "I do not know.", "json"),
        ("prompt_only", '{"name": "Paris"}', "schema"),
        ("hard_schema", '{"name": "' + "very " * 50, "length"),
        ("lenient", '{"name": "' + "very " * 50, "length"),
        ("tool_call", "no call", "tool"),
        ("tool_call", '{"reply": "no"}', "tool"),
        ("tool_call", '{"tool": "answer", "arguments": {"name": 1}}', "tool"),
    ],
)
def test_failures_are_named(mode: StructureMode, reply: str, kind: str) -> None:
    engine = ScriptedEngine(lambda *_: reply)
    with pytest.raises(ReplyInvalid, match="2 attempts") as caught:
        structured(engine, "x", City, mode=mode, config=InferenceConfig(max_tokens=40), retries=1)
    assert caught.value.fields["kind"] == kind
    assert caught.value.fields["attempts"] == 2
    assert caught.value.fix


@pytest.mark.parametrize("mode", MODES)
def test_unsupported_schemas_are_refused_before_sending(mode: StructureMode) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 7}}, "required": ["a"]}
    engine = ScriptedEngine(lambda *_: '{"a": 14}')
    if mode in {"prompt_only", "lenient"}:
        assert structured(engine, "x", schema, mode=mode).value == {"a": 14}
        return
    with pytest.raises(SchemaUnsupported, match="'multipleOf' at #/properties/a"):
        structured(engine, "x", schema, mode=mode)
    assert engine.calls == []


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"properties": []}, {"minimum": "a"}])
def test_what_is_no_schema(schema: Mapping[str, object]) -> None:
    with pytest.raises(SchemaUnsupported, match="not a JSON Schema"):
        structured(ScriptedEngine(), "x", schema, mode="prompt_only")


def test_bad_calls() -> None:
    for schema in (None, int, "City"):
        with pytest.raises(BadInput):
            structured(ScriptedEngine(), "x", schema, mode="prompt_only")
    with pytest.raises(BadInput, match="prompt_only, lenient"):
        structured(ScriptedEngine(), "x", City, mode="json")
    with pytest.raises(BadInput):
        structured(ScriptedEngine(), "", City, mode="lenient", config=5)
    with pytest.raises(TypeError):
        structured(ScriptedEngine(), "x", City)


def test_an_engine_without_constraints() -> None:
    from dataclasses import replace

    engine = ScriptedEngine(GOOD)
    engine._what = replace(engine._what, constraints=frozenset())
    assert structured(engine, "x", City, mode="prompt_only").value.name == "Paris"
    with pytest.raises(Unsupported, match="json_schema"):
        structured(engine, "x", City, mode="hard_schema")


def test_async_and_inside_a_loop() -> None:
    import asyncio

    async def ask() -> None:
        found = await astructured(ScriptedEngine([Reply(GOOD, delay=0.01)]), "x", City, mode="hard_schema")
        assert found.value.name == "Paris"
        assert structured(ScriptedEngine([GOOD]), "x", City, mode="hard_schema").value.name == "Paris"

    asyncio.run(ask())


def test_the_shape_of_a_schema() -> None:
    assert shape(City.model_json_schema()) == (
        '{\n  "name": string,  // its name\n  "people": integer (at least 0),  // how many live there\n'
        '  "river"?: "Seine" | "Tiber" | null,\n}'
    )
    tree = {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}
    assert shape(tree).count('"n"?') < 10
    assert shape({"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 3}) == '[1 | "a", ...] (at most 3 items)'
    assert shape({"type": ["integer", "null"], "minimum": 1, "maximum": 3}) == "integer (1 to 3) | null"
    assert shape(True) == "any value"
