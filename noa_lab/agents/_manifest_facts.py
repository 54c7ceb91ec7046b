"""What one manifest says, gathered from loosely typed tables without trusting their shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa_lab.agents._digest import Dependency, EntryPoint

__all__ = ["ManifestFacts", "table", "text_of"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


@dataclass(slots=True)
class ManifestFacts:
    """What one manifest says; empty where it says nothing."""

    path: str
    name: str = ""
    description: str = ""
    licence: str = ""
    dependencies: list[Dependency] = field(default_factory=list)
    entry_points: list[EntryPoint] = field(default_factory=list)
    warning: str = ""

    def needs(self, requirements: object, ecosystem: str, group: str = "main") -> None:
        """Take requirements: a list of strings, or names with what is wanted of each."""
        if isinstance(requirements, Mapping):
            for name, wanted in requirements.items():
                self._need(str(name), _wanted(wanted), ecosystem, group)
        elif isinstance(requirements, Iterable) and not isinstance(requirements, str):
            for line in requirements:
                found = _NAME.match(line.strip()) if isinstance(line, str) else None
                if found:
                    self._need(found[0].rstrip(".-_"), line.strip()[found.end() :].strip(), ecosystem, group)

    def _need(self, name: str, wanted: str, ecosystem: str, group: str) -> None:
        if name and len(self.dependencies) < 2000:
            entry = Dependency(
                name=name[:200], requirement=wanted[:200], group=group, ecosystem=ecosystem, manifest=self.path
            )
            if entry not in self.dependencies[-200:]:
                self.dependencies.append(entry)

    def starts(self, kind: str, commands: object, *, name: str = "") -> None:
        """Take entry points: names with their targets, or one target for `name`."""
        if isinstance(commands, str):
            commands = {name: commands}
        if isinstance(commands, Mapping):
            for key, target in list(commands.items())[:500]:
                shown_target = str(target.get("reference", "")) if isinstance(target, Mapping) else str(target)
                self.entry_points.append(
                    EntryPoint(name=str(key)[:200], kind=kind, target=shown_target[:300], path=self.path)
                )


def _wanted(value: object) -> str:
    if isinstance(value, str):
        return "" if value == "*" else value
    if isinstance(value, Mapping):
        for key in ("version", "git", "path", "url", "workspace"):
            if key in value:
                return str(value[key]) if key == "version" else f"{key}: {value[key]}"
    return ""


def text_of(value: object) -> str:
    """`value` when it is a string, stripped; otherwise empty."""
    return value.strip() if isinstance(value, str) else ""


def table(value: Any, *keys: str) -> dict[str, Any]:
    """The table under `keys`, or an empty one when there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
