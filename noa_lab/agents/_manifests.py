"""Manifests: what they say about a project's name, purpose, dependencies and entry points.

Only read, never executed: a `setup.py` is parsed, not run.
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable

from noa_lab.agents import _manifests_python as python
from noa_lab.agents._manifest_facts import ManifestFacts, table, text_of

__all__ = ["read_manifest"]

MAX_MANIFEST_CHARS = 1_000_000


def read_manifest(path: str, text: str) -> ManifestFacts | None:
    """What the manifest at `path` says, or None when the file is no manifest.

    A manifest that cannot be read gives empty facts with a `warning`.
    """
    reader = _reader(path)
    if reader is None:
        return None
    facts = ManifestFacts(path)
    if len(text) > MAX_MANIFEST_CHARS:
        facts.warning = f"{path} is too large to be read as a manifest."
        return facts
    try:
        reader(text, facts)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, configparser.Error) as error:
        facts.warning = f"{path} could not be read as a manifest ({type(error).__name__})."
    return facts


def _reader(path: str) -> Callable[[str, ManifestFacts], None] | None:
    folder, _, name = path.lower().rpartition("/")
    named = {
        "pyproject.toml": python.pyproject,
        "setup.cfg": python.setup_cfg,
        "setup.py": python.setup_py,
        "pipfile": python.pipfile,
        "environment.yml": python.conda,
        "environment.yaml": python.conda,
        "package.json": _package_json,
        "cargo.toml": _cargo,
        "go.mod": _go_mod,
        "gemfile": _gemfile,
        "composer.json": _composer,
    }
    if name in named:
        return named[name]
    if name.endswith((".txt", ".in")) and (
        name.startswith("requirements") or folder.rpartition("/")[2] == "requirements"
    ):
        return python.requirements
    if name in {"dockerfile", "containerfile"} or name.startswith("dockerfile."):
        return _dockerfile
    return None


def _package_json(text: str, facts: ManifestFacts) -> None:
    data = table({"": json.loads(text)}, "")
    facts.name, facts.description = text_of(data.get("name")), text_of(data.get("description"))
    facts.licence = text_of(data.get("license"))
    for section, group in (
        ("dependencies", "main"),
        ("devDependencies", "dev"),
        ("peerDependencies", "peer"),
        ("optionalDependencies", "optional"),
    ):
        facts.needs(data.get(section), "npm", group)
    facts.starts("command", data.get("bin"), name=facts.name)
    facts.starts("main", data.get("main"), name=facts.name)
    facts.starts("task", data.get("scripts"))


def _cargo(text: str, facts: ManifestFacts) -> None:
    data = tomllib.loads(text)
    package = table(data, "package")
    facts.name, facts.description = text_of(package.get("name")), text_of(package.get("description"))
    facts.licence = text_of(package.get("license"))
    facts.needs(data.get("dependencies"), "cargo")
    facts.needs(data.get("dev-dependencies"), "cargo", "dev")
    facts.needs(data.get("build-dependencies"), "cargo", "build")
    facts.needs(table(data, "workspace").get("dependencies"), "cargo", "workspace")
    binaries = data.get("bin")
    for binary in binaries if isinstance(binaries, list) else []:
        facts.starts("program", {text_of(binary.get("name")): text_of(binary.get("path"))})


def _go_mod(text: str, facts: ManifestFacts) -> None:
    inside = False
    for raw in text.splitlines():
        line, _, comment = raw.partition("//")
        words = line.split()
        if not words:
            continue
        if words[0] == "module" and len(words) > 1:
            facts.name = words[1]
        elif words[0] == "require" and words[1:] == ["("]:
            inside = True
        elif words[0] == ")":
            inside = False
        elif words[0] == "require" or inside:
            name, *version = words[1:] if words[0] == "require" else words
            facts.needs({name: " ".join(version)}, "go", "indirect" if "indirect" in comment else "main")


def _gemfile(text: str, facts: ManifestFacts) -> None:
    for match in re.finditer(
        r"""(?m)^[ \t]{0,20}gem[ \t(]{1,9}["']([\w.-]{1,100})["'](?:,[ \t]{0,9}["']([^"'\n]{1,60})["'])?""", text
    ):
        facts.needs({match[1]: match[2] or ""}, "ruby")


def _composer(text: str, facts: ManifestFacts) -> None:
    data = table({"": json.loads(text)}, "")
    facts.name, facts.description = text_of(data.get("name")), text_of(data.get("description"))
    facts.needs(data.get("require"), "php")
    facts.needs(data.get("require-dev"), "php", "dev")


def _dockerfile(text: str, facts: ManifestFacts) -> None:
    """The last ENTRYPOINT and the last CMD count, as in docker."""
    found: dict[str, str] = {}
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.upper() in {"ENTRYPOINT", "CMD"}:
            found[word.upper()] = " ".join(rest.split())
    facts.starts("container", found)
