"""The configuration file itself, and the files that it refers to: those only where it is trusted."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noa_lab.config import load_yaml, parse_yaml
from noa_lab.errors import BadInput
from noa_lab.experiments.promptfoo._notes import Notes

__all__ = ["CODE", "Source", "is_file_reference"]

CODE = (".js", ".cjs", ".mjs", ".ts", ".cts", ".mts", ".rb", ".sh", ".bash", ".pl", ".exe", ".bat", ".ps1")
"""Endings of files that would have to be run, and never are."""

_MOST_BYTES = 16 * 2**20
_MOST_FILES = 1_000
_MOST_DEPTH = 20


def is_file_reference(value: object) -> bool:
    """Whether a value names another file."""
    return isinstance(value, str) and value.strip().startswith("file://")


class Source:
    """A configuration and its folder.

    Args:
        path: The configuration, YAML or JSON.
        trust: Whether other files may be read and Python in them be run.
        notes: Takes what was not used.

    Raises:
        BadInput: When the file is no mapping, or cannot be read.
    """

    def __init__(self, path: Path, *, trust: bool, notes: Notes) -> None:
        if path.suffix.lower() in {*CODE, ".py"}:
            raise BadInput(
                f"{path} is code, not a configuration.",
                fix="Give the YAML or JSON that it makes (`promptfoo eval --output` writes one), or rewrite it as YAML.",
                field="file",
                value=str(path),
            )
        self.folder, self.trust, self.notes = path.absolute().parent, trust, notes
        data = load_yaml(path).data
        if not isinstance(data, Mapping):
            raise BadInput(
                f"{path} is no promptfoo configuration.",
                fix="Give a file with prompts, providers and tests.",
                field="file",
                value=str(path),
            )
        self.data: dict[str, Any] = self._resolved(data, data, 0)

    def _resolved(self, value: Any, root: Mapping[str, Any], depth: int) -> Any:
        """The value with `$ref: '#/...'` replaced by what it refers to."""
        if depth > _MOST_DEPTH:
            raise BadInput(
                "A $ref refers to itself.", fix="Take out one $ref of the circle.", field="$ref", value="..."
            )
        if isinstance(value, list):
            return [self._resolved(each, root, depth) for each in value]
        if not isinstance(value, Mapping):
            return value
        target = value.get("$ref")
        if len(value) == 1 and isinstance(target, str) and target.startswith("#/"):
            found: Any = root
            for part in target[2:].split("/"):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is None:
                raise BadInput(
                    f"$ref {target!r} leads nowhere.",
                    fix="Correct its path, or take it out.",
                    field="$ref",
                    value=target,
                )
            return self._resolved(found, root, depth + 1)
        return {str(key): self._resolved(each, root, depth) for key, each in value.items()}

    def check_depth(self, depth: int, where: str) -> None:
        """Make sure that files which name files come to an end.

        Raises:
            BadInput: When they are nested too deeply.
        """
        if depth > _MOST_DEPTH:
            raise BadInput(
                f"{where[:80]}: files that name files are nested more than {_MOST_DEPTH} deep.",
                fix="Look for one that names itself.",
                field="file",
                value=where[:80],
            )

    def paths(self, reference: str, where: str) -> list[Path]:
        """The files that `file://...` means; none, with a note, where they may not be read."""
        name = reference.strip().removeprefix("file://")
        if not self.trust:
            self.notes.take("not trusted", where, reference, "Other files are only read with --trust (trust=True).")
            return []
        plain = name.split("#")[0]
        found = [Path(each) for each in sorted(glob.glob(str(self.folder / plain), recursive=True))]  # noqa: PTH207
        found = [inner for each in found for inner in (sorted(each.iterdir()) if each.is_dir() else [each])]
        files = [each for each in found if each.is_file()][:_MOST_FILES]
        if not files:
            self.notes.take("left out", where, reference, "There is no such file.")
        return files

    def text(self, path: Path, where: str) -> str | None:
        """The text of a file; None, with a note, where it is none."""
        if path.suffix.lower() in CODE:
            self.notes.take(
                "left out", where, path.name, "noa_lab runs no such programs: write down what it would give."
            )
            return None
        try:
            if path.stat().st_size > _MOST_BYTES:
                self.notes.take("left out", where, path.name, "The file is larger than 16 MiB.")
                return None
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            self.notes.take(
                "left out", where, path.name, "The file is no UTF-8 text; pictures and sounds cannot be inputs."
            )
        except OSError as error:
            self.notes.take("left out", where, path.name, f"The file cannot be read: {error.strerror}.")
        return None

    def loaded(self, path: Path, where: str) -> Any:
        """What a YAML, JSON or JSONL file holds; None, with a note, where it cannot be read."""
        text = self.text(path, where)
        if text is None:
            return None
        try:
            if path.suffix.lower() == ".jsonl":
                return [json.loads(line) for line in text.splitlines() if line.strip()]
            return json.loads(text) if path.suffix.lower() == ".json" else parse_yaml(text, path).data
        except (ValueError, RecursionError) as error:
            self.notes.take("left out", where, path.name, f"The file cannot be read: {str(error).splitlines()[0]}")
            return None
