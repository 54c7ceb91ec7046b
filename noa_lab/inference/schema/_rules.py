"""The rules of a GBNF grammar (`grammars/README.md` of llama.cpp, b11312)."""

from __future__ import annotations

import re

__all__ = ["MOST_REPEATS", "Rules", "literal", "repeat"]

MOST_REPEATS = 2000
"""llama.cpp refuses grammars that repeat more often (`src/llama-grammar.cpp`)."""

_PRIMITIVES = {
    "ws": '| " " | "\\n" [ \\t]{0,20}',
    "hex": "[0-9a-fA-F]",
    # Without halves of surrogate pairs, which are no characters.
    "char": '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" ( ["\\\\/bfnrt] | "u" ( [0-9a-cefA-CEF] hex hex hex | [dD] [0-7] hex hex ) )',
    "string": '"\\"" char* "\\""',
    "digits": '"0" | [1-9] [0-9]{0,14}',
    "fraction": '"." [0-9]{1,15}',
    "integer": '"-"? digits',
    "number": '"-"? digits fraction? ( [eE] [-+]? [0-9]{1,2} )?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": '"{" ws ( member ( "," ws member )* )? "}"',
    "member": 'string ":" ws value ws',
    "array": '"[" ws ( value ws ( "," ws value ws )* )? "]"',
    "value": "object | array | string | number | boolean | null",
}
_NAMES = re.compile(r"[a-z]+")


class Rules:
    """Rules by name; the same rule is kept once."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def primitive(self, name: str) -> str:
        """A rule for a kind of JSON value, with the rules it uses."""
        if name not in self._bodies:
            self._bodies[name] = _PRIMITIVES[name]
            outside_quotes = re.sub(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', " ", _PRIMITIVES[name])
            for used in _NAMES.findall(outside_quotes):
                self.primitive(used)
        return name

    def reserve(self, name: str) -> str:
        """A new name for a rule whose body follows, for rules that use themselves."""
        base = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-") or "rule"
        number, free = 2, f"{base}-" if base in _PRIMITIVES else base
        while free in self._bodies:
            free, number = f"{base}-{number}", number + 1
        self._bodies[free] = ""
        return free

    def define(self, name: str, body: str) -> str:
        """Give a reserved name its body."""
        self._bodies[name] = body
        return name

    def add(self, name: str, body: str) -> str:
        """A rule with this body, under this name or, where there is one already, under another."""
        known = self._names.get(body)
        if known is None:
            known = self._names[body] = self.define(self.reserve(name), body)
        return known

    def text(self, root: str) -> str:
        """The whole grammar."""
        lines = [f"{name} ::= {body}" for name, body in self._bodies.items()]
        return "\n".join([f"root ::= {root}", *lines]) + "\n"


def literal(text: str) -> str:
    """A text as a GBNF literal."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    code = ord(char)
    return f"\\x{code:02X}" if code < 0x20 or code == 0x7F else char


def repeat(what: str, least: int, most: int | None) -> str:
    """`what`, repeated; it must be a name, a class or in brackets."""
    if (least, most) == (1, 1):
        return what
    short = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get((least, most))
    return what + (short or f"{{{least},{'' if most is None else most}}}")
