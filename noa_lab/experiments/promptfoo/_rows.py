"""The inputs of a comparison, from test cases, and prompts that fit them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noa_lab.experiments.promptfoo._nunjucks import RESERVED, variables_of
from noa_lab.experiments.promptfoo._source import Source
from noa_lab.experiments.promptfoo._tests import Case

__all__ = ["input_names", "input_row", "with_affixes"]


def with_affixes(prompts: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """The prompts with the tests' prefixes and suffixes, as variables, around them."""
    before = "{{ promptfoo_prefix }}" if any(case.prefix for case in cases) else ""
    after = "{{ promptfoo_suffix }}" if any(case.suffix for case in cases) else ""
    if not before and not after:
        return dict(prompts)
    found: dict[str, Any] = {}
    for name, prompt in prompts.items():
        if isinstance(prompt, str):
            found[name] = f"{before}{prompt}{after}"
            continue
        messages = [dict(message) for message in prompt["messages"]]
        last = next((m for m in reversed(messages) if m["role"] == "user"), messages[-1])
        last["content"] = f"{before}{last['content']}{after}"
        found[name] = {"messages": messages}
    return found


def input_names(cases: Sequence[Case]) -> list[str]:
    """A name for each input: its description, or its number."""
    found: list[str] = []
    taken: set[str] = set()
    for number, case in enumerate(cases, 1):
        base = " ".join(case.description.split())[:80] or str(number)
        name, count = base, 2
        while name in taken:
            name, count = f"{base} ({count})", count + 1
        taken.add(name)
        found.append(name)
    return found


def input_row(name: str, case: Case, prompts: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """An input: the test's variables, under names of ours, and what the prompts need beside them."""
    row: dict[str, Any] = {"id": name}
    row |= {RESERVED.get(name, name): value for name, value in case.variables.items() if value is not None}
    row = {name: value for name, value in row.items() if not name.startswith("__")}
    if case.metadata:
        row["tags"] = [f"{key}: {value}" for key, value in case.metadata.items()]
    texts = [text for prompt in prompts.values() for text in _texts(prompt)]
    used = {name for text in texts for name in variables_of(text)}
    row |= {
        name: value
        for name, value in (("promptfoo_prefix", case.prefix), ("promptfoo_suffix", case.suffix))
        if name in used
    }
    if "env" in used:
        row["env"] = _env(texts, source)
        used.discard("env")
    if "_conversation" in used:
        source.notes.take(
            "left out", "prompts", "_conversation", "Answers cannot become part of later questions; it is empty."
        )
    missing = sorted(used - set(row))
    if missing:
        source.notes.take(
            "approximated", case.where, f"variables that a test lacks: {', '.join(missing)}", "They are empty texts."
        )
    return row | dict.fromkeys(missing, "")


def _texts(prompt: Any) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt["messages"]]


def _env(texts: Iterable[str], source: Source) -> dict[str, str]:
    given = source.data.get("env")
    known = {str(key): str(value) for key, value in given.items()} if isinstance(given, Mapping) else {}
    names = {name for text in texts for name in re.findall(r"\benv\.(\w+)", text)}
    for name in sorted(names - set(known)):
        source.notes.take(
            "left out", "env", f"env.{name}", "The environment is not read; it is empty. Write its value into the file."
        )
    return {name: known.get(name, "") for name in sorted(names)}
