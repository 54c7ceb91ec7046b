"""How fast a server evaluates and generates, learned from its answers."""

from __future__ import annotations

from noa_lab.inference._completion import Completion

__all__ = ["Speeds"]

_MEMORY = 0.8
"""Weight of what was known when something new is measured."""

_PREFILL_TOKENS = 8
"""Fewest evaluated tokens that say something about the speed of evaluation."""


class Speeds:
    """Milliseconds a token, for prompts and for answers.

    Attributes:
        prompt_ms: To evaluate one prompt token; 0.0 while nothing is known.
        alone_ms: To generate one token when one answer grows alone; 0.0 while nothing is known.
    """

    def __init__(self, prompt_ms: float = 0.0, alone_ms: float = 0.0) -> None:
        self.prompt_ms, self.alone_ms = prompt_ms, alone_ms

    def note(self, completion: Completion, evaluated: int, lanes: int) -> None:
        """Learn from an answer.

        Args:
            completion: The answer.
            evaluated: Prompt tokens evaluated for it.
            lanes: Answers that grew at the same time.
        """
        if evaluated >= _PREFILL_TOKENS:
            self.prompt_ms = _mixed(self.prompt_ms, completion.timings.prefill_ms / evaluated)
        if completion.completion_tokens > 1:
            each = completion.timings.decode_ms / (completion.completion_tokens - 1)
            # With k lanes a step costs about k tokens' worth of evaluation beside what one token alone costs.
            self.alone_ms = _mixed(self.alone_ms, max(self.prompt_ms, each - (lanes - 1) * self.prompt_ms))

    def token_ms(self, lanes: int) -> float:
        """To generate one token, all answers together, when so many grow side by side.

        A step reads the weights once, whatever the number of answers, and then costs each of them about what evaluating a prompt
        token costs. So a token costs that much, and its share of the reading.
        """
        return self.prompt_ms + max(0.0, self.alone_ms - self.prompt_ms) / max(1, lanes)

    def worth(self, tokens: int, generated: float, lanes: int) -> bool:
        """Whether one more lane is worth evaluating `tokens` again.

        Args:
            tokens: Prompt tokens to be evaluated again.
            generated: Tokens that will be generated on the lane.
            lanes: Lanes at work without it.
        """
        known = self if self.prompt_ms and self.alone_ms else _GUESSED
        saved = 2 * generated * (known.token_ms(lanes) - known.token_ms(lanes + 1))
        return saved > tokens * known.prompt_ms


def _mixed(known: float, new: float) -> float:
    return new if not known else _MEMORY * known + (1 - _MEMORY) * new


_GUESSED = Speeds(1.0, 2.0)
"""Before anything is measured: a token alone costs what two cost together, which is little gain for a processor and less than any GPU's."""
