"""Whether a value is what a JSON Schema says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["schema_fault"]


def schema_fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, in one sentence with the place in it; None when nothing is.

    Formats count (JSON Schema leaves that open). A reference to somewhere else is never fetched.
    """
    import jsonschema
    import referencing.exceptions

    draft = jsonschema.Draft202012Validator
    checker = draft(dict(schema), format_checker=draft.FORMAT_CHECKER)
    try:
        found = jsonschema.exceptions.best_match(checker.iter_errors(value))
    except referencing.exceptions.Unresolvable as error:
        return f"the schema refers to {error.ref}, which is not there"
    if found is None:
        return None
    place = ".".join(map(str, found.absolute_path))
    return f"{place}: {found.message}" if place else str(found.message)
