"""The file of a cassette: lines of JSON, read whole, appended one by one."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noa_lab.errors import BadInput

__all__ = ["Tape", "key_of"]

FORMAT = "noa-lab-cassette"
VERSION = 1


def key_of(question: Mapping[str, Any]) -> str:
    """What a question is found by: the hash of everything that was asked."""
    canonical = json.dumps(question, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Tape:
    """The records of one file, in the order in which they were asked for.

    The same question asked several times has several records; they are played back in order. Used on one event loop.

    Args:
        path: The file; it need not exist yet.

    Raises:
        BadInput: When the file is no cassette, or a line of it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: dict[str, Any] | None = None
        self._records: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._played: defaultdict[str, int] = defaultdict(int)
        self._whole = True
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return sum(map(len, self._records.values()))

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        # A line that was being written when the process died has no end: it is left out, and overwritten by the next one.
        self._whole = not lines[-1]
        for number, line in enumerate(lines[:-1], 1):
            try:
                found = json.loads(line)
                if number == 1 and (found["format"], found["version"]) == (FORMAT, VERSION):
                    self.head = found
                elif number > 1:
                    self._records[found["key"]].append(found)
                else:
                    raise ValueError("it is no cassette of this version")
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"{self.path}, line {number}, is not as it was recorded: {error}.",
                    fix="Record the cassette again, or restore the file.",
                    field="path",
                    value=str(self.path),
                    line=number,
                ) from None

    def start(self, about: Mapping[str, Any]) -> None:
        """Write the first line of a new file."""
        self.head = {"format": FORMAT, "version": VERSION, **about}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append(self.head)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; it counts as played."""
        self._append(record)
        self._records[record["key"]].append(dict(record))
        self._played[record["key"]] += 1

    def next(self, key: str) -> dict[str, Any] | None:
        """The next record of a question; None when it was not asked that often."""
        played, records = self._played[key], self._records.get(key, [])
        if played >= len(records):
            return None
        self._played[key] += 1
        return records[played]

    def last(self, key: str) -> dict[str, Any]:
        """The last record of a question that has one."""
        return self._records[key][-1]

    def count(self, key: str) -> int:
        """How often a question was recorded."""
        return len(self._records.get(key, []))

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"
        with self.path.open("ab") as file:
            if not self._whole:
                kept = self.path.read_bytes().rfind(b"\n") + 1
                file.truncate(kept)
                self._whole = True
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
