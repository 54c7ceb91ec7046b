"""The grammar of a JSON Schema: every keyword is either held to, or refused by its name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noa_lab.errors import SchemaUnsupported
from noa_lab.inference.schema._keywords import (
    ALTERNATIVES,
    ANNOTATIONS,
    FORMATS,
    KEYWORDS_OF,
    WHY_NOT,
    implied_types,
)
from noa_lab.inference.schema._numbers import integers, numbers
from noa_lab.inference.schema._patterns import UnsupportedPattern, pattern_rule
from noa_lab.inference.schema._references import References
from noa_lab.inference.schema._rules import MOST_REPEATS, Rules, literal, repeat
from noa_lab.inference.schema._validate import schema_fault

__all__ = ["schema_grammar"]

Schema = Mapping[str, Any]


def schema_grammar(schema: Mapping[str, Any] | bool) -> str:
    r"""A GBNF grammar, rule "root", of JSON texts that are valid by a schema.

    All that it generates is valid. What is valid but not generated: properties that the schema does not name, beside some that it
    does; escapes such as \u00e9 for characters that need none; numbers of more than 15 digits.

    Args:
        schema: JSON Schema, draft 2020-12, or a pydantic model's `model_json_schema()`.

    Raises:
        SchemaUnsupported: For a keyword that a grammar cannot hold an answer to, or a schema that nothing satisfies.
    """
    compiler = _Compiler(schema)
    return compiler.rules.text(compiler.visit(schema, "#", "root-value"))


class _Compiler:
    def __init__(self, root: Mapping[str, Any] | bool) -> None:
        self.rules = Rules()
        self._references = References(root)
        self._by_reference: dict[str, str] = {}
        self._root = root if isinstance(root, Mapping) else {}

    def visit(self, schema: Any, path: str, name: str) -> str:
        """An expression for a schema, safe to stand in a sequence."""
        if schema is True:
            return self.rules.primitive("value")
        if not isinstance(schema, Mapping):
            word = "nothing satisfies it" if schema is False else "it is no schema"
            raise _unsupported(path.rsplit("/", 1)[-1], path, word)
        said = {key: value for key, value in schema.items() if key not in ANNOTATIONS and not key.startswith("x-")}
        for key in said:
            if key in WHY_NOT or key not in KEYWORDS_OF["any"]:
                raise _unsupported(key, path, WHY_NOT.get(key, "it is no keyword of JSON Schema that is known here"))
        for key in ALTERNATIVES:
            if key in said:
                return self._alternatives(key, said, path, name)
        if "enum" in said or "const" in said:
            return self._listed(schema, said, path, name)
        types = implied_types(said)
        if not types:
            return self.rules.primitive("value")
        visited = [self._of_type(kind, said, path, name) for kind in types]
        return visited[0] if len(visited) == 1 else self.rules.add(name, " | ".join(visited))

    # Schemas that stand for others

    def _alternatives(self, key: str, said: Schema, path: str, name: str) -> str:
        for other in said:
            if other != key:
                raise _unsupported(other, path, f"it stands beside {key}: put it into each of its schemas")
        if key == "$ref":
            return self._reference(said["$ref"], path)
        options = said[key]
        if not isinstance(options, Sequence) or isinstance(options, str) or not options:
            raise _unsupported(key, path, "it is no list of schemas")
        if key == "allOf" and len(options) > 1:
            raise _unsupported(key, path, "several schemas at once are not combined; write them as one")
        if key == "oneOf" and not self._references.disjoint(options):
            raise _unsupported(
                key, path, "its schemas overlap, and a grammar cannot exclude values that satisfy two: use anyOf"
            )
        visited = [self.visit(each, f"{path}/{key}/{index}", name) for index, each in enumerate(options)]
        return visited[0] if len(visited) == 1 else self.rules.add(name, " | ".join(dict.fromkeys(visited)))

    def _reference(self, reference: object, path: str) -> str:
        target, place = self._references.resolve(reference, path)
        if place not in self._by_reference:
            if not self._references.ends(target):
                raise _unsupported("$ref", path, f"{place} contains itself without end")
            reserved = self.rules.reserve(place.rsplit("/", 1)[-1])
            self._by_reference[place] = reserved
            self.rules.define(reserved, self.visit(target, place, reserved))
        return self._by_reference[place]

    def _listed(self, schema: Schema, said: Schema, path: str, name: str) -> str:
        key = "enum" if "enum" in said else "const"
        values = said["enum"] if key == "enum" else [said["const"]]
        if not isinstance(values, list) or not values:
            raise _unsupported(key, path, "it is no list of values")
        around = {"$defs": self._root.get("$defs", {}), "definitions": self._root.get("definitions", {}), **schema}
        allowed = [value for value in values if schema_fault(value, around) is None]
        if not allowed:
            raise _unsupported(key, path, "nothing that it lists satisfies the rest of the schema")
        try:
            texts = dict.fromkeys(literal(json.dumps(value, ensure_ascii=False, allow_nan=False)) for value in allowed)
        except (ValueError, TypeError) as error:
            raise _unsupported(key, path, f"it lists what is no JSON ({error})") from None
        return self.rules.add(name, " | ".join(texts))

    # Types

    def _of_type(self, kind: object, said: Schema, path: str, name: str) -> str:
        visit = self._types().get(kind) if isinstance(kind, str) else None
        if visit is None:
            raise _unsupported("type", path, f"{kind!r} is no type")
        return visit({key: value for key, value in said.items() if key in KEYWORDS_OF[str(kind)]}, path, name)

    def _types(self) -> dict[str, Callable[[Schema, str, str], str]]:
        return {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda *_: self.rules.primitive("boolean"),
            "null": lambda *_: self.rules.primitive("null"),
        }

    def _object(self, said: Schema, path: str, name: str) -> str:
        properties = said.get("properties", {})
        more = said.get("additionalProperties", True)
        required = said.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _unsupported("properties", path, "properties is no object or required no list")
        wanted = dict(properties)
        for key in required:
            if key not in wanted:
                if more is False:
                    raise _unsupported("required", path, f"{key!r} is required, and additionalProperties forbids it")
                wanted[key] = more
        if wanted:
            return self._members(wanted, set(required), path, name)
        if more is False:
            return self.rules.add(name, '"{" ws "}"'.replace("ws", self.rules.primitive("ws")))
        if more is True:
            return self.rules.primitive("object")
        ws, text = self.rules.primitive("ws"), self.rules.primitive("string")
        member = self.rules.add(
            f"{name}-member",
            f'{text} ":" {ws} {self.visit(more, f"{path}/additionalProperties", f"{name}-value")} {ws}',
        )
        return self.rules.add(name, f'"{{" {ws} ( {member} ( "," {ws} {member} )* )? "}}"')

    def _members(self, wanted: Schema, required: set[str], path: str, name: str) -> str:
        """Properties in the order of the schema, so that a model can reason before it concludes; optional ones may be left out."""
        ws = self.rules.primitive("ws")
        after = {True: ws, False: ws}
        for key, schema in reversed(list(wanted.items())):
            value = self.visit(schema, f"{path}/properties/{key}", f"{name}-{key}")
            pair = self.rules.add(
                f"{name}-{key}-pair", f'{literal(json.dumps(key, ensure_ascii=False))} ":" {ws} {value}'
            )
            rest: dict[bool, str] = {}
            for begun in (True, False):
                one = f'{ws} "," {ws} {pair}' if begun else pair
                taken = f"{one} {after[True]}"
                body = taken if key in required else f"{taken} | {after[begun]}"
                rest[begun] = self.rules.add(f"{name}-from-{key}", body)
            after = rest
        return self.rules.add(name, f'"{{" {ws} {after[False]} "}}"')

    def _array(self, said: Schema, path: str, name: str) -> str:
        ws = self.rules.primitive("ws")
        least, most = self._counts(said, "minItems", "maxItems", path)
        if "prefixItems" in said:
            return self._tuple(said, least, most, path, name)
        items = said.get("items", True)
        if items is False or most == 0:
            if least:
                raise _unsupported("minItems", path, "the schema allows no items")
            return self.rules.add(name, f'"[" {ws} "]"')
        item = self.rules.add(f"{name}-item", f"{self.visit(items, f'{path}/items', f'{name}-one')} {ws}")
        more = self.rules.add(f"{name}-more", f'"," {ws} {item}')
        some = f"{item} {repeat(more, max(0, least - 1), None if most is None else most - 1)}"
        return self.rules.add(name, f'"[" {ws} {some if least else f"( {some} )?"} "]"')

    def _tuple(self, said: Schema, least: int, most: int | None, path: str, name: str) -> str:
        ws, first = self.rules.primitive("ws"), said["prefixItems"]
        if not isinstance(first, list) or not first:
            raise _unsupported("prefixItems", path, "it is no list of schemas")
        if least > len(first) or (most is not None and most < len(first)):
            key = "minItems" if least > len(first) else "maxItems"
            raise _unsupported(key, path, f"prefixItems has {len(first)} schemas, and exactly these are generated")
        items = [self.visit(each, f"{path}/prefixItems/{at}", f"{name}-{at}") for at, each in enumerate(first)]
        return self.rules.add(name, f'"[" {ws} ' + f' {ws} "," {ws} '.join(items) + f' {ws} "]"')

    def _string(self, said: Schema, path: str, name: str) -> str:
        least, most = self._counts(said, "minLength", "maxLength", path)
        both = [key for key in ("pattern", "format") if key in said]
        if both and len(said) > 1:
            other = next(key for key in said if key != both[0])
            raise _unsupported(other, path, f"it stands beside {both[0]}, and a grammar cannot hold to both")
        if "pattern" in said:
            try:
                return pattern_rule(str(said["pattern"]), self.rules, name)
            except UnsupportedPattern as error:
                raise _unsupported("pattern", path, str(error)) from None
        if "format" in said:
            known = FORMATS.get(str(said["format"]))
            if known is None:
                fix = f"{said['format']!r} is not among {', '.join(FORMATS)}; use a pattern"
                raise _unsupported("format", path, fix)
            return self.rules.add(f"{said['format']}-text", f'"\\"" {known} "\\""')
        if not least and most is None:
            return self.rules.primitive("string")
        return self.rules.add(name, f'"\\"" {repeat(self.rules.primitive("char"), least, most)} "\\""')

    def _integer(self, said: Schema, path: str, name: str) -> str:
        least, most, open_least, open_most = self._bounds(said, path, whole=False)
        low = None if least is None else int(-(-least // 1)) + (1 if open_least and least == least // 1 else 0)
        high = None if most is None else int(most // 1) - (1 if open_most and most == most // 1 else 0)
        if low is None and high is None:
            return self.rules.primitive("integer")
        if low is not None and high is not None and low > high:
            raise _unsupported("minimum", path, "no integer lies between the bounds")
        return self.rules.add(name, integers(low, high))

    def _number(self, said: Schema, path: str, name: str) -> str:
        least, most, open_least, open_most = self._bounds(said, path, whole=True)
        if least is None and most is None:
            return self.rules.primitive("number")
        if least is not None and most is not None and (least > most or (least == most and (open_least or open_most))):
            raise _unsupported("minimum", path, "no number lies between the bounds")
        self.rules.primitive("fraction")
        low, high = None if least is None else int(least), None if most is None else int(most)
        return self.rules.add(name, numbers(low, high, without_least=open_least, without_most=open_most))

    # Values of keywords

    @staticmethod
    def _counts(said: Schema, low: str, high: str, path: str) -> tuple[int, int | None]:
        found = []
        for key in (low, high):
            value = said.get(key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise _unsupported(key, path, f"{value!r} is no count")
            if value is not None and value > MOST_REPEATS:
                raise _unsupported(key, path, f"llama.cpp's grammars repeat at most {MOST_REPEATS} times")
            found.append(value)
        least, most = found[0] or 0, found[1]
        if most is not None and least > most:
            raise _unsupported(low, path, f"it is more than {high}")
        return least, most

    @staticmethod
    def _bounds(said: Schema, path: str, *, whole: bool) -> tuple[float | None, float | None, bool, bool]:
        """Lower and upper bound, and whether each is left out itself."""
        for key, value in said.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise _unsupported(key, path, f"{value!r} is no number")
            if whole and value != int(value):
                raise _unsupported(key, path, "bounds of numbers must be whole")
        low, above = said.get("minimum"), said.get("exclusiveMinimum")
        high, below = said.get("maximum"), said.get("exclusiveMaximum")
        open_low = above is not None and (low is None or above >= low)
        open_high = below is not None and (high is None or below <= high)
        return (above if open_low else low), (below if open_high else high), open_low, open_high


def _unsupported(keyword: str, path: str, reason: str) -> SchemaUnsupported:
    return SchemaUnsupported(
        f"The schema's {keyword!r} at {path} cannot be held to: {reason}.",
        fix="Change the schema, or use a mode that checks the reply afterwards instead of constraining it.",
        keyword=keyword,
        path=path,
        reason=reason,
        field="json_schema",
        value=keyword,
    )
