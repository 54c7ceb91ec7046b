"""The hash that a reference had when it was first fetched: where nobody vouches for a file, at least a change is noticed."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from noa_lab.errors import ChecksumMismatch
from noa_lab.paths import Home, write_atomic

__all__ = ["FirstSeen", "check_first_seen", "first_seen", "note_first_seen"]


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """What a reference led to when it was first fetched.

    Attributes:
        source: The reference.
        sha256: Hash of the model.
        size_bytes: Its size.
        version: What the source called this version (a commit); empty where it did not say.
        at: When, in seconds since the epoch.
    """

    source: str
    sha256: str
    size_bytes: int
    version: str
    at: float

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """The record in a file; None when there is none that can be read."""
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if isinstance(found.sha256, str) and isinstance(found.at, int | float) else None


def _file(source: str, home: Home) -> Path:
    return home.models / ".first_seen" / f"{hashlib.sha256(source.encode()).hexdigest()[:32]}.json"


def first_seen(source: str, home: Home) -> FirstSeen | None:
    """What a reference led to when it was first fetched; None before that."""
    return FirstSeen.read(_file(source, home))


def note_first_seen(source: str, sha256: str, size_bytes: int, version: str, home: Home) -> None:
    """Remember what a reference has led to, unless that was done before."""
    file = _file(source, home)
    if FirstSeen.read(file) is None:
        file.parent.mkdir(exist_ok=True)
        facts = FirstSeen(source, sha256, size_bytes, version, time.time())
        write_atomic(file, json.dumps(asdict(facts), indent=1) + "\n", locked=True)


def check_first_seen(source: str, sha256: str, home: Home) -> None:
    """See that a reference still leads to the same bytes.

    Raises:
        ChecksumMismatch: When it does not; the fix says how to accept the change.
    """
    known = first_seen(source, home)
    if known is None or known.sha256 == sha256:
        return
    day = time.strftime("%Y-%m-%d", time.localtime(known.at))
    pinned = f" It was version {known.version}." if known.version else ""
    raise ChecksumMismatch(
        f"{source} is another file than on {day}: its sha256 is {sha256}, and was {known.sha256}.{pinned}",
        fix=f"If the change is meant, delete {_file(source, home)} and start again.",
        source=source,
        expected=known.sha256,
        found=sha256,
        reason="it has changed since it was first seen",
        kind="changed since first seen",
    )
