"""What became of each part of a configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Kind", "Note", "Notes"]

Kind = Literal["approximated", "left out", "not trusted", "ignored"]
"""What happened to a part:

"approximated": it became something that is not quite the same.
"left out": noa_lab has nothing for it.
"not trusted": it is code, or another file, and is only used with `trust`.
"ignored": it says how promptfoo shall work, not what is compared.
"""


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a part that was not simply mapped.

    Attributes:
        kind: See `Kind`.
        where: Its place in the configuration, for example "tests[2].assert[0]".
        what: The part, in a few words.
        why: What became of it, and what to do.
    """

    kind: Kind
    where: str
    what: str
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}: {self.why}"


class Notes(list[Note]):
    """Notes as they are taken; the same thing in many places is noted once, with the first place."""

    def take(self, kind: Kind, where: str, what: str, why: str) -> None:
        """Take a note."""
        if not any((note.kind, note.what, note.why) == (kind, what, why) for note in self):
            self.append(Note(kind, where, what, why))
