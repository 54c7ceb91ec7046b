"""References inside a schema: where they lead, whether they ever end, and whether alternatives exclude each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from noa_lab.errors import SchemaUnsupported
from noa_lab.inference.schema._keywords import implied_types

__all__ = ["References"]


class References:
    """The references of one schema.

    Args:
        root: The whole schema.
    """

    def __init__(self, root: Mapping[str, Any] | bool) -> None:
        self._root = root

    def resolve(self, reference: object, path: str) -> tuple[Any, str]:
        """What a reference leads to, and its place as a JSON pointer."""
        if reference == "#":
            return self._root, "#"
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _broken(reference, path, "only references into the schema itself (#/...) are followed")
        found: Any = self._root
        for part in reference[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise _broken(reference, path, "it leads nowhere") from None
        return found, reference

    def ends(self, schema: Any, above: frozenset[int] = frozenset()) -> bool:
        """Whether some value of finite size satisfies the schema."""
        if not isinstance(schema, Mapping):
            return True
        if id(schema) in above:
            return False
        above |= {id(schema)}
        if "$ref" in schema:
            return self.ends(self.resolve(schema["$ref"], "#")[0], above)
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return any(self.ends(each, above) for each in schema[key])
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, Mapping) and isinstance(required, list):
            return all(self.ends(properties.get(name), above) for name in required)
        if schema.get("minItems"):
            return self.ends(schema.get("items"), above)
        return all(self.ends(each, above) for each in schema.get("prefixItems") or schema.get("allOf") or ())

    def disjoint(self, options: Sequence[Any]) -> bool:
        """Whether no value satisfies two of these schemas, as far as types and constant properties tell."""
        seen = [self._target(option) for option in options]
        return all(_apart(one, other) for index, one in enumerate(seen) for other in seen[index + 1 :])

    def _target(self, schema: Any) -> Mapping[str, Any]:
        for _ in range(16):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                break
            schema = self.resolve(schema["$ref"], "#")[0]
        return schema if isinstance(schema, Mapping) else {}


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    values = _values(one), _values(other)
    if values[0] and values[1]:
        return not values[0] & values[1]
    types = set(implied_types(one)), set(implied_types(other))
    numbers = {"integer", "number"}
    if types[0] and types[1] and not types[0] & types[1] and not (types[0] & numbers and types[1] & numbers):
        return True
    fixed = _fixed(one), _fixed(other)
    return any(not fixed[0][name] & fixed[1][name] for name in fixed[0].keys() & fixed[1].keys())


def _values(schema: Any) -> set[str]:
    """The values that a schema lists, as JSON; none when it lists none."""
    if not isinstance(schema, Mapping):
        return set()
    listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return {json.dumps(value, sort_keys=True) for value in listed} if isinstance(listed, list) else set()


def _fixed(schema: Mapping[str, Any]) -> dict[str, set[str]]:
    """Required properties that can only have listed values."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    return {name: found for name in required if (found := _values(properties.get(name)))}


def _broken(reference: object, path: str, reason: str) -> SchemaUnsupported:
    return SchemaUnsupported(
        f"The schema's '$ref' at {path} cannot be held to: {reference!r}: {reason}.",
        fix="Put what it refers to into the schema's $defs.",
        keyword="$ref",
        path=path,
        reason=reason,
        field="json_schema",
        value=reference,
    )
