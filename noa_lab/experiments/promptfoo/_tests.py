"""promptfoo's test cases: variables, what is asserted, and where both come from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa_lab.errors import BadInput
from noa_lab.experiments.promptfoo._csv import cases_in_csv
from noa_lab.experiments.promptfoo._nunjucks import compose
from noa_lab.experiments.promptfoo._source import Source, is_file_reference

__all__ = ["Case", "read_cases"]

_MOST = 100_000
_DATA = (".yaml", ".yml", ".json", ".jsonl")
_OPTIONS = {"prefix", "suffix", "disableDefaultAsserts", "disableVarExpansion", "runSerially"}
_LEFT_OUT = {
    "provider": "Every input is asked of every model.",
    "assertScoringFunction": "Scores are combined as weighted means.",
    "storeOutputAs": "Answers cannot become inputs of other questions.",
    "transform": "Answers are scored as they are.",
    "transformVars": "Variables are used as they are.",
    "postprocess": "Answers are scored as they are.",
    "rubricPrompt": "Graders are asked in noa_lab's words.",
}


@dataclass(slots=True)
class Case:
    """One input with what is asserted of its answers.

    Attributes:
        where: Its place in the configuration.
        variables: Values for the prompts' variables.
        asserts: Assertions as they are written, with their places.
        description: What it is called; may be empty.
        metadata: Further facts.
        prefix: Text before every prompt.
        suffix: Text after it.
        threshold: Least weighted score; None where nothing is said.
    """

    where: str
    variables: dict[str, Any]
    asserts: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    suffix: str = ""
    threshold: float | None = None


def read_cases(source: Source) -> list[Case]:
    """All test cases, with `defaultTest`, scenarios and lists of values worked in."""
    default = _default(source)
    written = list(_tests(source.data.get("tests"), "tests", source)) + list(_scenarios(source))
    found: list[Case] = []
    for test, where in written or [({}, "defaultTest")]:
        for case in _cases(test, default, where, source):
            found.append(case)
            if len(found) > _MOST:
                raise BadInput(
                    f"The configuration has more than {_MOST:,} test cases.",
                    fix="Split the configuration, and import its parts one by one.",
                    field="tests",
                    value=len(found),
                )
    return found


def _default(source: Source) -> Mapping[str, Any]:
    given: Any = source.data.get("defaultTest") or {}
    if is_file_reference(given):
        given = next((source.loaded(path, "defaultTest") for path in source.paths(given, "defaultTest")), {})
    return given if isinstance(given, Mapping) else {}


def _tests(given: Any, where: str, source: Source, depth: int = 0) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each test as it is written, and its place."""
    if given is None:
        return
    source.check_depth(depth, where)
    listed = given if isinstance(given, list) else [given]
    for number, each in enumerate(listed):
        place = f"{where}[{number}]" if isinstance(given, list) else where
        test = each["path"] if isinstance(each, Mapping) and "path" in each and "vars" not in each else each
        if isinstance(test, Mapping):
            yield test, place
        elif isinstance(test, str):
            yield from _from_files(test, place, source, depth)


def _from_files(reference: str, where: str, source: Source, depth: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    if "://" in reference and not is_file_reference(reference):
        source.notes.take(
            "left out", where, reference, "Tests are not fetched: save them as CSV or YAML beside the configuration."
        )
        return
    name = reference.removeprefix("file://")
    if any(name.split(":")[0].endswith(ending) for ending in (".py", ".js", ".ts", ".mjs", ".cjs")):
        source.notes.take(
            "left out", where, reference, "Tests that a program makes are not run: save what it gives as YAML or CSV."
        )
        return
    for path in source.paths(reference, where):
        ending = path.suffix.lower()
        if ending == ".csv":
            text = source.text(path, where)
            if text is not None:
                yield from cases_in_csv(text, f"{where} ({path.name})", source.notes)
        elif ending in _DATA:
            loaded = source.loaded(path, where)
            if loaded is not None:
                yield from _tests(loaded, f"{where} ({path.name})", source, depth + 1)
        else:
            source.notes.take("left out", where, path.name, "Tests are read from YAML, JSON, JSONL and CSV.")


def _scenarios(source: Source) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The tests of scenarios: each configuration of a scenario with each of its tests."""
    given = source.data.get("scenarios") or []
    scenarios: list[tuple[Any, str]] = []
    for number, each in enumerate(given if isinstance(given, list) else [given]):
        where = f"scenarios[{number}]"
        if is_file_reference(each):
            for path in source.paths(each, where):
                loaded = source.loaded(path, where)
                scenarios += [(one, where) for one in (loaded if isinstance(loaded, list) else [loaded])]
        else:
            scenarios.append((each, where))
    for scenario, where in scenarios:
        if not isinstance(scenario, Mapping):
            continue
        configs = [each for each, _ in _tests(scenario.get("config"), f"{where}.config", source)] or [{}]
        tests = list(_tests(scenario.get("tests"), f"{where}.tests", source)) or [({}, where)]
        for config, (test, place) in itertools.product(configs, tests):
            yield _over(test, config), place


def _over(test: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A test over what stands below it: mappings are merged, assertions put together, all else replaced."""
    found = {**base, **test}
    for name in ("vars", "options", "metadata"):
        below, above = base.get(name), test.get(name)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            found[name] = {**below, **above}
    keep = not (isinstance(found.get("options"), Mapping) and found["options"].get("disableDefaultAsserts"))
    found["assert"] = [*((base.get("assert") or []) if keep else []), *(test.get("assert") or [])]
    return found


def _cases(test: Mapping[str, Any], default: Mapping[str, Any], where: str, source: Source) -> Iterator[Case]:
    whole = _over(test, default)
    options = whole.get("options") if isinstance(whole.get("options"), Mapping) else {}
    assert isinstance(options, Mapping)
    for name, why in _LEFT_OUT.items():
        if name in whole or (name in options and name != "provider"):
            source.notes.take("left out", where, name, why)
    if "provider" in options:
        source.notes.take("left out", where, "options.provider", "Graders are named in the comparison file: model: ...")
    asserts = [
        (loaded, f"{where}.assert[{number}]")
        for number, each in enumerate(whole["assert"])
        if isinstance(each, Mapping) and (loaded := _loaded(each, f"{where}.assert[{number}]", source)) is not None
    ]
    threshold = whole.get("threshold")
    metadata = whole.get("metadata")
    variables = _variables(whole.get("vars"), where, source)
    for chosen in _product(variables, expand=not options.get("disableVarExpansion")):
        yield Case(
            where,
            compose(chosen),
            asserts,
            str(whole.get("description") or ""),
            dict(metadata) if isinstance(metadata, Mapping) else {},
            str(options.get("prefix") or ""),
            str(options.get("suffix") or ""),
            float(threshold) if isinstance(threshold, int | float) else None,
        )


def _loaded(assertion: Mapping[str, Any], where: str, source: Source) -> Mapping[str, Any] | None:
    """The assertion with a value from a file read; None, with a note, where that may not or cannot be."""
    inner = assertion.get("assert")
    if isinstance(inner, list):
        parts = [_loaded(each, where, source) for each in inner if isinstance(each, Mapping)]
        return {**assertion, "assert": [part for part in parts if part is not None]}
    value = assertion.get("value")
    if not is_file_reference(value) or str(assertion.get("type", "")).removeprefix("not-") in {
        "python",
        "javascript",
        "ruby",
    }:
        return assertion
    if str(value).rsplit(".", 1)[-1].split(":")[0] in {"py", "js", "cjs", "mjs", "ts"}:
        source.notes.take(
            "left out" if source.trust else "not trusted", where, str(value), "Values that a program gives are not run."
        )
        return None
    found = _from_file(str(value), where, source)
    return {**assertion, "value": found} if found != "" else None


def _variables(given: Any, where: str, source: Source) -> dict[str, Any]:
    if isinstance(given, str):
        loaded = [source.loaded(path, f"{where}.vars") for path in source.paths(given, f"{where}.vars")]
        given = {key: value for each in loaded if isinstance(each, Mapping) for key, value in each.items()}
    found: dict[str, Any] = {}
    for name, value in (given or {}).items() if isinstance(given or {}, Mapping) else ():
        found[str(name)] = _value(value, f"{where}.vars.{name}", source)
    return found


def _value(value: Any, where: str, source: Source) -> Any:
    if isinstance(value, list):
        return [_from_file(each, where, source) if is_file_reference(each) else each for each in value]
    return _from_file(value, where, source) if is_file_reference(value) else value


def _from_file(reference: str, where: str, source: Source) -> Any:
    """A variable's value from a file, or several from several; empty where it may not be read."""
    values = []
    for path in source.paths(reference, where):
        if path.suffix.lower() == ".py":
            source.notes.take("left out", where, reference, "Variables that a program makes are not run.")
        else:
            values.append(source.loaded(path, where) if path.suffix.lower() in _DATA else source.text(path, where))
    known = [value for value in values if value is not None]
    return known[0] if len(known) == 1 else known or ""


def _product(variables: dict[str, Any], *, expand: bool) -> Iterator[dict[str, Any]]:
    """Every combination of the variables that are lists."""
    lists = {name: value for name, value in variables.items() if isinstance(value, list) and value} if expand else {}
    for values in itertools.product(*lists.values()):
        yield {**variables, **dict(zip(lists, values, strict=True))}
