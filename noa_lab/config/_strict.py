"""The base of every typed thing a user writes: unknown keys and wrong values are refused by name, with the nearest known one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from noa_lab.errors import BadInput, nearest

__all__ = ["StrictModel", "explain"]


def explain(error: ValidationError, known: list[str], kind: str) -> tuple[str, str, str]:
    """What pydantic found, in our words.

    Args:
        error: The error to explain; its first finding is used.
        known: The names that would have been right.
        kind: What was being read, for the message ("InferenceConfig").

    Returns:
        The field (dotted), the message and the fix.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or kind
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        near = nearest(str(first["loc"][-1]), known)
        fix = f"Did you mean {near!r}?" if near else f"Known: {', '.join(sorted(known))}."
        return field, f"{kind} has no field {field!r}.", fix
    if first["type"] == "missing":
        return field, f"{kind} needs {field!r}.", f"Add {field!r}."
    reason = first["msg"][0].lower() + first["msg"][1:]
    return field, f"{kind}: {field} = {value!r} is not allowed: {reason}.", f"Change {field!r}."


class StrictModel(BaseModel):
    """A frozen pydantic model that raises `BadInput` instead of pydantic's own error when it is constructed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            field, message, fix = explain(error, list(type(self).model_fields), type(self).__name__)
            raise BadInput(message, fix=fix, field=field, value=data.get(field)) from None
