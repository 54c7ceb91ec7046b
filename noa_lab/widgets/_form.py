"""What was typed into a form, as values: each mistake names its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noa_lab.errors import BadInput

__all__ = ["Form", "real", "ticked", "whole", "words"]

Form = Mapping[str, Any]
"""What the fields hold, by id: text as typed, or whether it is ticked."""


def words(form: Form, field: str) -> str:
    """The text of a field, without space around it."""
    return str(form[field]).strip()


def ticked(form: Form, field: str) -> bool:
    """Whether a box is ticked."""
    return bool(form[field])


def whole(form: Form, field: str) -> int | None:
    """The whole number in a field; None when it is empty.

    Raises:
        BadInput: When it is something else.
    """
    typed = words(form, field)
    if not typed:
        return None
    try:
        return int(typed)
    except ValueError:
        raise BadInput(
            f"{typed!r} is not a whole number.", fix="Write digits only.", field=field, value=typed
        ) from None


def real(form: Form, field: str) -> float | None:
    """The number in a field; None when it is empty.

    Raises:
        BadInput: When it is something else.
    """
    typed = words(form, field)
    if not typed:
        return None
    try:
        return float(typed)
    except ValueError:
        raise BadInput(f"{typed!r} is not a number.", fix='Write it like "0.7".', field=field, value=typed) from None
