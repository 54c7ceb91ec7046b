"""Scorers as files spell them: `{contains: "{{ expected }}"}`, `{name: short, max_words: 30}`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments import score
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.statistics._compare import ScoreFacts

__all__ = ["declared_range", "score_facts", "scorer_from_spec"]

_TEXT: dict[str, Callable[..., Scorer]] = {
    "contains": score.contains,
    "equals": score.equals,
    "regex": score.regex,
    "starts_with": score.starts_with,
}
_NUMBER: dict[str, Callable[..., Scorer]] = {
    "max_characters": score.max_characters,
    "max_words": score.max_words,
    "min_characters": score.min_characters,
    "min_words": score.min_words,
}
_KINDS = (*_TEXT, *_NUMBER, "icontains", "json_valid")
_OPTIONS = {
    "contains": ("ignore_case",),
    "equals": ("ignore_case",),
    "regex": ("ignore_case",),
    "starts_with": ("ignore_case",),
}


def declared_range(specs: Iterable[Mapping[str, Any]], name: str) -> tuple[float, float] | None:
    """The range that the scorer of this name (or column `score.<name>`) gave for its numbers, or None."""
    wanted = name.removeprefix("score.")
    found = next((spec for spec in specs if spec.get("name") == wanted and "low" in spec and "high" in spec), None)
    return None if found is None else (float(found["low"]), float(found["high"]))


def score_facts(specs: Iterable[Mapping[str, Any]]) -> dict[str, ScoreFacts]:
    """What verdicts should know of scorers, by name."""
    listed = list(specs)
    return {str(spec["name"]): ScoreFacts(bounds=declared_range(listed, str(spec["name"]))) for spec in listed}


def scorer_from_spec(spec: Mapping[str, Any]) -> Scorer:
    """The scorer that a mapping of plain data stands for.

    One key is the scorer (`contains`, `equals`, `starts_with`, `regex`, `icontains`, `json_valid`, `max_words`, `min_words`,
    `max_characters`, `min_characters`; with `not_` before it, its negation) and holds its argument; the others are `name`, `negate`,
    `ignore_case` (texts) and `required` (`json_valid`).

    Args:
        spec: For example `{"contains": "{{ expected }}"}` or `{"name": "short", "max_words": 30}`.

    Raises:
        UnknownName: For a key that there is not, with the nearest one.
        BadInput: For a value that is not allowed.
        TemplateInvalid: For a broken template.
    """
    if not isinstance(spec, Mapping) or not all(isinstance(key, str) for key in spec):
        fix = 'Write it as {contains: "{{ expected }}"}.'
        raise BadInput(f"{spec!r} is no scorer.", fix=fix, field="scorers", value=spec)
    key, kind = _find_kind(spec)
    options = {name: value for name, value in spec.items() if name != key}
    if key != kind:
        if "negate" in options:
            fix = f"Write either {key} or {kind} with negate."
            raise BadInput(f"{key} is negated already.", fix=fix, field="negate", value=options["negate"])
        options["negate"] = True
    allowed = ("name", "negate", *_OPTIONS.get(kind, ()), *(("required",) if kind == "json_valid" else ()))
    for name in options:
        if name not in allowed:
            raise UnknownName.among("key", name, allowed, where=f"the scorer {key}")
    if kind == "json_valid":
        return _json_valid(spec[key], options)
    maker = score.icontains if kind == "icontains" else (_TEXT | _NUMBER)[kind]
    return maker(spec[key], **options)


def _json_valid(wanted: object, options: dict[str, Any]) -> Scorer:
    if not isinstance(wanted, bool):
        fix = "Write json_valid: true, with `required: [keys]` beside it for required keys."
        raise BadInput(f"json_valid: {wanted!r} is not allowed.", fix=fix, field="json_valid", value=wanted)
    if not wanted:
        options = options | {"negate": not options.get("negate", False)}
    return score.json_valid(**options)


def _find_kind(spec: Mapping[str, Any]) -> tuple[str, str]:
    """The key that names the scorer, as written and without `not_`."""
    found = [(key, key.removeprefix("not_")) for key in spec if key.removeprefix("not_") in _KINDS]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        names = " and ".join(key for key, _ in found)
        raise BadInput(f"A scorer has {names}.", fix="Write one scorer for each.", field="scorers", value=dict(spec))
    if any(key.removeprefix("not_") == "function" for key in spec):
        raise BadInput(
            f"The scorer {spec.get('name', 'function')!r} is a Python function, which a file cannot carry.",
            fix="Give it in Python: lab.compare(grid, scorers=[lab.score.function(...)]).",
            field="scorers",
            value=dict(spec),
        )
    unknown = [key for key in spec if key not in {"name", "negate", "ignore_case", "required"}]
    if not unknown:
        fix = f"Add one of: {', '.join(sorted(_KINDS))}."
        raise BadInput(f"{dict(spec)!r} names no scorer.", fix=fix, field="scorers", value=dict(spec))
    raise UnknownName.among("scorer", unknown[0], _KINDS)
