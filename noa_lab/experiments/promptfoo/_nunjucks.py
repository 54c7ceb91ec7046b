"""Nunjucks, promptfoo's template language, as Jinja2: the two are nearly the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from noa_lab.errors import TemplateInvalid
from noa_lab.experiments.grid._templates import Template

__all__ = ["RESERVED", "compose", "has_template", "rendered", "translated", "variables_of"]

RESERVED = {
    "id": "promptfoo_id",
    "cluster": "promptfoo_cluster",
    "tags": "promptfoo_tags",
    "finish_reason": "promptfoo_reason",
    "completion_tokens": "promptfoo_tokens",
}
"""Variables whose names mean something else in our inputs, and what they are called instead."""

_TAG = re.compile(r"(\{\{.*?\}\}|\{%.*?%\})", re.DOTALL)
_STRING = re.compile(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")


def has_template(text: object) -> bool:
    """Whether a value is a text with a template in it."""
    return isinstance(text, str) and ("{{" in text or "{%" in text)


def translated(text: str) -> str:
    """The template in our dialect, its reserved variables under their other names."""
    return "".join(_tag(part) if _TAG.fullmatch(part) else part for part in _TAG.split(text))


def _tag(tag: str) -> str:
    # Strings inside a tag stay as they are.
    return "".join(part if _STRING.fullmatch(part) else _code(part) for part in _STRING.split(tag))


def _code(code: str) -> str:
    code = code.replace("!==", "!=").replace("===", "==")
    code = re.sub(r"\|\s*dump\b", "| tojson", code)
    code = re.sub(r"\|\s*safe\b", "", code)
    code = re.sub(r"\.length\b(?!\s*\()", " | length", code)
    code = re.sub(r"&&", " and ", code)
    code = re.sub(r"(?<!\|)\|\|(?!\|)", " or ", code)
    for name, other in RESERVED.items():
        code = re.sub(rf"(?<![\w.|])(?<!\|\s){name}\b(?!\s*=(?!=))", other, code)
    return code


def variables_of(text: str) -> frozenset[str]:
    """The variables that a template (in our dialect) uses.

    Raises:
        TemplateInvalid: When it cannot be parsed.
    """
    return Template(text).variables


def rendered(text: str, variables: Mapping[str, Any]) -> str:
    """A nunjucks template filled in; a missing variable is empty, as nunjucks has it.

    Raises:
        TemplateInvalid: When it cannot be parsed or filled in.
    """
    template = Template(translated(text))
    known = {RESERVED.get(name, name): value for name, value in variables.items()}
    return template.render({**dict.fromkeys(template.variables, ""), **known})


def compose(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables whose texts refer to other variables, filled in; what cannot be filled in stays as it is."""
    found = dict(variables)
    for _ in range(3):
        before = dict(found)
        for name, value in before.items():
            if has_template(value):
                try:
                    found[name] = rendered(value, {key: each for key, each in before.items() if key != name})
                except TemplateInvalid:
                    continue
        if found == before:
            break
    return found
