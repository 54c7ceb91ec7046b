"""What a batch is asked, and who is told of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from noa_lab.inference._completion import Completion
from noa_lab.inference._types import ChatMessage, InferenceConfig

__all__ = ["BatchEngine", "BatchFacts", "BatchQuestion", "BatchSink", "Windows"]


@dataclass(frozen=True, slots=True)
class BatchQuestion:
    """A prompt and the answers wanted to it.

    Attributes:
        key: What the caller knows it by.
        text: The prompt as the chat template made it.
        tokens: Its token ids.
        config: How to sample; its seed is not used.
        seeds: One for each answer wanted, each the one before plus one; None where decoding is greedy.
    """

    key: Any
    text: str = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    config: InferenceConfig
    seeds: tuple[int | None, ...]
    arm: Any = None
    """What it is a part of: of every arm one question is asked early."""


Windows = AsyncIterator[Sequence[BatchQuestion]]
"""Questions, part by part: a part is taken in when the one before is nearly through."""


class BatchSink(Protocol):
    """Is told how a batch goes on, always on the event loop that the batch runs on."""

    def stopping(self) -> bool:
        """Whether no further question is to be begun."""

    def begin(self, question: BatchQuestion, answers: range) -> None:
        """These answers are being asked for."""

    def answered(self, question: BatchQuestion, answer: int, completion: Completion) -> None:
        """One of them is there."""

    def undone(self, question: BatchQuestion, answers: range, error: BaseException | None) -> None:
        """These are not: `error` is why, or None where the batch was cancelled."""


@dataclass(slots=True)
class BatchFacts:
    """What a batch has done so far.

    Attributes:
        lanes: Answers that may grow side by side; 1 where one at a time was measured to be faster.
        copying: Whether what prompts share is evaluated once and copied.
        evaluated: Prompt tokens evaluated, by the engine's own count.
        expected: Prompt tokens that should have been evaluated, were everything shared that can be.
        generated: Tokens generated.
        trunks: Shared beginnings evaluated ahead of their prompts.
        copies: How often one was put into a lane.
        saved_bytes: Size of the largest shared beginning when saved.
        paces: Milliseconds that a token took, evaluated or generated, one answer at a time and side by side; None where that was not
            measured: it is for short answers, when many are wanted.
    """

    lanes: int = 0
    copying: bool = False
    evaluated: int = 0
    expected: int = 0
    generated: int = 0
    trunks: int = 0
    copies: int = 0
    saved_bytes: int = 0
    paces: tuple[float, float] | None = None


class BatchEngine(Protocol):
    """Answers many questions at once. Its coroutines all run on the event loop of whoever calls them."""

    facts: BatchFacts

    async def prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, tuple[int, ...]]:
        """Text and token ids of a conversation, up to where the answer begins."""

    async def run(self, windows: Windows, sink: BatchSink) -> None:
        """Answer everything; a question that fails is told to the sink and does not end the batch.

        Raises:
            Unreachable, StreamBroken, ServerExited: When the engine went away; what was under way is told to the sink first.
            CannotShare: When the model evaluates again what it should have kept.
        """

    async def aclose(self) -> None:
        """Let go of the engine."""
