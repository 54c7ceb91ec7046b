"""From assertions of single tests to scorers of a whole comparison.

promptfoo asserts test by test; our scorers look at every input. So the assertions of all tests that have the same shape become one
scorer, and what differs between them a field of the inputs. An input that lacks the field is not scored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noa_lab.errors import TemplateInvalid
from noa_lab.experiments.promptfoo._assertions import Piece
from noa_lab.experiments.promptfoo._notes import Notes
from noa_lab.experiments.promptfoo._nunjucks import has_template, rendered, translated, variables_of
from noa_lab.experiments.promptfoo._tests import Case
from noa_lab.experiments.score._specs import asks_model

__all__ = ["Scoring", "overall", "scoring_of"]

_MOST_SCORERS = 60

Text = str | list[str]


@dataclass(slots=True)
class Scoring:
    """Scorers, and the fields that they need.

    Attributes:
        specs: Specifications of scorers, as comparison files have them.
        fields: For each input, further fields by name.
    """

    specs: list[dict[str, Any]]
    fields: list[dict[str, Any]]


def scoring_of(cases: Sequence[Case], pieces: Sequence[Sequence[Piece]], taken: set[str], notes: Notes) -> Scoring:
    """Put the pieces of all cases together.

    Args:
        cases: The inputs.
        pieces: For each input, what its assertions became.
        taken: Names of fields that the inputs have already.
        notes: Takes what does not fit.
    """
    groups: dict[tuple[Any, ...], dict[int, Piece]] = {}
    for number, own in enumerate(pieces):
        seen: dict[Any, int] = {}
        for piece in own:
            shape = _shape(piece)
            seen[shape] = seen.get(shape, 0) + 1
            groups.setdefault((shape, seen[shape]), {})[number] = piece
    found = Scoring([], [{} for _ in cases])
    names: set[str] = set()
    for members in groups.values():
        if len(found.specs) >= _MOST_SCORERS:
            notes.take(
                "left out", "tests", "further assertions", f"There are more than {_MOST_SCORERS} different ones."
            )
            break
        _add(found, members, cases, names, taken, notes)
    return found


def _shape(piece: Piece) -> tuple[Any, ...]:
    """What two pieces have in common that can be one scorer."""
    if piece.kind in {"all_of", "weighted"}:
        inner: Any = tuple(_shape(each) if isinstance(each, Piece) else json.dumps(each) for each in piece.argument)
    elif piece.has_text:
        inner = "list" if isinstance(piece.argument, list) else "text"
    else:
        inner = json.dumps(piece.argument, sort_keys=True, default=str)
    options = json.dumps(piece.options, sort_keys=True, default=str)
    return piece.kind, inner, options, piece.negate, piece.weight, piece.metric


def _add(
    found: Scoring, members: Mapping[int, Piece], cases: Sequence[Case], names: set[str], taken: set[str], notes: Notes
) -> None:
    """Add one scorer for the pieces of several cases."""
    first = next(iter(members.values()))
    name = _free(first.metric or f"{'not_' if first.negate else ''}{first.kind}", names)
    slots = {number: list(_texts(piece)) for number, piece in members.items()}
    needs_field = False
    arguments: list[Any] = []
    for place in range(len(next(iter(slots.values())))):
        values = {number: texts[place] for number, texts in slots.items()}
        literal = _literal(list(values.values()), cases, members)
        if literal is not None:
            arguments.append(literal)
            continue
        column = _free(f"expected_{_slug(name)}" if len(slots) > 1 or len(members) > 1 else "expected", taken)
        needs_field = True
        for number, text in values.items():
            filled = _filled(text, cases[number], notes)
            if filled is not None:
                found.fields[number][column] = filled
        arguments.append(f"{{{{ {column} }}}}")
    spec = _built(first, iter(arguments))
    spec = {"name": name, **{key: value for key, value in spec.items() if key != "name"}}
    if not needs_field and len(members) < len(cases):
        column = _free(f"use_{_slug(name)}", taken)
        for number in members:
            found.fields[number][column] = True
        spec["when"] = column
    found.specs.append(spec)


def _texts(piece: Piece) -> Iterator[Text]:
    """The texts in a piece, in order."""
    if piece.kind in {"all_of", "weighted"}:
        for part in piece.argument:
            if isinstance(part, Piece):
                yield from _texts(part)
    elif piece.has_text:
        yield piece.argument


def _built(piece: Piece, arguments: Iterator[Any]) -> dict[str, Any]:
    """The specification, its texts taken from `arguments`."""
    if piece.kind in {"all_of", "weighted"}:
        argument: Any = [_built(each, arguments) if isinstance(each, Piece) else each for each in piece.argument]
    else:
        argument = next(arguments) if piece.has_text else piece.argument
    spec: dict[str, Any] = {f"{'not_' if piece.negate else ''}{piece.kind}": argument, **piece.options}
    if piece.metric:
        spec["name"] = piece.metric
    return spec | ({"weight": piece.weight} if piece.weight != 1.0 else {})


def _literal(values: Sequence[Text], cases: Sequence[Case], members: Mapping[int, Piece]) -> Any:
    """The text itself, where it is the same for all; None where the inputs have to bring it."""
    first = values[0]
    if any(value != first for value in values):
        return None
    texts = [first] if isinstance(first, str) else first
    try:
        used = {name for text in texts for name in variables_of(translated(text))}
    except TemplateInvalid:
        return None
    lacking = any(name not in cases[number].variables for number in members for name in used)
    if lacking:
        return None
    return translated(first) if isinstance(first, str) else [translated(text) for text in first]


def _filled(text: Text, case: Case, notes: Notes) -> Any:
    try:
        if isinstance(text, list):
            return [rendered(each, case.variables) if has_template(each) else each for each in text]
        return rendered(text, case.variables) if has_template(text) else text
    except TemplateInvalid as error:
        notes.take("left out", case.where, "an expected text", f"It cannot be filled in: {error.message}")
        return None


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "answer"


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken yet; it is now."""
    found, number = name[:60], 2
    while found in taken:
        found, number = f"{name[:60]}_{number}", number + 1
    taken.add(found)
    return found


def overall(specs: Sequence[Mapping[str, Any]], cases: Sequence[Case], notes: Notes) -> list[dict[str, Any]]:
    """The weighted mean of all scorers, where tests have thresholds or weights."""
    thresholds = {case.threshold for case in cases}
    weighted = any("weight" in spec for spec in specs)
    if thresholds == {None} and not weighted:
        return []
    parts = [dict(spec) for spec in specs if not asks_model(spec)]
    if not parts:
        return []
    if len(parts) < len(specs):
        notes.take("approximated", "tests", "the weighted score", "Scorers that ask a model are not part of it.")
    known = thresholds - {None}
    if len(known) > 1 or (known and None in thresholds):
        notes.take(
            "approximated",
            "tests",
            "thresholds that differ",
            "The weighted score is kept; compare it, or set at_least.",
        )
    name = "all" if "all" not in {spec.get("name") for spec in specs} else "weighted"
    spec: dict[str, Any] = {"name": name, "weighted": parts}
    threshold = next(iter(thresholds))
    if len(thresholds) == 1 and threshold is not None:
        spec["at_least"] = min(max(threshold, 0.0), 1.0)
    return [spec]
