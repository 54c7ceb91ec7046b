"""Manifests of Python projects: pyproject.toml, requirements files, setup.cfg, setup.py, Pipfile, conda environments."""

from __future__ import annotations

import ast
import configparser
import tomllib
import warnings
from typing import Any

from noa_lab.agents._manifest_facts import ManifestFacts, table, text_of

__all__ = ["conda", "pipfile", "pyproject", "requirements", "setup_cfg", "setup_py"]


def pyproject(text: str, facts: ManifestFacts) -> None:
    """`[project]`, dependency groups, and Poetry's own tables."""
    data = tomllib.loads(text)
    project, poetry = table(data, "project"), table(data, "tool", "poetry")
    for source in (project, poetry):
        facts.name = facts.name or text_of(source.get("name"))
        facts.description = facts.description or text_of(source.get("description"))
        licence = source.get("license")
        facts.licence = facts.licence or text_of(licence) or text_of(table(source, "license").get("text"))
    facts.needs(project.get("dependencies"), "python")
    for group, wanted in table(project, "optional-dependencies").items():
        facts.needs(wanted, "python", group)
    for group, wanted in table(data, "dependency-groups").items():
        facts.needs(wanted, "python", group)
    facts.needs({name: wanted for name, wanted in table(poetry, "dependencies").items() if name != "python"}, "python")
    for group, content in table(poetry, "group").items():
        facts.needs(table(content, "dependencies"), "python", group)
    for scripts in (project.get("scripts"), project.get("gui-scripts"), poetry.get("scripts")):
        facts.starts("command", scripts)


def requirements(text: str, facts: ManifestFacts) -> None:
    """Pip's requirements format: options, hashes and comments are passed over; `-r` is not followed."""
    lines = text.replace("\\\n", " ").splitlines()
    wanted = [line.split(" #")[0].split(" --")[0] for line in lines]
    group = facts.path.rpartition("/")[2].rpartition(".")[0].removeprefix("requirements").strip("-_.") or "main"
    facts.needs([line for line in wanted if not line.lstrip().startswith(("-", "#"))], "python", group)


def setup_cfg(text: str, facts: ManifestFacts) -> None:
    """Setuptools' declarative form."""
    parser = configparser.RawConfigParser()
    parser.read_string(text)

    def get(section: str, key: str) -> str:
        return parser.get(section, key, fallback="").strip()

    facts.name, facts.description, facts.licence = (get("metadata", key) for key in ("name", "description", "license"))
    facts.needs(get("options", "install_requires").splitlines(), "python")
    if parser.has_section("options.extras_require"):
        for group, wanted in parser.items("options.extras_require"):
            facts.needs(wanted.splitlines(), "python", group)
    for key, kind in (("console_scripts", "command"), ("gui_scripts", "command")):
        facts.starts(kind, _pairs(get("options.entry_points", key).splitlines()))


def setup_py(text: str, facts: ManifestFacts) -> None:
    """The literal arguments of `setup(...)`; the file is parsed, never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, MemoryError) as error:
            raise ValueError(str(error)) from None
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _called(call.func) == "setup":
            given = {word.arg: _literal(word.value) for word in call.keywords if word.arg}
            facts.name, facts.description = text_of(given.get("name")), text_of(given.get("description"))
            facts.licence = text_of(given.get("license"))
            facts.needs(given.get("install_requires"), "python")
            for group, wanted in table(given, "extras_require").items():
                facts.needs(wanted, "python", str(group))
            lines = table(given, "entry_points").get("console_scripts")
            facts.starts("command", _pairs(lines if isinstance(lines, list) else []))


def pipfile(text: str, facts: ManifestFacts) -> None:
    """Pipenv's two sections."""
    data = tomllib.loads(text)
    facts.needs(data.get("packages"), "python")
    facts.needs(data.get("dev-packages"), "python", "dev")


def conda(text: str, facts: ManifestFacts) -> None:
    """A conda environment file, with its pip part; its name is the environment's, not the project's."""
    import yaml

    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    listed = table({"": data}, "").get("dependencies")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, str):
            facts.needs([entry.rpartition("::")[2]], "conda")
        elif isinstance(entry, dict):
            facts.needs(entry.get("pip"), "python")


def _pairs(lines: list[Any]) -> dict[str, str]:
    split = [line.partition("=") for line in lines if isinstance(line, str)]
    return {name.strip(): target.strip() for name, equals, target in split if equals}


def _called(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None
