"""A comparison file, so written that every reader takes texts for texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["as_yaml"]


_PLAIN = re.compile(r"[A-Za-z][\w .'-]*[\w.]|[A-Za-z]", re.ASCII)
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_NOT_IN_A_BLOCK = re.compile(r"[ \t]\n|\n$|^[ \n]|[^\x20-\x7e\n\u00a0-\ud7ff\ue000-\ufffd]")


class _Dumper(yaml.SafeDumper):
    """Writes every text that a reader could take for something else in quotes or as a block, and every value in full."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style: str | None = '"'
    if "\n" in text and not _NOT_IN_A_BLOCK.search(text):
        style = "|"
    elif _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def as_yaml(document: Mapping[str, Any]) -> str:
    """The YAML text of a comparison file."""
    text: str = yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
