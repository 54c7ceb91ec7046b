"""Test cases in CSV, and assertions in one line: `contains: Paris`, `similar(0.8): Hello`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from noa_lab.experiments.promptfoo._notes import Notes

__all__ = ["assertion_in_line", "cases_in_csv"]

_LINE = re.compile(
    r"(?P<type>(?:not-)?[a-z][a-z0-9:-]*?)(?:\((?P<threshold>[\d.]+)\))?(?::\s*(?P<value>.*))?", re.DOTALL
)
_OTHER_NAMES = {"grade": "llm-rubric", "fn": "javascript", "eval": "javascript"}
_KNOWN = re.compile(
    r"(?:not-)?(?:equals|i?contains(?:-any|-all)?|contains-(?:json|html|sql|xml)|is-(?:json|html|sql|xml|refusal|valid-[a-z-]+)|regex|starts-"
    r"with|javascript|python|ruby|webhook|rouge-n|bleu|gleu|meteor|levenshtein|latency|cost|perplexity(?:-score)?|similar(?::\w+)?|"
    r"classifier|moderation|llm-rubric|g-eval|answer-relevance|context-[a-z]+|conversation-relevance|factuality|model-graded-[a-z]+|pi|"
    r"select-best|max-score|word-count|finish-reason|guardrails)"
)


def assertion_in_line(line: str) -> dict[str, Any]:
    """The assertion that a line stands for; without a known type before a colon it is `equals`."""
    text = line.strip()
    match = _LINE.fullmatch(text)
    kind = _OTHER_NAMES.get(match["type"], match["type"]) if match else ""
    if match is None or not _KNOWN.fullmatch(kind):
        return {"type": "equals", "value": text}
    found: dict[str, Any] = {"type": kind}
    if match["threshold"]:
        found["threshold"] = float(match["threshold"])
    if match["value"] is not None:
        value = match["value"].strip()
        several = kind.endswith(("-any", "-all"))
        found["value"] = next(csv.reader([value], skipinitialspace=True), []) if several else value
    return found


def cases_in_csv(text: str, where: str, notes: Notes) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The test in each row, as YAML would have it, and its place."""
    for number, row in enumerate(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))), 2):
        yield _test(row, notes, place := f"{where}, line {number}"), place


def _test(row: Mapping[str | None, Any], notes: Notes, where: str) -> dict[str, Any]:
    test: dict[str, Any] = {"vars": {}, "assert": [], "options": {}, "metadata": {}}
    for column, value in row.items():
        if column is None or value is None:
            continue
        name = column.strip()
        if re.fullmatch(r"__expected\d*", name):
            if value.strip():
                test["assert"].append(assertion_in_line(value))
        elif name in {"__prefix", "__suffix"}:
            test["options"][name[2:]] = value
        elif name == "__description":
            test["description"] = value
        elif name == "__threshold":
            test["threshold"] = _number(value)
        elif name.startswith("__metadata:"):
            key = name.removeprefix("__metadata:")
            test["metadata"][key.removesuffix("[]")] = value.split(",") if key.endswith("[]") else value
        elif name == "__metric":
            test["metric"] = value
        elif name.startswith("__"):
            notes.take("left out", where, name, "Settings of single assertions are not read from CSV.")
        else:
            test["vars"][name] = value
    if test.get("metric"):
        test["assert"] = [{**each, "metric": test["metric"]} for each in test["assert"]]
    return test


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
