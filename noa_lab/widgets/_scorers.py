"""Scorers as lines that people type, and as Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.widgets._source import call, literal

__all__ = ["SCORER_LINES", "scorer_code", "scorer_words", "typed_scorers"]

SCORER_LINES = (
    "One a line, for example: contains: {{ expected }} · max_words: 30 · json_valid · short = max_characters: 80"
)
"""What a user is told about the lines."""

_TEXTS = ("contains", "equals", "icontains", "not_contains", "regex", "starts_with")
_NUMBERS = ("max_characters", "max_words", "min_characters", "min_words")
_KINDS = (*_TEXTS, *_NUMBERS, "json_valid")
_LINE = re.compile(r"(?:(?P<name>[\w -]+?)\s*=\s*)?(?P<kind>\w+)\s*(?::\s*(?P<argument>.*))?")


def typed_scorers(typed: str) -> tuple[Any, ...]:
    """The scorers that the lines name: `kind: argument`, with `name = ` before it where another column name is wanted.

    Raises:
        BadInput: Naming the line; `UnknownName` for a scorer that there is not.
    """
    return tuple(_scorer(number, line) for number, line in _lines(typed))


def _lines(typed: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(typed.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _scorer(number: int, line: str) -> Any:
    from noa_lab.experiments import score

    match = _LINE.fullmatch(line)
    if match is None:
        raise BadInput(
            f"Line {number}, {line!r}, is no scorer.", fix='Write it like "max_words: 30".', field="scorers", value=line
        )
    kind, argument = match["kind"], (match["argument"] or "").strip()
    if kind not in _KINDS:
        raise UnknownName.among("scorer", kind, _KINDS, where=f"line {number}")
    named: dict[str, Any] = {"name": match["name"].strip()} if match["name"] else {}
    if kind == "json_valid":
        return score.json_valid(**named)
    try:
        return getattr(score, kind)(int(argument) if kind in _NUMBERS else argument, **named)
    except BadInput as error:
        raise BadInput(f"Line {number}: {error.message}", fix=error.fix, field="scorers", value=line) from None
    except ValueError:
        raise BadInput(
            f"Line {number}: {argument!r} is not a whole number.",
            fix=f'Write it like "{kind}: 30".',
            field="scorers",
            value=line,
        ) from None


def scorer_code(scorer: Any) -> str:
    """The call that makes this scorer again.

    A scorer that is a function of the user's own is written by the function's name, which has to be defined where the code runs.
    """
    spec = dict(scorer.spec())
    name = spec.pop("name", "")
    if hasattr(scorer, "function"):
        function = getattr(scorer.function, "__name__", "my_scorer")
        options = {} if name == function else {"name": name}
        return f"lab.score.function({', '.join([function, *(f'{key}={literal(value)}' for key, value in options.items())])})"
    key = next(key for key in spec if key.removeprefix("not_") in _KINDS)
    kind = key.removeprefix("not_")
    argument = spec.pop(key)
    arguments: dict[str, object] = {} if kind == "json_valid" else {"0": argument}
    arguments |= spec
    if key != kind:
        arguments["negate"] = True
    if name != key:
        arguments["name"] = name
    return call(f"lab.score.{kind}", arguments)


def scorer_words(scorer: Any) -> str:
    """A scorer in a few words: its call, and the column it fills where that has another name."""
    written = scorer_code(scorer).removeprefix("lab.score.")
    return written if written.startswith(scorer.name) else f"{scorer.name}: {written}"
