"""Scorers of answers that shall be JSON, or hold some."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from noa_lab.errors import BadInput, ExperimentError
from noa_lab.experiments.score._base import PassFail, Scorer, refuse
from noa_lab.experiments.score._matching import compiled, search

__all__ = ["contains_json", "json_schema", "json_valid"]

_MOST_TRIES = 200
"""Places in an answer at which JSON may begin."""


@dataclass(frozen=True, kw_only=True)
class _JsonValid(PassFail):
    kind: ClassVar[str] = "json_valid"

    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        keys: Any = self.required
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            refuse("required", f"{keys!r} is no list of keys", 'Give a list of texts, for example ["title"].', keys)
        object.__setattr__(self, "required", tuple(keys))

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        try:
            value = json.loads(answer, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False
        return not self.required or (isinstance(value, dict) and set(self.required) <= set(value))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, kw_only=True)
class _JsonSchema(PassFail):
    kind: ClassVar[str] = "json_schema"
    argument: ClassVar[str] = "schema"

    schema: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._validator  # noqa: B018 - a schema that is none is refused here

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(self.schema, sort_keys=True, default=str)))

    @functools.cached_property
    def _validator(self) -> Any:
        return validator(self.schema, self.kind)

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        try:
            return bool(self._validator.is_valid(json.loads(answer, parse_constant=_no_constant)))
        except (ValueError, RecursionError):
            return False


@dataclass(frozen=True, kw_only=True)
class _ContainsJson(PassFail):
    kind: ClassVar[str] = "contains_json"

    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._validator  # noqa: B018 - a schema that is none is refused here

    def __hash__(self) -> int:
        return hash((self.name, json.dumps(self.schema, sort_keys=True, default=str)))

    @functools.cached_property
    def _validator(self) -> Any:
        return None if self.schema is None else validator(self.schema, "schema")

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        return any(self._validator is None or self._validator.is_valid(value) for value in _values_in(answer))


def _values_in(text: str) -> Iterator[Any]:
    """The JSON objects and arrays in a text, the outermost ones, in order."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    place, tries = 0, 0
    while tries < _MOST_TRIES:
        starts = [found for found in (text.find("{", place), text.find("[", place)) if found >= 0]
        if not starts:
            return
        tries, place = tries + 1, min(starts)
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield value
            place = end


def validator(schema: object, field: str) -> Any:
    """A validator of the JSON Schema that `$schema` names (default 2020-12) that fetches nothing, and whose patterns cannot hang.

    Raises:
        BadInput: When the schema is none.
    """
    import referencing
    from jsonschema import Draft202012Validator, ValidationError
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend, validator_for

    if not isinstance(schema, Mapping):
        refuse(field, f"{schema!r} is no JSON Schema", 'Give a mapping, for example {"type": "object"}.', schema)

    def pattern(_: Any, expression: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not search(expression, value):
            yield ValidationError(f"{value[:80]!r} does not match {expression!r}")

    def by_pattern(this: Any, patterns: Mapping[str, Any], value: Any, __: Any) -> Iterator[ValidationError]:
        for expression, inner in patterns.items() if isinstance(value, dict) else ():
            for key, each in value.items():
                if search(expression, key):
                    yield from this.descend(each, inner, path=key, schema_path=expression)

    try:
        draft = validator_for(dict(schema), default=Draft202012Validator)
        draft.check_schema(dict(schema))
        for expression in _patterns(schema):
            compiled(expression, 0)
    except SchemaError as error:
        raise BadInput(
            f"{field}: this is not a JSON Schema: {error.message[:200]}.",
            fix="Correct it; without $schema, JSON Schema 2020-12 is meant.",
            field=field,
            value=schema,
        ) from None
    except RecursionError:
        refuse(field, "the JSON Schema is nested too deeply", "Use fewer levels.", "...")
    make: Any = extend  # the package is typed, this function is not
    bounded = make(draft, {"pattern": pattern, "patternProperties": by_pattern})
    checker = bounded(dict(schema), registry=referencing.Registry())
    return _Checked(checker)


def _patterns(schema: object) -> Iterator[str]:
    """The regular expressions in a schema."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield value
            elif key == "patternProperties" and isinstance(value, Mapping):
                yield from map(str, value)
            yield from _patterns(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _patterns(value)


class _Checked:
    """A validator whose references to nowhere are errors of ours."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def is_valid(self, value: Any) -> bool:
        from referencing.exceptions import Unresolvable

        try:
            return bool(self._inner.is_valid(value))
        except Unresolvable as error:
            raise ExperimentError(
                f"The JSON Schema refers to what is not in it: {error}.",
                fix="Put it under $defs in the schema; nothing is fetched.",
            ) from None


def json_valid(*, required: Iterable[str] = (), **common: Any) -> Scorer:
    """Whether the whole answer is one JSON value (RFC 8259: no NaN); with `required`, an object with these keys."""
    keys: Any = required if isinstance(required, str) else tuple(required)
    return _JsonValid(required=keys, **common)


def json_schema(schema: Mapping[str, Any], **common: Any) -> Scorer:
    """Whether the whole answer is JSON that a JSON Schema (2020-12) describes.

    Args:
        schema: The schema; references must lead to places inside it, as nothing is fetched.
        common: `name`, `negate`, `weight`, `when`: see `BaseScorer`.

    Raises:
        BadInput: When the schema is none.
    """
    return _JsonSchema(schema=schema, **common)


def contains_json(schema: Mapping[str, Any] | None = None, **common: Any) -> Scorer:
    """Whether a JSON object or array stands somewhere in the answer; with `schema`, one that it describes. See `json_schema`."""
    return _ContainsJson(schema=schema, **common)
