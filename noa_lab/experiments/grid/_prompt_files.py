"""Prompts from files: YAML, Markdown with front matter, or a folder of both.

A YAML file holds prompts by name, written as in a comparison file. A Markdown file is one prompt, called as its file is:

    ---
    name: persona          # all of this is optional
    parent: plain
    ---
    # system
    You are an editor.

    # user
    {{ text }}

Headings that are exactly "# system", "# user" or "# assistant" begin a turn; a file without them is one user message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noa_lab.config import parse_yaml
from noa_lab.errors import BadInput, TemplateInvalid, nearest
from noa_lab.experiments.grid._prompts import Prompt

__all__ = ["load_prompts"]

_MARKDOWN = (".md", ".markdown")
_YAML = (".yaml", ".yml")
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_TURN = re.compile(r"^# (system|user|assistant)[ \t]*$", re.MULTILINE)
_KEYS = ("name", "parent", "note")
_LONGEST_FILE = 4_000_000


def load_prompts(path: Path | str) -> dict[str, Prompt]:
    """Read prompts.

    Args:
        path: A YAML or Markdown file (UTF-8), or a folder; of a folder its files are read, not its folders, in the order of their names.

    Returns:
        Prompts by name. Where a prompt names another one of the same call as its parent, it has that one's hash.

    Raises:
        BadInput: Naming the file, the field and what to do; also when two prompts have one name.
        TemplateInvalid: When a template cannot be parsed.
        ConfigInvalid: When YAML cannot be read, with the line.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in (*_MARKDOWN, *_YAML))
        if not files:
            raise BadInput(
                f"There are no prompts in {source}.",
                fix="Put Markdown or YAML files into it.",
                field="prompts",
                value=str(source),
            )
    else:
        files = [source]
    found: dict[str, tuple[Path, Any]] = {}
    for file in files:
        for name, written in _read(file).items():
            if name in found:
                raise BadInput(
                    f"{file} has a prompt called {name!r}, as has {found[name][0]}.",
                    fix="Rename one of them.",
                    field="prompts",
                    value=name,
                )
            found[name] = (file, written)
    return _with_parents({name: _prompt(file, name, written) for name, (file, written) in found.items()}, found)


def _prompt(file: Path, name: str, written: Any) -> Prompt:
    if isinstance(written, Mapping):
        written = {key: value for key, value in written.items() if key != "parent"}
    try:
        return Prompt.of(written, name)
    except TemplateInvalid as error:
        raise TemplateInvalid(
            f"{file}: {error.message}", fix=error.fix, **{**error.fields, "file": str(file)}
        ) from None
    except BadInput as error:
        raise BadInput(f"{file}: {error.message}", fix=error.fix, **{**error.fields, "file": str(file)}) from None


def _with_parents(prompts: dict[str, Prompt], found: Mapping[str, tuple[Path, Any]]) -> dict[str, Prompt]:
    linked = {}
    for name, prompt in prompts.items():
        file, written = found[name]
        parent = written.get("parent") if isinstance(written, Mapping) else None
        if parent is not None and (not isinstance(parent, str) or parent not in prompts or parent == name):
            near = nearest(str(parent), [each for each in prompts if each != name])
            raise BadInput(
                f"{file}: the prompt {name!r} names {parent!r} as its parent, and there is no such prompt.",
                fix=f"Did you mean {near!r}?" if near else "Name another prompt of the same files.",
                field="parent",
                value=parent,
            )
        linked[name] = prompt if parent is None else prompt.with_parent(prompts[parent].hash)
    return linked


def _read(file: Path) -> dict[str, Any]:
    """What is written in a file, by the prompts' names."""
    suffix = file.suffix.lower()
    if suffix not in (*_MARKDOWN, *_YAML):
        raise BadInput(
            f"Prompts cannot be read from {file}: the suffix {suffix!r} is not known.",
            fix=f"Use one of {', '.join((*_YAML, *_MARKDOWN))}, or a folder.",
            field="prompts",
            value=str(file),
        )
    text = _text(file)
    if suffix in _MARKDOWN:
        return _markdown(file, text)
    data = parse_yaml(text, file).data
    if not isinstance(data, Mapping) or not data:
        raise BadInput(
            f"{file} holds no prompts by name.",
            fix='Write `plain: "Summarise: {{ text }}"`, one a name.',
            field="prompts",
            value=str(file),
        )
    return {str(name): written for name, written in data.items()}


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        if len(raw) > _LONGEST_FILE:
            raise BadInput(
                f"{file} has {len(raw):,} bytes; files with prompts have at most {_LONGEST_FILE:,}.",
                fix="Move long texts into the inputs.",
                field="prompts",
                value=str(file),
            )
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{file} is not UTF-8 (byte {error.start}).", fix="Save it as UTF-8.", field="prompts", value=str(file)
        ) from None
    except OSError as error:
        raise BadInput(
            f"{file} cannot be read: {error.strerror}.",
            fix="Check that the file exists and that you may read it.",
            field="prompts",
            value=str(file),
        ) from None


def _markdown(file: Path, text: str) -> dict[str, Any]:
    front: dict[str, Any] = {}
    match = _FRONT.match(text)
    if match:
        data = parse_yaml(match[1], file).data
        front = dict(data) if isinstance(data, Mapping) else {}
        text = text[match.end() :]
    for key in front:
        if key not in _KEYS:
            near = nearest(str(key), _KEYS)
            raise BadInput(
                f"{file}: the front matter has the key {key!r}.",
                fix=f"Did you mean {near!r}?" if near else f"Known: {', '.join(_KEYS)}.",
                field=str(key),
                value=front[key],
            )
    name = str(front.get("name") or file.stem)
    parent = {"parent": front["parent"]} if "parent" in front else {}
    turns = list(_TURN.finditer(text))
    if not turns:
        return {name: {"user": text.strip(), **parent}}
    if text[: turns[0].start()].strip():
        raise BadInput(
            f"{file} has text before its first turn.",
            fix=f'Put it below a heading such as "# user", or remove the heading {turns[0][0]!r}.',
            field="prompts",
            value=text[: turns[0].start()].strip()[:80],
        )
    ends = [*(turn.start() for turn in turns[1:]), len(text)]
    messages = [
        {"role": turn[1], "content": text[turn.end() : end].strip()} for turn, end in zip(turns, ends, strict=True)
    ]
    return {name: {"messages": messages, **parent}}
