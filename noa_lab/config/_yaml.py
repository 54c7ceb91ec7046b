"""YAML files with the line of every key, read safely and checked against a strict model.

The dialect is YAML 1.2's core schema on PyYAML's safe loader: `no`, `on` and `12:30` are texts, dates stay texts, keys are texts, a
key may appear once. That way an expected answer `yes` is not quietly a boolean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from noa_lab.config._strict import find_fault
from noa_lab.errors import BadInput, ConfigInvalid

__all__ = ["YamlDocument", "load_yaml", "parse_yaml", "validate_yaml"]

YamlPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_MAX_BYTES = 16 * 2**20
_MAX_NODES = 500_000
_MAX_DEPTH = 60


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed file that still knows where everything stood.

    Attributes:
        file: The file, for messages.
        data: Plain Python: dicts with text keys, lists, texts, numbers, booleans, None (an empty file).
        lines: Line (from 1) of each key and list item, by its path from the top, for example ("models", 0, "name").
        variables: Environment variable of each value that came from one instead of the file (`with_environment`).
    """

    file: Path
    data: Any
    lines: Mapping[YamlPath, int] = field(repr=False)
    variables: Mapping[YamlPath, str] = field(default_factory=dict, repr=False)

    def line(self, path: YamlPath) -> int:
        """Line of what stands at `path`, or of the innermost thing around it that the file has."""
        return self.lines.get(self._in_file(path), 1)

    def variable(self, path: YamlPath) -> str | None:
        """The environment variable that gave the value at `path`, or one around it; None where the file did."""
        return next(
            (self.variables[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.variables), None
        )

    def source(self, path: YamlPath) -> str:
        """Where the value at `path` stands, in words: "server.yaml, line 3", or the environment variable."""
        return self.variable(path) or f"{self.file}, line {self.line(path)}"

    def _in_file(self, path: YamlPath) -> YamlPath:
        """The parts of `path` that lead somewhere in the file: pydantic adds the names of union members to its paths."""
        found: YamlPath = ()
        here = self.data
        for part in path:
            is_key = isinstance(here, dict) and part in here
            is_index = isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here)
            if is_key or is_index:
                here = here[part]
                found = (*found, part)
        return found

    def invalid(self, message: str, *, fix: str, at: YamlPath = (), **fields: object) -> ConfigInvalid:
        """The error for something wrong in this file.

        Args:
            message: What is wrong, as a sentence; the file and the line, or the environment variable, are put before it.
            fix: What to do about it.
            at: Where it stands.
            fields: More facts for programs (`value`, `nearest`, ...).
        """
        variable = self.variable(at)
        line = 0 if variable else self.line(at)
        shown = self._in_file(at)
        shown = shown if not at or (shown and shown[-1] == at[-1]) else (*shown, at[-1])
        fields.setdefault("key", ".".join(str(part) for part in shown))
        file = "" if variable else str(self.file)
        if variable:
            fields["variable"] = variable
        return ConfigInvalid(f"{self.source(at)}: {message}", fix=fix, file=file, line=line, **fields)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the implicit types of YAML 1.2 only."""


_CORE_TYPES = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE_TYPES:
    _starts = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _starts)


def _construct_int(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    text = loader.construct_scalar(node)  # type: ignore[arg-type]
    if len(text) > 4000:
        raise yaml.constructor.ConstructorError(None, None, "a number of more than 4000 digits", node.start_mark)
    return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def load_yaml(path: Path) -> YamlDocument:
    """Read a YAML file.

    Args:
        path: The file; UTF-8, one document, at most 16 MiB.

    Raises:
        ConfigInvalid: When it cannot be read, is no YAML, or has a key twice, a key that is no text, or an object tag.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigInvalid(
            f"{path} cannot be read: {reason}.",
            fix="Check that the file exists and that you may read it.",
            file=str(path),
            line=0,
            key="",
            value=None,
        ) from None
    if size > _MAX_BYTES:
        message = f"{path} has {size:,} bytes; settings are at most {_MAX_BYTES:,}."
        raise ConfigInvalid(
            message, fix="Keep data in a CSV, JSONL or Parquet file.", file=str(path), line=0, key="", value=size
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"{path}, line {line}: the text is not UTF-8."
        raise ConfigInvalid(
            message, fix="Save the file as UTF-8.", file=str(path), line=line, key="", value=None
        ) from None
    return parse_yaml(text, path)


def parse_yaml(text: str, file: Path) -> YamlDocument:
    """Parse YAML text; `file` is what messages call it.

    Raises:
        ConfigInvalid: See `load_yaml`.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: dict[YamlPath, int] = {}
            if root is not None:
                _Walk(file, lines).visit(root, (), 0)
            data = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _syntax_error(error, file) from None
    except RecursionError:
        raise _refused(file, 1, "", "the nesting is too deep", "Use fewer levels.") from None
    return YamlDocument(file, data, lines)


class _Walk:
    """Collects the line of every key and item, and refuses what a settings file must not contain."""

    def __init__(self, file: Path, lines: dict[YamlPath, int]) -> None:
        self._file = file
        self._lines = lines
        self._visited = 0

    def visit(self, node: yaml.Node, path: YamlPath, depth: int) -> None:
        self._visited += 1
        line = node.start_mark.line + 1
        # Aliases make a small file expand without bound, or contain itself.
        if self._visited > _MAX_NODES or depth > _MAX_DEPTH:
            raise _refused(
                self._file, line, "", "it expands to too many or too deeply nested values", "Use fewer aliases."
            )
        self._lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index), depth + 1)

    def _visit_mapping(self, node: yaml.MappingNode, path: YamlPath, depth: int) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                self._visit_merged(value, path, depth)
                continue
            if key.tag != "tag:yaml.org,2002:str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _refused(
                    self._file, line, str(shown), f"the key {shown} is no text", f'Put it in quotes: "{shown}".'
                )
            name = str(key.value)
            if name in seen:
                reason = f"the key {name!r} is there twice (first in line {seen[name]})"
                raise _refused(self._file, line, name, reason, "Remove one of the two.")
            seen[name] = line
            self._lines[(*path, name)] = line
            self.visit(value, (*path, name), depth + 1)

    def _visit_merged(self, value: yaml.Node, path: YamlPath, depth: int) -> None:
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                for key, merged in source.value:
                    if isinstance(key, yaml.ScalarNode):
                        self._lines.setdefault((*path, str(key.value)), key.start_mark.line + 1)
                        self.visit(merged, (*path, str(key.value)), depth + 1)


def _refused(file: Path, line: int, key: str, reason: str, fix: str) -> ConfigInvalid:
    return ConfigInvalid(f"{file}, line {line}: {reason}.", fix=fix, file=str(file), line=line, key=key, value=None)


def _syntax_error(error: yaml.YAMLError, file: Path) -> ConfigInvalid:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return _refused(
        file,
        line,
        "",
        f"this is not valid YAML here: {problem}",
        "Check the indentation, colons and quotes of this line.",
    )


def validate_yaml(kind: type[Model], document: YamlDocument, at: YamlPath = ()) -> Model:
    """Make a strict model of a part of a document.

    Args:
        kind: A `StrictModel` subclass; its nested models are checked as deeply as they go.
        document: The file.
        at: Path of the mapping in it; () is the whole file.

    Returns:
        The model.

    Raises:
        ConfigInvalid: With file, line, key (dotted, from the top of the file), value, and nearest known key or None.
    """
    data = document.data
    for part in at:
        data = data[part]
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        fields = ", ".join(kind.model_fields)
        raise document.invalid(
            f"keys and values are needed here, found {found}.", fix=f"Give some of: {fields}.", at=at, value=data
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fault = find_fault(error, kind)
    except BadInput as error:
        inner = error.fields.get("path", ())
        path = tuple(inner) if isinstance(inner, tuple) else ()
        near = error.fields.get("nearest")
        raise document.invalid(
            error.message, fix=error.fix, at=(*at, *path), value=error.fields.get("value"), nearest=near
        ) from None
    raise document.invalid(
        fault.message, fix=fault.fix, at=(*at, *fault.path), value=fault.value, nearest=fault.nearest
    )
