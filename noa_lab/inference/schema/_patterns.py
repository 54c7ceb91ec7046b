"""Grammars of regular expressions, as far as JSON strings can be held to them."""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Iterable
from typing import Any

from noa_lab.inference.schema._rules import Rules, literal, repeat

__all__ = ["UnsupportedPattern", "pattern_rule"]

_PARSER: Any = importlib.import_module("re._parser")
"""Python's own parser of regular expressions, which also validates what comes back."""

_FORBIDDEN = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))
"""Characters that a JSON string cannot hold as they are."""

_ASCII = ((0x20, 0x7E),)
_CATEGORIES: dict[str, tuple[tuple[int, int], ...]] = {
    "CATEGORY_DIGIT": ((0x30, 0x39),),
    "CATEGORY_WORD": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "CATEGORY_SPACE": ((0x20, 0x20),),
}

Ranges = tuple[tuple[int, int], ...]


class UnsupportedPattern(Exception):
    """A regular expression without a grammar; the message says why."""


def pattern_rule(pattern: str, rules: Rules, name: str) -> str:
    r"""A rule for the JSON strings that `pattern` is found in.

    As in JSON Schema, a pattern without "^" or "$" may stand anywhere in the text. The grammar writes characters as they are: of the
    strings that match, those that need an escape beyond \" and \\ are not generated.

    Raises:
        UnsupportedPattern: For look-around, back references, anchors inside, flags, and what is no regular expression.
    """
    try:
        parsed = _PARSER.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UnsupportedPattern(f"it is no regular expression ({error})") from None
    if parsed.state.flags & ~re.UNICODE:
        raise UnsupportedPattern("it sets flags")
    items = list(parsed)
    begun = bool(items) and _is(items[0], "AT", "AT_BEGINNING")
    ended = bool(items) and _is(items[-1], "AT", "AT_END")
    if len(items) == 1 and begun:
        ended = False
    inner = items[1 if begun else 0 : len(items) - (1 if ended else 0)]
    anything = rules.primitive("char") + "*"
    parts = ['"\\""', "" if begun else anything, _sequence(inner, rules, name), "" if ended else anything, '"\\""']
    return rules.add(name, " ".join(part for part in parts if part))


def _is(item: tuple[Any, Any], operation: str, argument: str) -> bool:
    return str(item[0]) == operation and str(item[1]) == argument


def _sequence(items: Iterable[tuple[Any, Any]], rules: Rules, name: str) -> str:
    return " ".join(found for item in items if (found := _item(item, rules, name)))


def _item(item: tuple[Any, Any], rules: Rules, name: str) -> str:
    operation, argument = str(item[0]), item[1]
    if operation == "LITERAL":
        return _choices(((argument, argument),))
    if operation == "NOT_LITERAL":
        return _choices(_complement(((argument, argument),)))
    if operation == "ANY":
        return _choices(_complement(((0x0A, 0x0A),)))
    if operation == "IN":
        return _choices(_class(argument))
    if operation in {"MAX_REPEAT", "MIN_REPEAT"}:
        least, most, sub = argument
        rule = rules.add(f"{name}-part", _sequence(sub, rules, name) or '""')
        return repeat(rule, least, None if most == _PARSER.MAXREPEAT else int(most))
    if operation == "SUBPATTERN":
        _, added, removed, sub = argument
        if added or removed:
            raise UnsupportedPattern("it sets flags")
        return f"( {_sequence(sub, rules, name) or EMPTY} )"
    if operation == "BRANCH":
        return "( " + " | ".join(_sequence(branch, rules, name) or EMPTY for branch in argument[1]) + " )"
    raise UnsupportedPattern(f"it uses {_WORDS.get(operation, operation.lower())}")


EMPTY = '""'
_WORDS = {
    "AT": "an anchor inside",
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "GROUPREF": "a back reference",
    "GROUPREF_EXISTS": "a back reference",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}


def _class(items: Iterable[tuple[Any, Any]]) -> Ranges:
    found: list[tuple[int, int]] = []
    negated = False
    for operation, argument in items:
        kind = str(operation)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found.append((argument, argument))
        elif kind == "RANGE":
            found.append(argument)
        else:
            found.extend(_category(str(argument)))
    return _complement(found) if negated else tuple(found)


def _category(name: str) -> Ranges:
    """Of characters beyond ASCII, engines disagree: none is generated."""
    if name in _CATEGORIES:
        return _CATEGORIES[name]
    positive = _CATEGORIES.get(name.replace("NOT_", ""))
    if positive is None:
        raise UnsupportedPattern(f"it uses {name.lower()}")
    return _without(_ASCII, positive)


def _complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    return _without(((0x20, 0xD7FF), (0xE000, 0x10FFFF)), ranges)


def _without(ranges: Iterable[tuple[int, int]], taken: Iterable[tuple[int, int]]) -> Ranges:
    left = list(ranges)
    for low, high in taken:
        cut: list[tuple[int, int]] = []
        for first, last in left:
            cut += [(first, min(last, low - 1)), (max(first, high + 1), last)]
        left = [(first, last) for first, last in cut if first <= last]
    return tuple(left)


def _choices(ranges: Ranges) -> str:
    """One character of these, as it stands in a JSON string."""
    plain = _without(ranges, _FORBIDDEN)
    escaped = [literal("\\" + char) for char in '"\\' if any(first <= ord(char) <= last for first, last in ranges)]
    if len(plain) == 1 and plain[0][0] == plain[0][1] and not escaped:
        return literal(chr(plain[0][0]))
    inside = "".join(_span(first, last) for first, last in plain)
    options = ([f"[{inside}]"] if inside else []) + escaped
    if not options:
        raise UnsupportedPattern("it needs control characters")
    return options[0] if len(options) == 1 else f"( {' | '.join(options)} )"


def _span(first: int, last: int) -> str:
    return _in_class(first) if first == last else f"{_in_class(first)}-{_in_class(last)}"


def _in_class(code: int) -> str:
    char = chr(code)
    if code < 0x80 and (char in string.ascii_letters + string.digits + " "):
        return char
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
