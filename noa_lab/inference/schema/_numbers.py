"""Grammars of numbers between bounds."""

from __future__ import annotations

__all__ = ["integers", "numbers"]

_MOST_DIGITS = 15
"""Longer numbers are not exact as floating point numbers."""


def integers(least: int | None, most: int | None) -> str:
    """GBNF of the integers from `least` to `most`, both included; None is no bound."""
    parts = []
    if most is None or most >= 0:
        parts.append(_whole(max(0, least or 0), most))
    if least is None or least < 0:
        below = _whole(1 if most is None else max(1, -most), None if least is None else -least)
        parts.append(f'"-" ( {below} )')
    return " | ".join(parts)


def numbers(least: int | None, most: int | None, *, without_least: bool = False, without_most: bool = False) -> str:
    """GBNF of the decimal numbers between two whole bounds; it uses the rule `fraction`.

    Args:
        least: Lower bound; None is none.
        most: Upper bound; None is none.
        without_least: Whether the lower bound itself is left out.
        without_most: Whether the upper bound itself is left out.
    """
    parts = []
    if most is None or most >= 0:
        low, open_low = (0, False) if least is None or least < 0 else (least, without_least)
        parts.append(_magnitudes(low, most, open_low=open_low, open_high=without_most))
    if least is None or least < 0:
        low, open_low = (0, True) if most is None or most >= 0 else (-most, without_most)
        below = _magnitudes(low, None if least is None else -least, open_low=open_low, open_high=without_least)
        parts.append(f'"-" ( {below} )' if below else "")
    return " | ".join(part for part in parts if part)


def _magnitudes(low: int, high: int | None, *, open_low: bool, open_high: bool) -> str:
    """Decimal numbers without sign from `low` to `high`; an open end is left out itself."""
    exactly = '( "." "0"{1,15} )?'
    if low == high:
        return "" if open_low or open_high else f'"{low}" {exactly}'
    parts = [f'"{low}." "0"{{0,14}} [1-9] [0-9]{{0,14}}' if open_low else f'"{low}" fraction?']
    if high is None or low + 1 <= high - 1:
        parts.append(f"( {_whole(low + 1, None if high is None else high - 1)} ) fraction?")
    if high is not None and not open_high:
        parts.append(f'"{high}" {exactly}')
    return " | ".join(parts)


def _whole(low: int, high: int | None) -> str:
    """Whole numbers from `low` to `high`, without sign."""
    if high is None:
        size = len(str(low))
        if low == 0:
            return f'"0" | [1-9] [0-9]{{0,{_MOST_DIGITS - 1}}}'
        same = _same_length(str(low), "9" * size)
        return f"{same} | [1-9] [0-9]{{{size},{_MOST_DIGITS}}}" if size < _MOST_DIGITS else same
    parts = []
    for size in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (size - 1) if size > 1 else 0)
        last = min(high, 10**size - 1)
        if first <= last:
            parts.append(_same_length(str(first), str(last)))
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """Digits from `low` to `high`, equally long, as alternatives."""
    if low == high:
        return f'"{low}"'
    if len(low) == 1:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f'"{low[0]}" ( {_same_length(low[1:], high[1:])} )'
    rest = len(low) - 1
    nines, zeros = "9" * rest, "0" * rest
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != zeros:
        parts.append(f'"{first}" ( {_same_length(low[1:], nines)} )')
        first += 1
    ends = high[1:] != nines
    if ends:
        last -= 1
    if first <= last:
        digit = f'"{first}"' if first == last else f"[{first}-{last}]"
        parts.append(f"{digit} [0-9]{{{rest}}}")
    if ends:
        parts.append(f'"{high[0]}" ( {_same_length(zeros, high[1:])} )')
    return " | ".join(parts)
