"""Grammars of JSON Schemas: all that they generate is valid, and what they cannot hold to is refused by its keyword."""

from __future__ import annotations

import json
import math
import random
import re
from decimal import Decimal
from typing import Annotated, Literal

import pytest
from gbnf import parse
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from schemas import CONTRADICTORY, GOOD, PERSON, TREE, UNSUPPORTED

from noa_lab.errors import SchemaUnsupported
from noa_lab.inference.schema import schema_fault, schema_grammar


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD.keys())
def test_all_that_is_generated_is_valid(schema: object) -> None:
    grammar = parse(schema_grammar(schema))
    rng = random.Random(7)
    for depth in [12] * 30 + [0]:
        text = grammar.derive(rng, depth=depth)
        value = json.loads(text)
        assert schema is True or schema_fault(value, schema) is None, text
        assert grammar.matches(text)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (PERSON, {"name": "Zoë", "score": 0}),
        (PERSON, {"name": "A", "age": 120, "tags": ["a", 'say "b"'], "score": 0.25, "mail": None}),
        (TREE, {"value": 1, "children": [{"value": -2, "children": []}]}),
        (GOOD["date"], "2024-02-29"),
        (GOOD["date"], "2030-12-31"),
        (GOOD["plate"], "AB-123"),
        (GOOD["found inside"], "two dogs."),
        (GOOD["negative"], -1.999),
        (GOOD["above zero"], 0.001),
        ({}, [{"a": None}, -1.5e10, "x"]),
    ],
)
def test_what_is_valid_can_be_generated(schema: dict, value: object) -> None:
    grammar = parse(schema_grammar(schema))
    assert grammar.matches(json.dumps(value, ensure_ascii=False))
    assert grammar.matches(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    assert grammar.matches(json.dumps(value, ensure_ascii=False, indent=2))


@pytest.mark.parametrize(
    ("keyword", "schema"), [*UNSUPPORTED.items(), *CONTRADICTORY.items()], ids=lambda value: str(value)[:20]
)
def test_what_cannot_be_held_to_is_refused_by_its_keyword(keyword: str, schema: dict) -> None:
    with pytest.raises(SchemaUnsupported, match=re.escape(repr(keyword))) as caught:
        schema_grammar(schema)
    assert caught.value.fields["keyword"] == keyword
    assert caught.value.fields["path"].startswith("#")


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("minimum", {"type": "number", "minimum": math.inf}),
        ("maximum", {"type": "integer", "maximum": -math.inf}),
        ("exclusiveMinimum", {"type": "number", "exclusiveMinimum": math.nan}),
        ("const", {"const": math.nan}),
        ("enum", {"enum": [1, math.inf]}),
    ],
)
def test_numbers_that_are_none_are_named(keyword: str, schema: dict) -> None:
    with pytest.raises(SchemaUnsupported) as caught:
        schema_grammar(schema)
    assert caught.value.fields["keyword"] == keyword


def test_the_place_is_named() -> None:
    with pytest.raises(SchemaUnsupported) as caught:
        schema_grammar({"type": "object", "properties": {"a": {"type": "array", "items": {"multipleOf": 2}}}})
    assert caught.value.fields["path"] == "#/properties/a/items"


@settings(max_examples=150)
@given(st.integers(-3000, 3000) | st.none(), st.integers(-3000, 3000) | st.none(), st.integers(-4000, 4000))
def test_bounds_of_integers(least: int | None, most: int | None, value: int) -> None:
    schema = {"type": "integer", "minimum": least, "maximum": most}
    schema = {key: found for key, found in schema.items() if found is not None}
    if least is not None and most is not None and least > most:
        return
    grammar = parse(schema_grammar(schema))
    assert grammar.matches(str(value)) is (schema_fault(value, schema) is None)
    assert schema_fault(json.loads(grammar.derive(random.Random(value))), schema) is None


@settings(max_examples=150)
@given(
    st.integers(-30, 30),
    st.integers(0, 30),
    st.sampled_from(["minimum", "exclusiveMinimum"]),
    st.sampled_from(["maximum", "exclusiveMaximum"]),
    st.decimals(-40, 40, places=2),
)
@example(-1, 1, "minimum", "maximum", Decimal("-0.10"))
@example(2, 3, "exclusiveMinimum", "maximum", Decimal("2.00"))
def test_bounds_of_numbers(least: int, width: int, low: str, high: str, value: object) -> None:
    if not width and "exclusive" in low + high:
        return
    schema = {"type": "number", low: least, high: least + width}
    grammar = parse(schema_grammar(schema))
    assert grammar.matches(str(value).replace("-0.00", "0")) is (schema_fault(float(value), schema) is None)
    assert schema_fault(json.loads(grammar.derive(random.Random(width))), schema) is None


@settings(max_examples=100)
@given(st.from_regex(r"^([a-c\d]{1,3}|x[^y]?)(z|[0-9]+){0,2}$", fullmatch=True))
def test_patterns(text: str) -> None:
    schema = {"type": "string", "pattern": r"^([a-c\d]{1,3}|x[^y]?)(z|[0-9]+){0,2}$"}
    grammar = parse(schema_grammar(schema))
    plain = text.isascii() and text.isprintable()
    assert grammar.matches(json.dumps(text)) or not plain
    assert schema_fault(json.loads(grammar.derive(random.Random(len(text)))), schema) is None


class Wheel(BaseModel):
    """A wheel."""

    inches: int = Field(ge=10, le=30)


class Car(BaseModel):
    kind: Literal["car"] = "car"
    wheels: list[Wheel] = Field(min_length=4, max_length=4)
    names: dict[str, int] = {}
    spare: Wheel | None = None


class Boat(BaseModel):
    kind: Literal["boat"]
    length: float = Field(gt=0, le=400)


class Fleet(BaseModel):
    best: Annotated[Car | Boat, Field(discriminator="kind")]
    others: list[Car | Boat] = []


def test_models_of_pydantic() -> None:
    grammar, rng = parse(schema_grammar(Boat.model_json_schema())), random.Random(3)
    for _ in range(20):
        Boat.model_validate_json(grammar.derive(rng))
    car = Car.model_json_schema()
    car["required"] = ["kind", "wheels"]
    grammar = parse(schema_grammar(car))
    for _ in range(20):
        Car.model_validate_json(grammar.derive(rng, depth=16))
    # "kind" of a car has a default, so that a car may lack it: then its schema overlaps with a boat's.
    with pytest.raises(SchemaUnsupported, match="oneOf"):
        schema_grammar(Fleet.model_json_schema())
