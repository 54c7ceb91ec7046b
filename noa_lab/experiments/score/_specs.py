"""Scorers as files spell them: `{contains: "{{ expected }}"}`, `{name: short, max_words: 30}`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments import score
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.statistics._compare import ScoreFacts
from noa_lab.experiments.statistics._judged import MAX_FLIPS

__all__ = [
    "COMBINED",
    "COMMON",
    "FLAGS",
    "KINDS",
    "MODEL_KINDS",
    "asks_model",
    "call_of_spec",
    "declared_range",
    "kind_of_spec",
    "score_facts",
    "scorer_from_spec",
]

FLAGS = (
    "contains_html",
    "contains_json",
    "contains_xml",
    "html_valid",
    "json_valid",
    "perplexity",
    "refusal",
    "xml_valid",
)
"""Kinds without an argument: files write `true`."""

COMBINED = ("all_of", "any_of", "weighted")
"""Kinds whose argument is a list of scorers."""

MODEL_KINDS = ("judge", "logprob", "perplexity", "rubric", "similar")
"""Kinds that ask a model, after the answers."""

COMMON = ("name", "negate", "weight", "when")
"""What every kind takes."""

KINDS: Mapping[str, Callable[..., Scorer]] = {
    name: getattr(score, name) for name in score.__all__ if name not in {"function", "not_contains"}
}
"""All kinds that files can hold."""


def declared_range(specs: Iterable[Mapping[str, Any]], name: str) -> tuple[float, float] | None:
    """The range that the scorer of this name (or column `score.<name>`) gave for its numbers, or None."""
    wanted = name.removeprefix("score.")
    found = next((spec for spec in specs if spec.get("name") == wanted and "low" in spec and "high" in spec), None)
    return None if found is None else (float(found["low"]), float(found["high"]))


def score_facts(specs: Iterable[Mapping[str, Any]]) -> dict[str, ScoreFacts]:
    """What verdicts should know of scorers, by name."""
    listed = list(specs)
    found = {}
    for spec in listed:
        name, flips = str(spec["name"]), float(spec.get("most_flips", MAX_FLIPS))
        found[name] = ScoreFacts(bounds=declared_range(listed, name), most_flips=flips)
    return found


def asks_model(spec: Mapping[str, Any]) -> bool:
    """Whether the scorer of a specification asks a model."""
    found = kind_of_spec(spec)
    return found is not None and found[1] in MODEL_KINDS


def kind_of_spec(spec: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key that names the scorer, as written and without `not_`; None where none or several do."""
    found = [key for key in spec if key in KINDS or (key.startswith("not_") and key.removeprefix("not_") in KINDS)]
    return (found[0], found[0].removeprefix("not_")) if len(found) == 1 else None


def call_of_spec(spec: Mapping[str, Any]) -> tuple[str, list[Any], dict[str, Any]]:
    """The call that makes the scorer of a specification: a function of `noa_lab.score`, its positional and its named arguments.

    Not for functions, which no specification holds; the parts of a combined scorer stay specifications.

    Raises:
        BadInput: When the specification names no scorer, or several.
    """
    options = dict(spec)
    key, kind = kind_of_spec(options) or _no_kind(options)
    argument = options.pop(key)
    if options.get("name") == key:
        del options["name"]
    if key != kind:
        options["negate"] = True
    return kind, [] if kind in FLAGS else [argument], options


def scorer_from_spec(spec: Mapping[str, Any]) -> Scorer:
    """The scorer that a mapping of plain data stands for.

    One key is the scorer (any of `KINDS`; with `not_` before it, its negation) and holds its argument, or `true` where it has none; the
    others are the arguments of the function of that name in `noa_lab.score`.

    Args:
        spec: For example `{"contains": "{{ expected }}"}` or `{"name": "short", "max_words": 30}`.

    Raises:
        UnknownName: For a key that there is not, with the nearest one.
        BadInput: For a value that is not allowed.
        TemplateInvalid: For a broken template.
    """
    if not isinstance(spec, Mapping) or not all(isinstance(key, str) for key in spec):
        fix = 'Write it as {contains: "{{ expected }}"}.'
        raise BadInput(f"{spec!r} is not a scorer.", fix=fix, field="scorers", value=spec)
    key, kind = kind_of_spec(spec) or _no_kind(spec)
    options = {name: value for name, value in spec.items() if name != key}
    if key != kind:
        if "negate" in options:
            fix = f"Write either {key} or {kind} with negate."
            raise BadInput(f"{key} is negated already.", fix=fix, field="negate", value=options["negate"])
        options["negate"] = True
    allowed = _options(kind)
    for name in options:
        if name not in allowed:
            raise UnknownName.among("key", name, allowed, where=f"the scorer {key}")
    if kind in FLAGS:
        return _flagged(kind, spec[key], options)
    if kind in COMBINED:
        return KINDS[kind](_parts(kind, spec[key]), **options)
    return KINDS[kind](spec[key], **options)


def _options(kind: str) -> list[str]:
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return list(dict.fromkeys([*COMMON, *(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)])) + (
        ["schema"] if kind == "contains_json" else []
    )


def _flagged(kind: str, wanted: object, options: dict[str, Any]) -> Scorer:
    if not isinstance(wanted, bool):
        fix = f"Write {kind}: true, with its arguments beside it."
        raise BadInput(f"{kind}: {wanted!r} is not allowed.", fix=fix, field=kind, value=wanted)
    if not wanted:
        options = options | {"negate": not options.get("negate", False)}
    return KINDS[kind](**options)


def _parts(kind: str, given: object) -> list[Scorer]:
    if not isinstance(given, list | tuple):
        raise BadInput(f"{kind}: {given!r} is not a list.", fix="Give a list of scorers.", field=kind, value=given)
    return [scorer_from_spec(each) for each in given]


def _no_kind(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Raise what is wrong with a mapping that names no scorer, or several."""
    found = [key for key in spec if key.removeprefix("not_") in KINDS]
    if len(found) > 1:
        names = " and ".join(found)
        raise BadInput(
            f"One scorer holds {names}.", fix="Write one scorer for each.", field="scorers", value=dict(spec)
        )
    if any(key.removeprefix("not_") == "function" for key in spec):
        raise BadInput(
            f"The scorer {spec.get('name', 'function')!r} is a Python function, which a file cannot carry.",
            fix="Give it in Python: lab.compare(grid, scorers=[lab.score.function(...)]).",
            field="scorers",
            value=dict(spec),
        )
    options = {option for kind in KINDS for option in _options(kind)}
    unknown = [key for key in spec if key not in options]
    if not unknown:
        fix = f"Add one of: {', '.join(sorted(KINDS))}."
        raise BadInput(f"{dict(spec)!r} names no scorer.", fix=fix, field="scorers", value=dict(spec))
    raise UnknownName.among("scorer", unknown[0], KINDS)
