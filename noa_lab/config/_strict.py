"""The base of every typed thing a user writes: unknown keys and wrong values are refused by name, with the nearest known one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from noa_lab.errors import BadInput, nearest

__all__ = ["Fault", "StrictModel", "explain", "find_fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that pydantic found wrong, in our words.

    Attributes:
        path: Keys and indices that lead to it.
        message: What is wrong, as a sentence.
        fix: What to do about it, as a sentence.
        value: What was found there.
        nearest: The known key that was probably meant, or None.
    """

    path: tuple[str | int, ...]
    message: str
    fix: str
    value: object
    nearest: str | None = None

    @property
    def field(self) -> str:
        """The path with dots."""
        return ".".join(str(part) for part in self.path)


def _fault(error: ValidationError, known: list[str], kind: str) -> Fault:
    found_wrong = error.errors(include_url=False)
    # A misspelt key is reported twice, as an unknown and as a missing one; the first says what to do.
    first = next((each for each in found_wrong if each["type"] == "extra_forbidden"), found_wrong[0])
    path = tuple(first["loc"])
    value = first.get("input")
    nested = first.get("ctx", {}).get("error")
    if isinstance(nested, BadInput):
        # A strict model inside this one has already said what is wrong: only the way to it grows.
        inner = nested.fields.get("path")
        near = nested.fields.get("nearest")
        deeper = inner if isinstance(inner, tuple) else ()
        found = nested.fields.get("value", value)
        return Fault((*path, *deeper), nested.message, nested.fix, found, near if isinstance(near, str) else None)
    field = ".".join(str(part) for part in path) or kind
    if first["type"] == "extra_forbidden":
        close = nearest(str(path[-1]), known)
        fix = f"Did you mean {close!r}?" if close else f"Known: {', '.join(sorted(known))}."
        return Fault(path, f"{kind} has no field {field!r}.", fix, value, close)
    if first["type"] == "missing":
        return Fault(path, f"{kind} needs {field!r}.", f"Add {field!r}.", None)
    said = first["msg"].removeprefix("Value error, ")
    reason = said[0].lower() + said[1:]
    return Fault(path, f"{kind}: {field} = {value!r} is not allowed: {reason}.", f"Change {field!r}.", value)


def _known(kind: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def find_fault(error: ValidationError, kind: type[BaseModel]) -> Fault:
    """What is wrong with the data for `kind`, however deep in it."""
    return _fault(error, _known(kind), getattr(kind, "kind_name", "") or kind.__name__)


def explain(error: ValidationError, known: list[str], kind: str) -> tuple[str, str, str]:
    """What pydantic found, in our words.

    Args:
        error: The error to explain; its first finding is used.
        known: The names that would have been right.
        kind: What was being read, for the message ("InferenceConfig").

    Returns:
        The field (dotted), the message and the fix.
    """
    fault = _fault(error, known, kind)
    return fault.field or kind, fault.message, fault.fix


class StrictModel(BaseModel):
    """A frozen pydantic model that raises `BadInput` instead of pydantic's own error when it is constructed.

    The error's `fields` are `field` (dotted), `value`, `path` (its parts) and `nearest`.
    """

    kind_name: ClassVar[str] = ""
    """What messages call it, for people who never see the class ("The comparison file"); default: the name of the class."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            fault = find_fault(error, type(self))
            field = fault.field or type(self).__name__
            raise BadInput(
                fault.message, fix=fault.fix, field=field, value=fault.value, path=fault.path, nearest=fault.nearest
            ) from None
