"""The executors that ask for one cell with one request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from noa_lab.experiments.execution._answers import config_of
from noa_lab.experiments.execution._book import Book
from noa_lab.experiments.execution._losses import LOST
from noa_lab.experiments.execution._wish import ExecutorName
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.inference import ChatMessage, InferenceConfig, InferenceEngine

__all__ = ["ask_one_by_one", "ask_side_by_side", "taking_turns"]


async def ask_side_by_side(
    engine: InferenceEngine, cells: Sequence[Cell], *, grid: Grid, conversations: Conversations, book: Book
) -> None:
    """The executor "plain": as many cells at once as the engine has slots.

    Raises:
        Unreachable, StreamBroken, ServerExited: When the engine went away; the cells under way are in the book first.
    """
    queue = deque(cells)
    asking = [
        asyncio.create_task(_ask_all(engine, queue, grid, conversations, book, "plain"))
        for _ in range(max(1, engine.capabilities.slots))
    ]
    await _end_together(asking)


async def _end_together(asking: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; when one loses the engine, let the others find out for themselves before that is raised."""
    try:
        results = await asyncio.gather(*asking, return_exceptions=True)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException):
            raise error


async def _ask_all(
    engine: InferenceEngine,
    queue: deque[Cell],
    grid: Grid,
    conversations: Conversations,
    book: Book,
    executor: ExecutorName,
) -> None:
    while queue and not book.stopping():
        cell = queue.popleft()
        try:
            await _ask(engine, cell, conversations[cell.prompt, cell.input_id], config_of(grid, cell), book, executor)
        except LOST:
            queue.clear()
            raise


async def _ask(
    engine: InferenceEngine,
    cell: Cell,
    messages: Sequence[ChatMessage],
    config: InferenceConfig,
    book: Book,
    executor: ExecutorName,
) -> None:
    book.begin(cell)
    try:
        completion = await engine.achat(messages, config)
    except asyncio.CancelledError:
        book.back(cell)
        raise
    except LOST as error:
        book.lost(cell, error)
        raise
    except Exception as error:
        book.failed(cell, error)
    else:
        book.answered(cell, completion, executor)


async def ask_one_by_one(
    engine: InferenceEngine,
    cells: Sequence[Cell],
    *,
    grid: Grid,
    conversations: Conversations,
    book: Book,
    executor: ExecutorName,
) -> None:
    """The executors "strict" and "latency": one request at a time.

    Raises:
        Unreachable, StreamBroken, ServerExited: When the engine went away; the cell under way is in the book first.
    """
    if executor == "latency" and cells:
        # The first request after a start reads the model's pages and sets up its buffers; no cell is to pay for that.
        await engine.achat(
            conversations[cells[0].prompt, cells[0].input_id], InferenceConfig(temperature=0.0, max_tokens=2)
        )
        cells = taking_turns(cells)
    await _ask_all(engine, deque(cells), grid, conversations, book, executor)


def taking_turns(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in an order in which the arms (prompt and sampling) take turns, and turns at being first.

    All arms of one input and repeat follow each other, so that what changes slowly on the machine meets all of them alike; where
    they begin moves on by one each time, so that none profits from its place.
    """
    arms = {arm: number for number, arm in enumerate(dict.fromkeys((cell.prompt, cell.sampling) for cell in cells))}
    rounds: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        rounds.setdefault((cell.repeat, cell.input_id), []).append(cell)
    ordered: list[Cell] = []
    for number, place in enumerate(sorted(rounds, key=lambda each: each[0])):
        group = sorted(rounds[place], key=lambda cell: arms[cell.prompt, cell.sampling])
        start = number % len(group)
        ordered += group[start:] + group[:start]
    return ordered
