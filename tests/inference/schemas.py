"""JSON Schemas: good ones, ones with a keyword that no grammar can hold to, ones that contradict themselves."""

from __future__ import annotations

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", 'say "b"', "ü🙂"]}, "minItems": 1, "maxItems": 3},
        "score": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        "mail": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]},
    },
    "required": ["name", "score"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/node",
}
GOOD = {
    "person": PERSON,
    "tree": TREE,
    "anything": {},
    "true": True,
    "string": {"type": "string"},
    "union of types": {"type": ["integer", "null", "string"], "maxLength": 3, "minimum": 7},
    "number": {"type": "number"},
    "integer or number": {"type": ["integer", "number"], "minimum": -3, "maximum": 4},
    "negative": {"type": "number", "exclusiveMinimum": -2, "maximum": -1},
    "above zero": {"type": "number", "exclusiveMinimum": 0},
    "const": {"const": {"a": [1, None, "x\ny"]}},
    "enum filtered": {"type": "string", "enum": ["a", 1, "b"]},
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "free object": {"type": "object"},
    "empty object": {"type": "object", "additionalProperties": False},
    "required elsewhere": {"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "maxItems": 5},
    "empty array": {"type": "array", "maxItems": 0},
    "five": {"type": "array", "items": {"type": "boolean"}, "minItems": 5, "maxItems": 5},
    "date": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"format": "ipv4"},
    "plate": {"type": "string", "pattern": r"^[A-Z]{1,3}-\d{2,4}[a-c]?$"},
    "found inside": {"type": "string", "pattern": r"(cat|dog)s?\."},
    "quotes": {"type": "string", "pattern": r'^["\\]+[^"]$'},
    "one of types": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    "one of kinds": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}, "n": {"type": "integer"}}, "required": ["kind"]}
            for kind in ("cat", "dog")
        ]
    },
    "all of one": {"allOf": [{"type": "integer", "minimum": 3}]},
    "odd names": {"type": "object", "properties": {'a "b"': {"type": "null"}, "ö": {}}, "required": ['a "b"', "ö"]},
    "escaped reference": {"$defs": {"a/b": {"type": "boolean"}}, "$ref": "#/$defs/a~1b"},
}
UNSUPPORTED = {
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"minLength": 3}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "multipleOf": {"type": "integer", "multipleOf": 3},
    "patternProperties": {"type": "object", "patternProperties": {"^x": {}}},
    "minProperties": {"type": "object", "minProperties": 2},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"maxLength": 3}},
    "format": {"type": "string", "format": "hostname"},
    "pattern": {"type": "string", "pattern": "(?=a)b"},
    "maxLength": {"type": "string", "maxLength": 100_000},
    "maximum": {"type": "number", "maximum": 0.5},
    "oneOf": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
    "allOf": {"allOf": [{"type": "object"}, {"required": ["a"]}]},
    "minLenght": {"type": "string", "minLenght": 3},
    "$ref": {"$ref": "https://example.org/schema.json"},
    "properties": {"anyOf": [{"type": "object"}], "properties": {"a": {}}},
    "minLength": {"type": "string", "pattern": "^a+$", "minLength": 3},
}
CONTRADICTORY = {
    "minimum": {"type": "integer", "minimum": 5, "maximum": 4},
    "minLength": {"type": "string", "minLength": 5, "maxLength": 4},
    "minItems": {"type": "array", "minItems": 5, "maxItems": 4},
    "enum": {"type": "string", "enum": [1, 2]},
    "const": {"type": "integer", "const": "a"},
    "required": {"type": "object", "required": ["a"], "additionalProperties": False},
    "$ref": {
        "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
        "$ref": "#/$defs/n",
    },
    "a": {"type": "object", "properties": {"a": False}, "required": ["a"]},
}
