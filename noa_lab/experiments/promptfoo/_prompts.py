"""promptfoo's prompts: texts, conversations, files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from noa_lab.errors import BadInput, TemplateInvalid
from noa_lab.experiments.grid._prompts import Prompt
from noa_lab.experiments.promptfoo._notes import Notes
from noa_lab.experiments.promptfoo._nunjucks import translated
from noa_lab.experiments.promptfoo._source import CODE, Source, is_file_reference

__all__ = ["read_prompts"]

_FILE = re.compile(
    r"(?:\./|\.\./|/)?[\w./*-]+\.(?:txt|md|j2|json|yaml|yml|csv|js|cjs|mjs|ts|py|sh|rb|pl)(?::\w+)?", re.ASCII
)
_REMOTE = re.compile(r"(langfuse|portkey|helicone|https?)://")
_ROLES = {"developer": "system", "human": "user", "ai": "assistant"}
_NAME = 60


def read_prompts(source: Source) -> dict[str, Any]:
    """The prompts by name: a text, or a mapping with messages, in our template language."""
    given = source.data.get("prompts", "{{prompt}}")
    found: dict[str, Any] = {}
    for number, (name, content, where) in enumerate(_listed(given, source), 1):
        made = _checked(content, where, source.notes)
        if made is not None:
            found[_unique(name or f"prompt {number}", found)] = made
    return found


def _listed(given: Any, source: Source) -> Iterator[tuple[str, Any, str]]:
    """Name (may be empty), content and place of each prompt."""
    if isinstance(given, Mapping):  # file -> name, an older way
        given = [{"id": file, "label": label} for file, label in given.items()]
    for number, each in enumerate(given if isinstance(given, list) else [given]):
        where = f"prompts[{number}]"
        if isinstance(each, Mapping) and "role" not in each:
            name, raw = str(each.get("label") or ""), each.get("raw", each.get("id", each.get("prompt")))
            for key in each.keys() & {"config", "function"}:
                source.notes.take("left out", where, f"{key} of a prompt", "Give sampling for the whole comparison.")
        else:
            name, raw = "", [each] if isinstance(each, Mapping) else each
        yield from _contents(name, raw, where, source)


def _contents(name: str, raw: Any, where: str, source: Source) -> Iterator[tuple[str, Any, str]]:
    if isinstance(raw, list):
        yield name, raw, where
        return
    text = str(raw if raw is not None else "").strip()
    if text.startswith("exec:") or _REMOTE.match(text):
        source.notes.take(
            "left out", where, text[:80], "Prompts that a program or a service makes are not fetched: write them down."
        )
        return
    if not (is_file_reference(text) or _FILE.fullmatch(text)):
        yield name, raw, where
        return
    plain = text.removeprefix("file://")
    if re.search(r"\.(js|cjs|mjs|ts|py|sh|bash|rb|pl)(:\w+)?$", plain):
        why = "Prompts that a program makes are not run: write down what it gives."
        source.notes.take("left out" if source.trust else "not trusted", where, text[:80], why)
        return
    for path in source.paths(plain, where):
        if path.suffix.lower() in CODE:
            continue
        content = source.text(path, where)
        if content is not None:
            yield from _from_file(name or path.stem, content, path.suffix.lower(), where)


def _from_file(name: str, content: str, ending: str, where: str) -> Iterator[tuple[str, Any, str]]:
    if ending == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(content)), 1):
            yield str(row.get("label") or f"{name} {number}"), row.get("prompt") or "", where
        return
    if ending in {".txt", ".j2"}:
        parts = re.split(r"(?m)^---\s*$", content)
        for number, part in enumerate(parts, 1):
            yield (name if len(parts) == 1 else f"{name} {number}"), part.strip(), where
        return
    yield name, content, where


def _checked(content: Any, where: str, notes: Notes) -> Any:
    """The prompt as our comparison files have it; None, with a note, where it cannot be used."""
    try:
        made = _made(content)
        Prompt.of(made)
    except (TemplateInvalid, BadInput, ValueError) as error:
        notes.take("left out", where, _short(content), f"It is no prompt of ours: {str(error).splitlines()[0]}")
        return None
    return made


def _made(content: Any) -> Any:
    turns = content if isinstance(content, list) else _conversation(str(content))
    if turns is None:
        text = translated(str(content).strip())
        if not text:
            raise ValueError("it is empty")
        return text
    messages = []
    for turn in turns:
        role = str(turn["role"])
        parts = turn["content"]
        if isinstance(parts, list):
            texts = [part["text"] for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
            if len(texts) != len(parts):
                raise ValueError("it has pictures or sounds")
            parts = "\n".join(texts)
        messages.append({"role": _ROLES.get(role, role), "content": translated(str(parts))})
    return messages[0]["content"] if len(messages) == 1 and messages[0]["role"] == "user" else {"messages": messages}


def _conversation(text: str) -> list[Any] | None:
    """The turns in a text that is a JSON or YAML list of them; None for an ordinary text."""
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            turns = json.loads(stripped)
        except ValueError:
            return None
    elif re.match(r"-\s*role:", stripped):
        import yaml

        try:
            turns = yaml.safe_load(stripped)
        except yaml.YAMLError:
            return None
    else:
        return None
    fits = (
        isinstance(turns, list)
        and turns
        and all(isinstance(t, Mapping) and {"role", "content"} <= set(t) for t in turns)
    )
    return turns if fits else None


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    name = " ".join(name.split())[:_NAME] or "prompt"
    number, found = 2, name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def _short(content: Any) -> str:
    text = " ".join(str(content).split())
    return text if len(text) <= _NAME else text[: _NAME - 1] + "…"
