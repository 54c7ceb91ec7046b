"""GBNF grammars as programs: texts derived from them at random, and texts matched against them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

Node = tuple


@dataclass
class Grammar:
    rules: dict[str, Node]

    def derive(self, rng: random.Random, *, depth: int = 12) -> str:
        """A random text; past `depth` nested rules, repetitions and optional parts are left out."""
        return self._derive(("rule", "root"), rng, depth)

    def _derive(self, node: Node, rng: random.Random, depth: int) -> str:
        kind = node[0]
        if kind == "text":
            return node[1]
        if kind == "class":
            return _pick(node[1], node[2], rng)
        if kind == "rule":
            return self._derive(self.rules[node[1]], rng, depth - 1)
        if kind == "seq":
            return "".join(self._derive(each, rng, depth) for each in node[1])
        if kind == "alt":
            options = sorted(node[1], key=lambda each: self._size(each, frozenset())) if depth <= 0 else node[1]
            return self._derive(options[0] if depth <= 0 else rng.choice(options), rng, depth)
        _, sub, least, most = node
        top = least if depth <= 0 else min(least + 3, most if most is not None else least + 3)
        return "".join(self._derive(sub, rng, depth) for _ in range(rng.randint(least, max(least, top))))

    def _size(self, node: Node, above: frozenset[str]) -> int:
        kind = node[0]
        if kind == "rule":
            return 10**6 if node[1] in above else 1 + self._size(self.rules[node[1]], above | {node[1]})
        if kind == "seq":
            return sum(self._size(each, above) for each in node[1])
        if kind == "alt":
            return min(self._size(each, above) for each in node[1])
        return node[2] * self._size(node[1], above) if kind == "repeat" else 1

    def matches(self, text: str) -> bool:
        return len(text) in self._ends(("rule", "root"), text, 0)

    def _ends(self, node: Node, text: str, at: int) -> set[int]:
        kind = node[0]
        if kind == "text":
            return {at + len(node[1])} if text.startswith(node[1], at) else set()
        if kind == "class":
            inside = at < len(text) and any(low <= ord(text[at]) <= high for low, high in node[1])
            return {at + 1} if at < len(text) and inside != node[2] else set()
        if kind == "rule":
            return self._ends(self.rules[node[1]], text, at)
        if kind == "alt":
            return set().union(*(self._ends(each, text, at) for each in node[1]))
        if kind == "seq":
            places = {at}
            for each in node[1]:
                places = set().union(*(self._ends(each, text, place) for place in places))
            return places
        _, sub, least, most = node
        places, found, count = {at}, set(), 0
        while places and (most is None or count <= most):
            if count >= least:
                if places <= found:
                    break
                found |= places
            places = set().union(*(self._ends(sub, text, place) for place in places))
            count += 1
        return found


def _pick(ranges: list[tuple[int, int]], negated: bool, rng: random.Random) -> str:
    if negated:
        for _ in range(1000):
            code = rng.choice([rng.randint(0x20, 0x7E), rng.randint(0xA0, 0x2FF), 0x1F642])
            if not any(low <= code <= high for low, high in ranges):
                return chr(code)
    low, high = rng.choice(ranges)
    return chr(rng.randint(low, high))


def parse(source: str) -> Grammar:
    rules = {}
    for line in source.splitlines():
        name, _, body = line.partition(" ::= ")
        assert re.fullmatch(r"[a-zA-Z0-9-]+", name), line
        node, rest = _alternatives(body.lstrip())
        assert not rest, (line, rest)
        assert name not in rules
        rules[name] = node
    return Grammar(rules)


def _alternatives(text: str) -> tuple[Node, str]:
    options = []
    while True:
        node, text = _sequence(text)
        options.append(node)
        if not text.startswith("|"):
            return (options[0] if len(options) == 1 else ("alt", options)), text
        text = text[1:].lstrip()


def _sequence(text: str) -> tuple[Node, str]:
    items = []
    while text and text[0] not in "|)":
        node, text = _atom(text)
        if (found := re.match(r"([*+?])|\{(\d+)(,)?(\d+)?\}", text)) and not text[0].isspace():
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[1], (0, 0))
            if found[2]:
                least = int(found[2])
                most = int(found[4]) if found[4] else None if found[3] else least
            node, text = ("repeat", node, least, most), text[found.end() :]
        items.append(node)
        text = text.lstrip()
    return ("seq", items), text


def _atom(text: str) -> tuple[Node, str]:
    if text[0] == "(":
        node, text = _alternatives(text[1:].lstrip())
        assert text[0] == ")"
        return node, text[1:]
    if text[0] == '"':
        end = re.match(r'"((?:\\.|[^"\\])*)"', text)
        return ("text", "".join(map(chr, _codes(end[1])))), text[end.end() :]
    if text[0] == "[":
        end = re.match(r"\[(\^?)((?:\\.|[^\]\\])*)\]", text)
        return ("class", _ranges(end[2]), bool(end[1])), text[end.end() :]
    name = re.match(r"[a-zA-Z0-9-]+", text)
    assert name, text
    return ("rule", name[0]), text[name.end() :]


def _codes(body: str) -> list[int]:
    escapes = {"n": 10, "r": 13, "t": 9}
    found = []
    for match in re.finditer(r"\\x(..)|\\u(....)|\\U(.{8})|\\(.)|(.)", body, re.DOTALL):
        code = match[1] or match[2] or match[3]
        found.append(int(code, 16) if code else escapes.get(match[4], ord(match[4])) if match[4] else ord(match[5]))
    return found


def _ranges(body: str) -> list[tuple[int, int]]:
    parts = re.findall(r"\\x..|\\u....|\\U.{8}|\\.|.", body, re.DOTALL)
    found, at = [], 0
    while at < len(parts):
        low = _codes(parts[at])[0]
        if at + 2 < len(parts) and parts[at + 1] == "-":
            found.append((low, _codes(parts[at + 2])[0]))
            at += 3
        else:
            found.append((low, low))
            at += 1
    return found
