"""A schema as a model understands it best: the form of the JSON, with remarks, instead of JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["shape"]

_DEEPEST = 6


def shape(schema: Mapping[str, Any] | bool) -> str:
    """The form of the JSON that a schema describes, for example `{"name": string, "age"?: integer (0 to 120)}`, over several lines."""
    root = schema if isinstance(schema, Mapping) else {}
    return _shape(schema, root, 0)


def _shape(schema: Any, root: Mapping[str, Any], depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return "any value"
    if "$ref" in schema:
        return _shape(_target(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            joint = " and " if key == "allOf" else " | "
            return joint.join(dict.fromkeys(_shape(each, root, depth + 1) for each in schema[key]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_shape({**schema, "type": each}, root, depth) for each in kind)
    if kind == "object" or "properties" in schema:
        return _object(schema, root, depth)
    if kind == "array" or "items" in schema or "prefixItems" in schema:
        return _array(schema, root, depth)
    return (str(kind) if kind else "any value") + ("" if kind in {"null", "boolean"} else _limits(schema))


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not properties:
        values = schema.get("additionalProperties", True)
        return f"{{string: {_shape(values, root, depth + 1)}, ...}}" if values is not False else "{}"
    inside = "  " * (depth + 1)
    lines = []
    for name, about in properties.items():
        mark = "" if name in required else "?"
        remark = about.get("description") if isinstance(about, Mapping) else None
        told = f"  // {' '.join(str(remark).split())}" if remark else ""
        lines.append(f"{inside}{json.dumps(name, ensure_ascii=False)}{mark}: {_shape(about, root, depth + 1)},{told}")
    return "{\n" + "\n".join(lines) + "\n" + "  " * depth + "}"


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(_shape(each, root, depth + 1) for each in schema["prefixItems"]) + "]"
    return f"[{_shape(schema.get('items', True), root, depth + 1)}, ...]" + _limits(schema)


def _limits(schema: Mapping[str, Any]) -> str:
    """What else a value must satisfy, in brackets."""
    said = []
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None:
            said.append(f"{least} to {most}{unit}")
        elif least is not None:
            said.append(f"at least {least}{unit}")
        elif most is not None:
            said.append(f"at most {most}{unit}")
    said += [f"above {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
    said += [f"below {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
    said += [f"like {schema['pattern']}"] if "pattern" in schema else []
    said += [f"a {schema['format']}"] if "format" in schema else []
    return f" ({', '.join(said)})" if said else ""


def _target(reference: Any, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in str(reference).removeprefix("#").strip("/").split("/"):
        if part:
            found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
    return found
