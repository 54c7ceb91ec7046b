"""Environment variables over a YAML file: NOA_LAB_SERVER__PORT=9000 stands for `port` in the section `server`.

The rest of the name, split at each double underscore and in lower case, is the way to the value. In a list of named things, the way
leads over the number (from 0) or the name, with "_" for what a variable cannot hold: NOA_LAB_MODELS__LLAMA_3_2_3B__CONTEXT_SIZE.
Values are read as in YAML: 9000 is a number, true a truth value, [a, b] a list. An empty one counts as not set.

pydantic-settings reads such variables too, but neither into items of a list nor so that an error could name the variable.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from noa_lab.config._yaml import YamlDocument, YamlPath, parse_yaml
from noa_lab.errors import ConfigInvalid, nearest

__all__ = ["PREFIX", "with_environment"]

PREFIX = "NOA_LAB_"


def with_environment(document: YamlDocument, environment: Mapping[str, str], sections: Collection[str]) -> YamlDocument:
    """The document with the values that the environment gives; what is not in the file is added.

    Args:
        document: The file; one without content stands for an empty mapping.
        environment: The environment variables.
        sections: Names of the file's sections; a variable of our form that names another one is refused.

    Raises:
        ConfigInvalid: Naming the variable, when it leads nowhere or its value is no YAML.
    """
    data = copy.deepcopy(document.data) if document.data is not None else {}
    variables: dict[YamlPath, str] = {}
    for name in sorted(environment):
        way = _way(name)
        if way is None or not environment[name].strip():
            continue
        if way[0] not in sections:
            near = nearest(way[0], sections)
            fix = f"Did you mean {PREFIX}{near.upper()}__...?" if near else f"Sections: {', '.join(sections)}."
            raise _invalid(name, f"there is no section {way[0]!r}", fix, environment[name], near)
        path = _put(data, name, way, environment[name])
        variables[path] = name
    return replace(document, data=data, variables={**document.variables, **variables})


def _way(name: str) -> list[str] | None:
    """The parts of a variable's name, or None when it is not one of ours. The system may have put it in upper case (Windows)."""
    if not name.upper().startswith(PREFIX) or "__" not in name[len(PREFIX) :]:
        return None
    return name[len(PREFIX) :].lower().split("__")


def _put(data: Any, name: str, way: list[str], text: str) -> YamlPath:
    """Put a value into the data; returns the path where it is now."""
    path: YamlPath = ()
    here = data
    for position, part in enumerate(way):
        last = position == len(way) - 1
        if isinstance(here, list):
            key: str | int = _index(here, name, part, text)
        elif isinstance(here, dict):
            key = part
        else:
            place = ".".join(map(str, path))
            raise _invalid(name, f"{place} is a single value", "Name a section and a key of it.", text)
        path = (*path, key)
        if last:
            here[key] = _value(name, text)
        elif isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[key]
    return path


def _index(items: list[Any], name: str, part: str, text: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    found = [index for index, item in enumerate(items) if isinstance(item, dict) and _plain(item.get("name")) == part]
    if len(found) == 1:
        return found[0]
    known = [_plain(item.get("name")) for item in items if isinstance(item, dict)]
    near = nearest(part, known)
    reason = f"{part!r} names {len(found)} items" if found else f"there is no item {part!r}"
    fix = f"Did you mean {near.upper()}?" if near and not found else f"Use its number, from 0 to {len(items) - 1}."
    raise _invalid(name, reason, fix if items else "The list is empty.", text, near)


def _plain(name: object) -> str:
    """A name as a variable can hold it."""
    return re.sub(r"[^a-z0-9]", "_", str(name).lower())


def _value(name: str, text: str) -> Any:
    try:
        return parse_yaml(text, Path(name)).data
    except ConfigInvalid as error:
        raise _invalid(name, "the value is not valid YAML", 'Put it in quotes: "...".', text) from error


def _invalid(name: str, reason: str, fix: str, value: str, near: str | None = None) -> ConfigInvalid:
    return ConfigInvalid(
        f"{name}: {reason}.", fix=fix, file="", line=0, key="", value=value, nearest=near, variable=name
    )
