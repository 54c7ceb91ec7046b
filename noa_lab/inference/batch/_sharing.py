"""Whether a model keeps what it should: recurrent models and those with a sliding window cannot go back to where two prompts fork."""

from __future__ import annotations

from collections.abc import Sequence

from noa_lab.errors import CannotShare
from noa_lab.inference.batch._lane_server import LaneServer

__all__ = ["SharingWatch", "prove_sharing"]

_ENOUGH = 16
"""Tokens below which nothing is said: llama-server evaluates a few again for reasons of its own."""

_MISSES = 3


async def prove_sharing(server: LaneServer, tokens: Sequence[int]) -> int:
    """Have slot 0 evaluate a prompt twice, which afterwards holds it.

    Returns:
        Tokens evaluated.

    Raises:
        CannotShare: When the second time was as long as the first.
    """
    _, first = await server.evaluate(0, tokens)
    kept, second = await server.evaluate(0, tokens)
    if kept < len(tokens) // 2:
        raise CannotShare(
            f"This model evaluates a prompt again that it has just evaluated ({kept} of {len(tokens)} tokens were kept).",
            fix="Nothing needs to be done: its prompts are evaluated one by one.",
            url=server.url,
            expected=len(tokens),
            kept=kept,
        )
    return first + second


class SharingWatch:
    """Compares what should have been kept with llama-server's `timings.cache_n`.

    Attributes:
        answers: Answers seen.
    """

    def __init__(self) -> None:
        self.answers = 0
        self._kept = self._missed = 0

    @property
    def useless(self) -> bool:
        """Whether what is planned does not happen: most of what should have been kept was evaluated again."""
        return self._missed >= _MISSES and self._missed > 2 * self._kept

    def note(self, expected: int, kept: int, *, answers: int = 0) -> None:
        """Look at one request.

        Args:
            expected: Prompt tokens that should have been there already.
            kept: Those that were, by the server's count.
            answers: Answers that the request brought.
        """
        self.answers += answers
        if expected >= _ENOUGH:
            self._kept += kept >= expected // 2
            self._missed += kept < expected // 2
