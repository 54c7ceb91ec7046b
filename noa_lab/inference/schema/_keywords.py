"""The keywords of JSON Schema (draft 2020-12): which a grammar can hold an answer to, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ALTERNATIVES", "ANNOTATIONS", "FORMATS", "KEYWORDS_OF", "WHY_NOT", "implied_types"]

ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
        *("discriminator", "example", "externalDocs"),  # OpenAPI's, as pydantic writes them
    }
)
"""They say nothing about which values are valid."""

ALTERNATIVES = ("$ref", "anyOf", "oneOf", "allOf")

_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
KEYWORDS_OF: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": set(),
    "null": set(),
}
KEYWORDS_OF["any"] = set.union(*KEYWORDS_OF.values()) | {*ALTERNATIVES, "type", "enum", "const"}

_RELATION = "it relates parts of the value to each other, which a grammar cannot"
WHY_NOT = {
    "not": "a grammar cannot exclude what another schema describes",
    "if": _RELATION,
    "then": _RELATION,
    "else": _RELATION,
    "dependentRequired": _RELATION,
    "dependentSchemas": _RELATION,
    "dependencies": _RELATION,
    "uniqueItems": "a grammar cannot compare items",
    "contains": "a grammar cannot count items of one kind among others",
    "minContains": "a grammar cannot count items of one kind among others",
    "maxContains": "a grammar cannot count items of one kind among others",
    "multipleOf": "a grammar cannot divide",
    "minProperties": "a grammar cannot count properties of different kinds",
    "maxProperties": "a grammar cannot count properties of different kinds",
    "patternProperties": "names of properties by pattern are not generated; name them in properties",
    "propertyNames": "names of properties by schema are not generated; name them in properties",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "additionalItems": "use prefixItems and items",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "$anchor": "use $defs and $ref",
}

_YEAR = "[1-9] [0-9]{3}"
_LEAP = '( [1-9] [0-9] ( "0" [48] | [2468] [048] | [13579] [26] ) | ( "1" [26] | [2468] [048] | [3579] [26] ) "00" )'
_TO_28 = '( "0" [1-9] | "1" [0-9] | "2" [0-8] )'
_DATE = (
    f'( {_YEAR} "-" ( ( "0" [1-9] | "1" [0-2] ) "-" {_TO_28} | ( "0" [13-9] | "1" [0-2] ) "-" ( "29" | "30" )'
    f' | ( "0" [13578] | "1" [02] ) "-31" ) | {_LEAP} "-02-29" )'
)
_TIME = (
    '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{1,6} )?'
    ' ( "Z" | [+-] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )'
)
_BYTE = '( "25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9] )'
_HEX = "[0-9a-fA-F]"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": ' "-" '.join(f"{_HEX}{{{size}}}" for size in (8, 4, 4, 4, 12)),
    "ipv4": ' "." '.join([_BYTE] * 4),
    "email": '[a-z0-9] [a-z0-9._+-]{0,40} "@" [a-z0-9] [a-z0-9-]{0,30} ( "." [a-z]{2,12} ){1,3}',
}
"""Formats that are generated: real dates of the years 1000 to 9999, e-mail addresses in lower case."""


def implied_types(said: Mapping[str, Any]) -> list[Any]:
    """The types that a schema allows, or, where it names none, the first that its keywords speak of; none when it allows anything."""
    kind = said.get("type")
    if kind is not None:
        listed = list(kind) if isinstance(kind, list) else [kind]
        # Every integer is a number, too.
        return [each for each in listed if each != "integer" or "number" not in listed] or [kind]
    order = ("object", "array", "string", "number")
    return [each for each in order if KEYWORDS_OF[each] & set(said)][:1]
