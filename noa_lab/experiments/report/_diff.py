"""Two answers, word by word: what one has and the other has not."""

from __future__ import annotations

import re

from noa_lab.experiments.report._text import clean, esc

__all__ = ["word_diff"]

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
_MOST_PIECES = 3_000
_KEPT = 12
"""Words kept on each side of a change; longer equal parts are shortened."""


def word_diff(old: str, new: str) -> str:
    """The new text as HTML, with what was added in `<ins>` and what went in `<del>`; empty where the texts are equal or too long.

    Args:
        old: One text.
        new: The other.
    """
    from rapidfuzz.distance import Indel

    before, after = _PIECE.findall(clean(old).strip()), _PIECE.findall(clean(new).strip())
    if before == after or max(len(before), len(after)) > _MOST_PIECES:
        return ""
    parts: list[str] = []
    gone, come = "", ""
    operations = list(Indel.opcodes(before, after))
    for number, step in enumerate(operations):
        if step.tag != "equal":
            gone += "".join(before[step.src_start : step.src_end])
            come += "".join(after[step.dest_start : step.dest_end])
            continue
        kept = after[step.dest_start : step.dest_end]
        parts.append(_change(gone, come))
        parts.append(esc(_shortened(kept, first=number == 0, last=number == len(operations) - 1)))
        gone, come = "", ""
    return "".join([*parts, _change(gone, come)])


def _change(gone: str, come: str) -> str:
    return (f"<del>{esc(gone)}</del>" if gone else "") + (f"<ins>{esc(come)}</ins>" if come else "")


def _shortened(pieces: list[str], *, first: bool, last: bool) -> str:
    before = 0 if first else 2 * _KEPT
    after = 0 if last else 2 * _KEPT
    if len(pieces) <= before + after + 2 * _KEPT:
        return "".join(pieces)
    return "".join(pieces[:before]) + " … " + "".join(pieces[len(pieces) - after :] if after else [])
