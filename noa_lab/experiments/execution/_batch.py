"""The executors that share what prompts have in common: cells become questions of a `BatchEngine`, and its answers cells again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from noa_lab.experiments.execution._book import Book
from noa_lab.experiments.execution._losses import LOST
from noa_lab.experiments.execution._plan import PlanBook
from noa_lab.experiments.execution._wish import ExecutorName
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.inference import Completion
from noa_lab.inference.batch import BatchEngine, BatchQuestion

__all__ = ["BatchWork", "ContextTooSmall", "Wanted", "wanted_answers"]

_FIRST_WINDOW = 64
_WINDOW = 512
"""Questions whose prompts are rendered and tokenized at a time: enough to find what they share, few enough to begin soon."""

_AT_ONCE = 8

_Prompt = tuple[str, tuple[int, ...]]
"""The text that the chat template made of a conversation, and its tokens."""


class ContextTooSmall(Exception):
    """The engine's context is smaller than a prompt and its answer need, and could perhaps be larger."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} tokens are needed")
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Wanted:
    """Cells that ask the same thing and differ in their seeds alone: each has the seed of the one before plus one."""

    cells: tuple[Cell, ...]

    @property
    def place(self) -> tuple[str, str]:
        """Prompt and input."""
        return self.cells[0].prompt, self.cells[0].input_id

    @property
    def arm(self) -> tuple[str, int]:
        """Prompt and sampling."""
        return self.cells[0].prompt, self.cells[0].sampling


def wanted_answers(cells: Sequence[Cell]) -> Iterator[Wanted]:
    """The cells put together to questions, in the order of their first cells."""
    # Most grids repeat nothing, and a large one would take much memory to be put together.
    if all(cell.repeat == 0 for cell in cells):
        yield from (Wanted((cell,)) for cell in cells)
        return
    together: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        together.setdefault((cell.prompt, cell.input_id, cell.sampling), []).append(cell)
    for group in together.values():
        row: list[Cell] = []
        for cell in sorted(group, key=lambda each: each.repeat):
            if row and (cell.seed is None or row[-1].seed is None or cell.seed != row[-1].seed + 1):
                yield Wanted(tuple(row))
                row = []
            row.append(cell)
        yield Wanted(tuple(row))


class BatchWork:
    """One model's cells as a batch.

    Args:
        engine: Answers the batch.
        executor: What cells say of how they were run.
        grid: The run's grid.
        conversations: Its conversations.
        book: Where answers go.
        plan: Told of every prompt.
        context_size: Tokens that one request may use.
        may_grow: Whether another engine could have a larger context.
    """

    def __init__(
        self,
        engine: BatchEngine,
        executor: ExecutorName,
        *,
        grid: Grid,
        conversations: Conversations,
        book: Book,
        plan: PlanBook,
        context_size: int,
        may_grow: Callable[[int], bool],
    ) -> None:
        self._engine, self._executor, self._grid, self._conversations = engine, executor, grid, conversations
        self._book, self._plan = book, plan
        self._context_size, self._may_grow = context_size, may_grow

    async def run(self, cells: Sequence[Cell]) -> None:
        """Have the cells answered.

        Raises:
            ContextTooSmall: Before anything of that size was asked.
            Unreachable, StreamBroken, ServerExited: When the engine went away.
            CannotShare: When the model cannot share.
        """
        await self._engine.run(self._windows(cells), self)

    async def _windows(self, cells: Sequence[Cell]) -> AsyncIterator[list[BatchQuestion]]:
        waiting = wanted_answers(cells)
        size = _FIRST_WINDOW
        while part := list(itertools.islice(waiting, size)):
            size = _WINDOW
            prompts = await self._prompts({wanted.place for wanted in part})
            questions: list[BatchQuestion] = []
            for wanted in part:
                prompt = prompts[wanted.place]
                if isinstance(prompt, Exception):
                    for cell in wanted.cells:
                        self._book.failed(cell, prompt)
                else:
                    questions.append(self._question(wanted, prompt))
            if questions:
                self._plan.add(questions)
                self._check_context(questions)
                yield questions

    async def _prompts(self, places: set[tuple[str, str]]) -> dict[tuple[str, str], _Prompt | Exception]:
        """Text and tokens of conversations; in their place the error of one that the chat template refuses, for example."""
        found: dict[tuple[str, str], _Prompt | Exception] = {}
        left = sorted(places)

        async def one_after_the_other() -> None:
            while left:
                place = left.pop()
                try:
                    found[place] = await self._engine.prompt(self._conversations[place])
                except LOST:
                    left.clear()
                    raise
                except Exception as error:
                    found[place] = error

        await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
        return found

    def _question(self, wanted: Wanted, prompt: _Prompt) -> BatchQuestion:
        config = self._grid.sampling[wanted.cells[0].sampling]
        seeds = tuple(cell.seed for cell in wanted.cells)
        return BatchQuestion(wanted, *prompt, config=config, seeds=seeds, arm=wanted.arm)

    def _check_context(self, questions: Sequence[BatchQuestion]) -> None:
        needed = max(len(question.tokens) + question.config.max_tokens for question in questions)
        if needed > self._context_size and self._may_grow(needed):
            raise ContextTooSmall(needed)

    # As the sink of the batch

    def stopping(self) -> bool:
        """See `BatchSink`."""
        return self._book.stopping()

    def begin(self, question: BatchQuestion, answers: range) -> None:
        """See `BatchSink`."""
        for answer in answers:
            self._book.begin(question.key.cells[answer])

    def answered(self, question: BatchQuestion, answer: int, completion: Completion) -> None:
        """See `BatchSink`."""
        self._book.answered(question.key.cells[answer], completion, self._executor)

    def undone(self, question: BatchQuestion, answers: range, error: BaseException | None) -> None:
        """See `BatchSink`."""
        for answer in answers:
            cell: Cell = question.key.cells[answer]
            if error is None:
                self._book.back(cell)
            elif isinstance(error, LOST):
                self._book.lost(cell, error)
            else:
                self._book.failed(cell, error)
