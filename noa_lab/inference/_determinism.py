"""Whether the same request gives the same tokens, measured."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from noa_lab.errors import BadInput
from noa_lab.inference._checks import check_config, check_prompt
from noa_lab.inference._completion import Completion
from noa_lab.inference._engine import EngineBase, ignore
from noa_lab.inference._loop import background
from noa_lab.inference._protocol import Mode, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._types import InferenceConfig

__all__ = ["DeterminismReport", "Difference", "ModeResult", "acheck_determinism", "check_determinism"]

_PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The three most important rules of writing are",
    "def fibonacci(n):\n",
    "Dear Sir or Madam,\n\nI am writing to",
)
_CONFIGS = (
    InferenceConfig(temperature=0.0, max_tokens=48),
    InferenceConfig(temperature=0.8, max_tokens=48, seed=20_261_125),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two answers to one request that are not the same.

    Attributes:
        prompt: The prompt.
        temperature: Of the request.
        run: Number of the answer that differs from the first one, from 1.
        position: Index of the first token that differs.
        expected: That token's text in the first answer; "" where it had ended.
        found: That token's text in this answer; "" where it had ended.
    """

    prompt: str
    temperature: float
    run: int
    position: int
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.prompt[:40]!r}, answer {self.run}: token {self.position} is {self.found!r}, not {self.expected!r}"
        )


@dataclass(frozen=True, slots=True)
class ModeResult:
    """What was seen in one mode.

    Attributes:
        mode: "strict" or "fast".
        requests: Different requests: prompts x samplings.
        runs: Answers to each.
        differences: Answers that differ from the first one to the same request, with the place where they begin to.
    """

    mode: Mode
    requests: int
    runs: int
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Whether every answer repeated the first one to its request, token by token."""
        return not self.differences

    def __str__(self) -> str:
        again = self.requests * (self.runs - 1)
        if self.identical:
            return f"{self.mode}: all {again} repeated answers identical ({self.requests} requests, {self.runs} times each)"
        return (
            f"{self.mode}: {len(self.differences)} of {again} repeated answers differ; the first: {self.differences[0]}"
        )


@dataclass(frozen=True, slots=True)
class DeterminismReport:
    """What `check_determinism` saw.

    Attributes:
        model: The model.
        results: One entry for each mode that the engine can work in.
        notes: What was not measured, and why.
        token_ids: Ids of each request's first answer in the first mode, to compare with another report, for example after a restart.
    """

    model: str
    results: tuple[ModeResult, ...]
    notes: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __getitem__(self, mode: str) -> ModeResult:
        found = next((each for each in self.results if each.mode == mode), None)
        if found is None:
            raise KeyError(mode)
        return found

    def __str__(self) -> str:
        return "\n".join([self.model, *map(str, self.results), *self.notes])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in [*map(str, self.results), *self.notes])
        return f"<div>{html.escape(self.model)}<ul>{lines}</ul></div>"


def check_determinism(
    engine: EngineBase,
    prompts: Sequence[Prompt] = _PROMPTS,
    *,
    runs: int = 5,
    configs: Sequence[InferenceConfig] = _CONFIGS,
) -> DeterminismReport:
    """Ask each request several times, in every mode that the engine can work in, and compare the tokens.

    Strict: one after the other. Fast: as an experiment would, several at once where the engine has slots for it, with whatever
    is cached; differences are not a fault there, but a fact to know.

    Args:
        engine: Any engine; a llama-server must have one slot for strict mode.
        prompts: What is asked.
        runs: Answers to each request.
        configs: How they are sampled; sampled ones need a seed.

    Raises:
        BadInput: For fewer than two runs, or a sampling without a seed.
        InferenceError: When the engine fails.
    """
    return background().run(acheck_determinism(engine, prompts, runs=runs, configs=configs))


async def acheck_determinism(
    engine: EngineBase,
    prompts: Sequence[Prompt] = _PROMPTS,
    *,
    runs: int = 5,
    configs: Sequence[InferenceConfig] = _CONFIGS,
) -> DeterminismReport:
    """Async twin of `check_determinism`."""
    asked = [(check_prompt(prompt), _repeatable(config)) for prompt in prompts for config in configs]
    if runs < 2 or not asked:
        raise BadInput(f"runs = {runs} cannot be compared.", fix="Give at least 2.", field="runs", value=runs)
    engine._check_open()  # noqa: SLF001 - the room's own
    return await background().hop(_measure(engine, asked, runs))


async def _measure(engine: EngineBase, asked: Sequence[tuple[Prompt, InferenceConfig]], runs: int) -> DeterminismReport:
    what = await engine._capabilities()  # noqa: SLF001 - the room's own
    results: list[ModeResult] = []
    first: list[tuple[int, ...]] = []
    notes: list[str] = []
    modes: tuple[Mode, ...] = ("strict", "fast")
    for mode in modes:
        if mode not in what.modes:
            notes.append(f"{mode}: not measured, because this engine cannot work so (a llama-server needs slots=1).")
            continue
        width = 1 if mode == "strict" else max(1, what.slots)
        questions = [Question(prompt, config, mode=mode) for prompt, config in asked]
        answers = await _answers(engine, [question for _ in range(runs) for question in questions], width)
        rounds = [answers[at : at + len(asked)] for at in range(0, len(answers), len(asked))]
        first = first or [answer.token_ids for answer in rounds[0]]
        found = [
            difference
            for run, later in enumerate(rounds[1:], 1)
            for question, one, other in zip(questions, rounds[0], later, strict=True)
            if (difference := await _difference(engine, question, run, one, other)) is not None
        ]
        results.append(ModeResult(mode, len(asked), runs, tuple(found)))
    return DeterminismReport(engine.model_name, tuple(results), tuple(notes), tuple(first))


async def _answers(engine: EngineBase, questions: Sequence[Question], width: int) -> list[Completion]:
    """All answers in the order of the questions, `width` at a time."""
    slots = asyncio.Semaphore(width)

    async def one(question: Question) -> Completion:
        async with slots:
            return await engine._ask(question, ignore)  # noqa: SLF001

    tasks = [asyncio.create_task(one(question)) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _difference(
    engine: EngineBase, question: Question, run: int, one: Completion, other: Completion
) -> Difference | None:
    left, right = (_units(each) for each in (one, other))
    at = next((index for index, (a, b) in enumerate(zip_longest(left, right)) if a != b), None)
    if at is None:
        return None
    expected, found = [await _text_at(engine, each, at) for each in (left, right)]
    prompt = question.prompt if isinstance(question.prompt, str) else str(question.prompt)
    return Difference(prompt, question.config.temperature, run, at, expected, found)


def _units(answer: Completion) -> Sequence[int | str]:
    """Its tokens; its characters where the engine does not tell tokens."""
    return list(answer.token_ids) if answer.token_ids else list(answer.text)


async def _text_at(engine: EngineBase, answer: Sequence[int | str], at: int) -> str:
    if at >= len(answer):
        return ""
    token = answer[at]
    return token if isinstance(token, str) else await engine._detokenize([token])  # noqa: SLF001


def _repeatable(config: InferenceConfig) -> InferenceConfig:
    """The config, if it asks for the same answer each time."""
    if check_config(config).greedy or config.seed is not None:
        return config
    raise BadInput(
        "A sampling without a seed never repeats.",
        fix="Give it a seed, or temperature 0.",
        field="configs",
        value=config,
    )
