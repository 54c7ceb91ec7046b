"""Obvious secrets are taken out of every text before a model or a report sees it.

A safety net, not an audit: keys with a known shape, private key blocks, passwords in addresses and in plain assignments.
"""

from __future__ import annotations

import re

__all__ = ["redact"]

_MARK = "[redacted]"
_BLOCK_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")

# Every repetition is bounded or of one character class followed by a boundary: linear on hostile text.
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # Amazon
    r"|\bgh[pousr]_[A-Za-z0-9]{30,255}\b|\bgithub_pat_[A-Za-z0-9_]{30,255}\b"
    r"|\bglpat-[A-Za-z0-9_-]{20,64}\b"
    r"|\bhf_[A-Za-z0-9]{30,64}\b"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,255}\b"
    r"|\bAIza[0-9A-Za-z_-]{35}\b"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,255}\b"
    r"|\bpypi-[A-Za-z0-9_-]{50,255}\b"
    r"|\bnpm_[A-Za-z0-9]{36}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,1000}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,1000}"  # signed web tokens
)
_ADDRESS = re.compile(r"(://[^\s/:@\"'<>]{1,64}:)([^\s/@\"'<>{}$]{3,200})(@)")
_WORD = r"(?:pass(?:word|wd|phrase)|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
_QUOTED = re.compile(
    rf"(?i)({_WORD}[a-z0-9_]{{0,30}}[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"'])([^\s\"'{{}}$<>()]{{8,200}})([\"'])"
)
_PLAIN = re.compile(
    rf"(?im)^((?:export\s)?[A-Z0-9_]{{0,60}}{_WORD}[A-Z0-9_]{{0,30}}\s?=\s?)([^\s\"'{{}}$<>()\[\].,]{{12,200}})()\s?$"
)
_HARMLESS = re.compile(
    r"(?i)^(?:x{3,}|\*+|your[-_ ]|changeme|example|placeholder|dummy|test|redacted|none$|null$|true$|false$)"
)


def redact(text: str) -> tuple[str, int]:
    """`text` with obvious secrets replaced by "[redacted]", and how many there were."""
    text, blocks = _without_blocks(text)
    text, shapes = _SHAPES.subn(_MARK, text)
    count = blocks + shapes

    def cover(match: re.Match[str]) -> str:
        nonlocal count
        if _HARMLESS.match(match[2]) or match[2] == _MARK:
            return match[0]
        count += 1
        return f"{match[1]}{_MARK}{match[3]}"

    for pattern in (_ADDRESS, _QUOTED, _PLAIN):
        text = pattern.sub(cover, text)
    return text, count


def _without_blocks(text: str) -> tuple[str, int]:
    """A block without an end reaches to the end of the text, so that each character is looked at once."""
    parts, position, count = [], 0, 0
    while begin := _BLOCK_BEGIN.search(text, position):
        parts += [text[position : begin.start()], _MARK]
        end = _BLOCK_END.search(text, begin.end())
        position = end.end() if end else len(text)
        count += 1
    return "".join([*parts, text[position:]]), count
