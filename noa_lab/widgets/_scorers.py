"""Scorers as lines that people type, and as Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.widgets._source import Raw, literal

__all__ = ["SCORER_LINES", "scorer_code", "scorer_words", "typed_scorers"]

SCORER_LINES = (
    "One a line, for example: contains: {{ expected }} · max_words: 30 · json_valid · short = max_characters: 80 · "
    "rubric: It is polite."
)
"""What a user is told about the lines."""

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
    from noa_lab.experiments.score._specs import COMBINED, KINDS

    match = _LINE.fullmatch(line)
    if match is None:
        raise BadInput(
            f"Line {number}, {line!r}, is not a scorer.",
            fix='Write it like "max_words: 30".',
            field="scorers",
            value=line,
        )
    written, argument = match["kind"], (match["argument"] or "").strip()
    kind = written.removeprefix("not_")
    kinds = sorted(KINDS.keys() - set(COMBINED))
    if kind not in kinds:
        raise UnknownName.among("scorer", written, kinds, where=f"line {number}")
    named: dict[str, Any] = {"name": match["name"].strip()} if match["name"] else {}
    if kind != written:
        named["negate"] = True
    try:
        return KINDS[kind](*_arguments(kind, argument), **named)
    except BadInput as error:
        raise BadInput(f"Line {number}: {error.message}", fix=error.fix, field="scorers", value=line) from None
    except ValueError as error:
        raise BadInput(
            f"Line {number}: {error}.", fix=f'Write it like "{kind}: 30".', field="scorers", value=line
        ) from None


def _arguments(kind: str, typed: str) -> list[Any]:
    """What a line says after the colon, as the scorer's argument."""
    from noa_lab.experiments.score._specs import FLAGS

    if kind in FLAGS:
        return []
    if kind.startswith(("max_", "min_")):
        if not re.fullmatch(r"-?\d+", typed):
            raise ValueError(f"{typed!r} is not a whole number")
        return [int(typed)]
    if kind == "json_schema":
        try:
            return [json.loads(typed)]
        except ValueError:
            raise ValueError(f"{typed[:60]!r} is not JSON") from None
    return [[each.strip() for each in typed.split(",")] if kind in {"contains_any", "contains_all"} else typed]


def scorer_code(scorer: Any) -> str:
    """The call that makes this scorer again.

    A scorer that is a function of the user's own is written by the function's name, which has to be defined where the code runs.
    """
    spec = dict(scorer.spec())
    if hasattr(scorer, "function"):
        function, name = getattr(scorer.function, "__name__", "my_scorer"), spec.pop("name", "")
        options = {} if name == function else {"name": name}
        return f"lab.score.function({', '.join([function, *(f'{key}={literal(value)}' for key, value in options.items())])})"
    return _code(spec).at(0)


def _code(spec: dict[str, Any]) -> Raw:
    from noa_lab.experiments.score._specs import COMBINED, call_of_spec

    kind, positional, named = call_of_spec(spec)
    if kind in COMBINED:
        positional = [[_code(part) for part in positional[0]]]
    return Raw(f"lab.score.{kind}", {**{str(number): value for number, value in enumerate(positional)}, **named})


def scorer_words(scorer: Any) -> str:
    """A scorer in a few words: its call, and the column it fills where that has another name."""
    written = scorer_code(scorer).removeprefix("lab.score.")
    return written if written.startswith(scorer.name) else f"{scorer.name}: {written}"
