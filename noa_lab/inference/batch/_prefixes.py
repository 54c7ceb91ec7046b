"""What prompts have in common at their beginning: the tree of their prefixes, as a sorted list with the lengths shared by neighbours.

Sorted by tokens, the prompts below any node of the prefix tree stand next to each other, and what two prompts share is the least
that neighbours between them share. So the tree needs no nodes of its own (it is the LCP array of the sorted prompts).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["SHORTEST", "Prefixes", "Trunk", "common", "packed", "unpacked"]

SHORTEST = 16
"""Fewest tokens that are worth a trunk of their own: with fewer, evaluating them again costs less than two requests."""

_TOKEN = 4
"""Bytes of a packed token."""


def packed(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes that sort and compare as the ids do: four bytes each, the highest first."""
    return struct.pack(f">{len(tokens)}I", *tokens)


def unpacked(tokens: bytes) -> tuple[int, ...]:
    """The token ids."""
    return struct.unpack(f">{len(tokens) // _TOKEN}I", tokens)


def common(one: bytes, other: bytes) -> int:
    """Number of tokens with which two packed prompts begin alike."""
    least, most = 0, min(len(one), len(other)) // _TOKEN
    if one[: most * _TOKEN] == other[: most * _TOKEN]:
        return most
    while least < most - 1:
        middle = (least + most) // 2
        if one[least * _TOKEN : middle * _TOKEN] == other[least * _TOKEN : middle * _TOKEN]:
            least = middle
        else:
            most = middle
    return least


@dataclass(frozen=True, slots=True)
class Trunk:
    """A beginning that several prompts share.

    Attributes:
        tokens: The shared beginning, packed.
        parent: Index of the trunk that this one begins with; None where there is none.
        first: Place of its first prompt in `Prefixes.order`.
        last: Place of its last prompt there.
    """

    tokens: bytes
    parent: int | None
    first: int
    last: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.tokens) // _TOKEN

    @property
    def prompts(self) -> int:
        """How many prompts begin with it."""
        return self.last - self.first + 1


class Prefixes:
    """The prefix tree of some prompts.

    Args:
        prompts: Packed prompts; the same one may be there several times.

    Attributes:
        order: Indices of the prompts, sorted by tokens: an order in which each is followed by its nearest kin.
        shared: For each place in that order, the tokens shared with the prompt before it; 0 for the first.
    """

    def __init__(self, prompts: Sequence[bytes]) -> None:
        self._prompts = prompts
        self.order = tuple(sorted(range(len(prompts)), key=lambda index: prompts[index]))
        self.shared = tuple(
            0 if place == 0 else common(prompts[self.order[place - 1]], prompts[index])
            for place, index in enumerate(self.order)
        )

    @property
    def minimum(self) -> int:
        """Tokens that must be evaluated at least: every distinct prefix once, and one token for each prompt that was there before.

        The last token of such a prompt is evaluated again, because its logits are what the answer begins with.
        """
        return sum(
            max(1, len(self._prompts[index]) // _TOKEN - shared)
            for index, shared in zip(self.order, self.shared, strict=True)
        )

    @property
    def total(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt) // _TOKEN for prompt in self._prompts)

    def trunks(self, shortest: int) -> list[Trunk]:
        """The beginnings worth keeping, each before those that continue it.

        Args:
            shortest: A trunk has at least so many tokens more than the trunk that it continues.
        """
        found: list[Trunk] = []
        open_: list[int] = []
        for first, last, length in sorted(self._intervals(), key=lambda each: (each[0], -each[1], each[2])):
            while open_ and found[open_[-1]].last < first:
                open_.pop()
            known = found[open_[-1]].length if open_ else 0
            if length - known >= shortest:
                tokens = self._prompts[self.order[first]][: length * _TOKEN]
                found.append(Trunk(tokens, open_[-1] if open_ else None, first, last))
                open_.append(len(found) - 1)
        return found

    def _intervals(self) -> Iterator[tuple[int, int, int]]:
        """Every inner node of the tree: place of its first and last prompt, and its tokens."""
        stack = [(0, 0)]
        for place in range(1, len(self.order) + 1):
            length = self.shared[place] if place < len(self.order) else 0
            left = place - 1
            while length < stack[-1][0]:
                node, left = stack.pop()
                yield left, place - 1, node
            if length > stack[-1][0]:
                stack.append((length, left))
