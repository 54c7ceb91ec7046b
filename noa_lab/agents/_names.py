"""File names as they may be shown: hostile characters escaped, one shown name for each real one."""

from __future__ import annotations

import unicodedata

__all__ = ["shown", "without_controls"]

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(name: str) -> str:
    r"""`name` with every control, invisible, bidirectional or undecodable character escaped as in a Python literal.

    The backslash itself is doubled, so that two different files never show the same name. Undecodable bytes, which the file
    system hands over as lone surrogates, become `\xNN`.
    """
    return "".join(_escape(char) for char in name)


def without_controls(text: str) -> str:
    """`text` without control, invisible and bidirectional characters; line breaks and tabs stay."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in _INVISIBLE)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
