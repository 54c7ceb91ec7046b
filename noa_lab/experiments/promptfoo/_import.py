"""A promptfoo configuration as a comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.config import parse_yaml
from noa_lab.errors import BadInput
from noa_lab.experiments._comparison_file import Comparison, comparison_from
from noa_lab.experiments.promptfoo._assertions import Piece, mapped
from noa_lab.experiments.promptfoo._notes import Note, Notes
from noa_lab.experiments.promptfoo._prompts import read_prompts
from noa_lab.experiments.promptfoo._providers import read_providers
from noa_lab.experiments.promptfoo._python import python_check
from noa_lab.experiments.promptfoo._rows import input_names, input_row, with_affixes
from noa_lab.experiments.promptfoo._scorers import Scoring, overall, scoring_of
from noa_lab.experiments.promptfoo._source import Source
from noa_lab.experiments.promptfoo._tests import Case, read_cases
from noa_lab.experiments.promptfoo._usable import usable_prompts, usable_specs
from noa_lab.experiments.promptfoo._writing import as_yaml
from noa_lab.experiments.score import function
from noa_lab.experiments.score._base import Scorer
from noa_lab.paths import write_atomic

__all__ = ["Imported", "import_promptfoo"]

_IGNORED = {
    "outputPath", "sharing", "writeLatestResults", "commandLineOptions", "tags", "tracing", "metadata", "verbose",
    "$schema",
}  # fmt: skip
_LEFT_OUT = {
    "redteam": "noa_lab attacks no models.",
    "extensions": "Hooks are code and are not run.",
    "nunjucksFilters": "Filters are code and are not run.",
    "derivedMetrics": "Score combinations are written as score.weighted.",
}
_READ = {
    "description",
    "prompts",
    "providers",
    "targets",
    "tests",
    "defaultTest",
    "scenarios",
    "evaluateOptions",
    "env",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """What a configuration became.

    Attributes:
        document: The comparison, as a comparison file holds it.
        comparison: The same, checked: its grid and scorers go to `lab.compare`.
        functions: Scorers that are Python functions of a trusted configuration; no file can hold them.
        notes: What was not simply mapped.
    """

    document: dict[str, Any]
    comparison: Comparison
    functions: tuple[Scorer, ...]
    notes: tuple[Note, ...]

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """All scorers."""
        return (*self.comparison.scorers, *self.functions)

    def yaml(self) -> str:
        """The comparison file."""
        return "# Imported from a promptfoo configuration.\n" + as_yaml(self.document)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the comparison file; it is replaced where it is there.

        Returns:
            Its absolute path.
        """
        target = Path(path).absolute()
        write_atomic(target, self.yaml())
        return target


def import_promptfoo(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    models: Iterable[str] = (),
    known_models: Iterable[str] = (),
) -> Imported:
    """Read a promptfoo configuration.

    Args:
        path: The configuration, YAML or JSON.
        trust: Whether other files that it names may be read, and its Python assertions be run. Programs and JavaScript are never run.
        models: Models to ask, in the place of the providers.
        known_models: Names of the catalogue: a provider with such a name becomes that model.

    Returns:
        The comparison, with notes on all that has no place in it.

    Raises:
        BadInput: When the file is no such configuration, or nothing of it can be used.
    """
    notes = Notes()
    source = Source(Path(path), trust=trust, notes=notes)
    for key, value in source.data.items():
        _top_level(key, value, notes)
    prompts = _some(read_prompts(source), path, source)
    cases = read_cases(source)
    found_models, sampling = read_providers(source, known_models)
    prompts = with_affixes(prompts, cases)
    names = input_names(cases)
    inputs = [input_row(name, case, prompts, source) for name, case in zip(names, cases, strict=True)]
    prompts = _some(usable_prompts(prompts, inputs, notes), path, source)
    pieces, functions = _pieces(cases, inputs, source)
    taken = {name for row in inputs for name in row} | {"id", "tags", "cluster"}
    scoring = scoring_of(cases, pieces, taken, notes)
    inputs = [row | extra for row, extra in zip(inputs, scoring.fields, strict=True)]
    scoring.specs = usable_specs(scoring.specs, inputs, notes)
    document = _document(source, Path(path), prompts, inputs, list(models) or found_models, sampling, scoring, cases)
    comparison = comparison_from(parse_yaml(as_yaml(document), Path(path).with_suffix(".imported.yaml")))
    return Imported(document, comparison, functions, tuple(notes))


def _some(prompts: dict[str, Any], path: str | os.PathLike[str], source: Source) -> dict[str, Any]:
    """The prompts, which there must be."""
    if not prompts:
        named = "; ".join(f"{note.what}: {note.why}" for note in source.notes if note.where.startswith("prompts"))
        files = any(note.kind == "not trusted" and note.where.startswith("prompts") for note in source.notes)
        raise BadInput(
            f"No prompt of {path} can be used. {named}".strip(),
            fix="If you know where it comes from, trust it: --trust (trust=True)."
            if files
            else "Write its prompts as texts.",
            field="prompts",
            value=source.data.get("prompts"),
        )
    return prompts


def _top_level(key: str, value: Any, notes: Notes) -> None:
    if key in _LEFT_OUT:
        notes.take("left out", key, key, _LEFT_OUT[key])
    elif key in _IGNORED:
        if key != "$schema":
            notes.take("ignored", key, key, "It says how promptfoo works.")
    elif key == "env":
        notes.take(
            "approximated", key, key, "Its values fill {{ env... }} in templates; the environment itself is never read."
        )
    elif key == "evaluateOptions" and isinstance(value, Mapping):
        for name in sorted(value.keys() - {"repeat"}):
            notes.take("ignored", key, f"evaluateOptions.{name}", "noa_lab plans for itself how to ask.")
    elif key not in _READ:
        notes.take("left out", key, key, "noa_lab does not know it.")


def _pieces(
    cases: Sequence[Case], inputs: list[dict[str, Any]], source: Source
) -> tuple[list[list[Piece]], tuple[Scorer, ...]]:
    """What the assertions became, case by case; and Python functions, where they are trusted."""
    pieces: list[list[Piece]] = []
    checks: dict[str, tuple[Mapping[str, Any], str, list[int]]] = {}
    for number, case in enumerate(cases):
        own: list[Piece] = []
        for assertion, where in case.asserts:
            if assertion.get("type") in {"python", "not-python"} and source.trust:
                key = json.dumps(assertion, sort_keys=True, default=str)
                checks.setdefault(key, (assertion, where, []))[2].append(number)
            else:
                own += mapped(assertion, where, source.notes)
        pieces.append(own)
    functions: list[Scorer] = []
    for count, (assertion, where, members) in enumerate(checks.values(), 1):
        check = python_check(assertion, where, source)
        if check is None:
            continue
        name = str(assertion.get("metric") or ("python" if count == 1 else f"python_{count}"))
        when = ""
        if len(members) < len(cases):
            when = f"use_python_{count}"
            for number in members:
                inputs[number][when] = True
        negate = str(assertion["type"]).startswith("not-")
        functions.append(
            function(check, name=name, when=when, negate=negate, weight=float(assertion.get("weight", 1.0)))
        )
    return pieces, tuple(functions)


def _document(
    source: Source,
    path: Path,
    prompts: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    sampling: Sequence[Mapping[str, Any]],
    scoring: Scoring,
    cases: Sequence[Case],
) -> dict[str, Any]:
    options = source.data.get("evaluateOptions")
    repeats = options.get("repeat", 1) if isinstance(options, Mapping) else 1
    found: dict[str, Any] = {"name": str(source.data.get("description") or path.stem), "prompts": dict(prompts)}
    if models:
        found["models"] = list(models)
    if sampling:
        found["sampling"] = [dict(each) for each in sampling]
    if isinstance(repeats, int) and not isinstance(repeats, bool) and repeats > 1:
        found["repeats"] = repeats
    scorers = scoring.specs + overall(scoring.specs, cases, source.notes)
    if scorers:
        found["scorers"] = scorers
    return found | {"inputs": [dict(row) for row in inputs]}
