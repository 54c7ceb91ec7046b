"""Python source for a panel's `.code`: what a user would have typed, laid out as a formatter would."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["Raw", "call", "literal"]

_WIDTH = 100


def literal(value: object, indent: int = 0) -> str:
    """The expression that makes `value` again: None, booleans, numbers, text, and lists, tuples and mappings of them.

    Args:
        value: What to write.
        indent: Spaces that its lines after the first stand in by.

    Raises:
        TypeError: For anything else, whose repr might not be an expression.
    """
    if isinstance(value, Raw):
        return value.at(indent)
    if value is None or isinstance(value, bool | int | float):
        return _number(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return _bracket(
            "{", [f"{literal(key)}: {literal(item, indent + 4)}" for key, item in value.items()], "}", indent
        )
    if isinstance(value, tuple):
        items = [literal(item, indent + 4) for item in value]
        return _bracket("(", items, ",)" if len(items) == 1 else ")", indent)
    if isinstance(value, Sequence):
        return _bracket("[", [literal(item, indent + 4) for item in value], "]", indent)
    raise TypeError(f"{type(value).__name__} cannot be written as Python")


class Raw:
    """An expression in a value that `literal` writes: a call, laid out where it stands."""

    def __init__(self, name: str, arguments: Mapping[str, object]) -> None:
        self._name = name
        self._arguments = arguments

    def at(self, indent: int) -> str:
        """The call at this indent."""
        return call(self._name, self._arguments, indent)


def call(name: str, arguments: Mapping[str, object], indent: int = 0) -> str:
    """A call of `name`; arguments whose names are digits are positional, and come first."""
    parts = [
        literal(value, indent + 4) if key.isdigit() else f"{key}={literal(value, indent + 4)}"
        for key, value in arguments.items()
    ]
    return _bracket(f"{name}(", parts, ")", indent)


def _bracket(opening: str, items: list[str], closing: str, indent: int) -> str:
    line = f"{opening}{', '.join(items)}{closing}"
    if "\n" not in line and indent + len(line) <= _WIDTH:
        return line
    inner = " " * (indent + 4)
    body = "".join(f"{inner}{item},\n" for item in items)
    return f"{opening}\n{body}{' ' * indent}{closing.removeprefix(',')}"


def _number(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _text(value: str) -> str:
    """A string in double quotes where that needs no more escapes."""
    plain = repr(value)
    if plain.startswith("'") and '"' not in value:
        inner = plain[1:-1].replace("\\'", "'")
        return f'"{inner}"'
    return plain
