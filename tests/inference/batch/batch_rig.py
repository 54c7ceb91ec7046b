"""A batch in a test: questions by text, a sink that remembers, and one call that runs it all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from noa_lab.inference import ChatMessage, Completion, InferenceConfig, LlamaInferenceEngine
from noa_lab.inference.batch import BatchQuestion, Speeds

GREEDY = InferenceConfig(temperature=0.0, max_tokens=8)
WARM = InferenceConfig(temperature=0.8, max_tokens=8)


class Unhurried(Speeds):
    """Never lets a prompt be evaluated twice for the sake of time: how often that pays depends on how busy the machine is."""

    def worth(self, tokens: int, generated: float, lanes: int) -> bool:
        return False


@dataclass
class Sink:
    """Remembers what it is told.

    Attributes:
        stop_after: No question is begun after so many answers.
    """

    stop_after: int | None = None
    answers: dict[tuple[Any, int], Completion] = field(default_factory=dict)
    order: list[tuple[Any, int]] = field(default_factory=list)
    begun: list[tuple[Any, int]] = field(default_factory=list)
    undone_: list[tuple[Any, int, BaseException | None]] = field(default_factory=list)

    def stopping(self) -> bool:
        return self.stop_after is not None and len(self.answers) >= self.stop_after

    def begin(self, question: BatchQuestion, answers: range) -> None:
        self.begun += [(question.key, answer) for answer in answers]

    def answered(self, question: BatchQuestion, answer: int, completion: Completion) -> None:
        assert (question.key, answer) not in self.answers, "answered twice"
        self.answers[question.key, answer] = completion
        self.order.append((question.key, answer))

    def undone(self, question: BatchQuestion, answers: range, error: BaseException | None) -> None:
        self.undone_ += [(question.key, answer, error) for answer in answers]


@dataclass(frozen=True)
class Wish:
    """One question: its text, how many answers, and how."""

    text: str
    answers: int = 1
    config: InferenceConfig = field(default=GREEDY, hash=False)
    seed: int = 7
    arm: Any = None


async def run(lanes: Any, wishes: list[Wish], sink: Sink, window: int = 100) -> None:
    """Run a batch, `window` questions at a time, and let go of the engine."""

    async def windows():
        for start in range(0, len(wishes), window):
            yield [await question(lanes, wish) for wish in wishes[start : start + window]]

    try:
        await lanes.run(windows(), sink)
    finally:
        await lanes.aclose()


async def question(lanes: Any, wish: Wish) -> BatchQuestion:
    text, tokens = await lanes.prompt([ChatMessage.user(wish.text)])
    seeds = tuple(None if wish.config.greedy else wish.seed + number for number in range(wish.answers))
    return BatchQuestion(wish, text, tokens, wish.config, seeds, wish.arm)


def answer_all(
    base_url: str,
    wishes: list[Wish],
    *,
    window: int = 100,
    sink: Sink | None = None,
    api_key: str | None = None,
    speeds: Speeds | None = None,
):
    """Run a batch on a llama-server; returns the sink and the lanes."""
    sink = sink or Sink()
    with LlamaInferenceEngine(base_url, "m", api_key) as engine:
        lanes = engine.batch()
        lanes.speeds = speeds or lanes.speeds
        asyncio.run(run(lanes, wishes, sink, window))
    return sink, lanes
