"""The work of a run: for each model, open its engine, take over answers already known, ask for the rest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noa_lab.errors import CannotShare, NotEnoughMemory
from noa_lab.experiments.execution._batch import BatchWork, ContextTooSmall
from noa_lab.experiments.execution._book import Book
from noa_lab.experiments.execution._choice import Chosen, choose, identity_of, wish_for
from noa_lab.experiments.execution._job import Job
from noa_lab.experiments.execution._losses import LOST, REOPEN_SECONDS
from noa_lab.experiments.execution._plain import ask_one_by_one, ask_side_by_side
from noa_lab.experiments.execution._plan import PlanBook
from noa_lab.experiments.execution._wish import ExecutorName
from noa_lab.experiments.grid._cells import Cell, cell_key, sampling_text
from noa_lab.experiments.grid._prompts import content_hash
from noa_lab.inference import InferenceEngine
from noa_lab.inference.batch import BatchEngine

__all__ = ["execute"]

_LOOKED_UP = 2_000
"""Cells whose answers are looked for in other runs at a time."""

_TRIED = 500
"""About so many cells show whether other runs have answers to take over."""


async def execute(job: Job) -> None:
    """Execute the pending cells of a run; cells that fail are recorded as failed.

    Raises:
        NoaLabError: When a model cannot be served at all; the cells that are left stay pending.
    """
    waiting = job.store.waiting(job.run_id)
    for model in job.grid.models:
        todo = [cell for cell in waiting if cell.model == model]
        if todo and not job.stopping():
            await _ModelWork(job, model, todo).run()


class _ModelWork:
    """The part of the work that is one model's."""

    def __init__(self, job: Job, model: str, cells: Sequence[Cell]) -> None:
        self._job, self._model = job, model
        self._book = Book(cells, put=job.put, stopping=job.stopping, scorers=job.scorers, variables=job.variables)
        self._needed = 0
        """Tokens of context that were found to be needed."""

    async def run(self) -> None:
        chosen = self._choose()
        opened, wanted = False, len(self._book.left)
        while (self._book.left or not opened) and not self._job.stopping():
            wish = wish_for(chosen, self._book.left.values(), self._job.grid, self._job.conversations, self._needed)
            try:
                with self._job.open(self._model, wish) as engine:
                    chosen = chosen.on(engine)
                    if not opened:
                        self._prepare(engine, chosen)
                        opened = True
                    await self._ask(engine, chosen)
            except ContextTooSmall as small:
                self._needed = small.needed
                continue
            except CannotShare as error:
                chosen, opened = self._instead(chosen.plainly(error.message)), False
                continue
            except NotEnoughMemory:
                # A context that was guessed to suffice, and for which there was room, can turn out too small.
                if chosen.executor != "tree" or chosen.firm or len(self._book.left) < wanted:
                    raise
                chosen, opened = self._instead(chosen.on_a_server()), False
                continue
            except LOST as error:
                if not opened:
                    raise
                self._book.losses.count(error)
            if self._book.left:
                await asyncio.sleep(REOPEN_SECONDS)

    def _instead(self, other: Chosen) -> Chosen:
        """Take another executor, before anything was asked: to the store its answers are those to other questions."""
        self._job.provenance.forget_executor(self._model)
        return other

    def _choose(self) -> Chosen:
        job = self._job
        hindrance = None if job.hindrance is None else self._against_a_tree
        recorded = job.provenance.executor(self._model)
        return choose(job.requested, recorded, job.grid, len(self._book.left), hindrance, self._known)

    def _against_a_tree(self) -> str:
        job = self._job
        wish = wish_for(Chosen("tree"), self._book.left.values(), job.grid, job.conversations, 0)
        return job.against_a_tree(self._model, wish)

    def _known(self) -> ExecutorName | None:
        """By which executor other runs have most answers to these questions; looked for with some of them only."""
        if not self._job.reuse:
            return None
        left = list(self._book.left.values())
        some = left[:: max(1, len(left) // _TRIED)]
        found: Counter[ExecutorName] = Counter()
        for executor, identity in self._job.provenance.others(self._model):
            if executor in {"lanes", "tree"} and executor not in found:
                keys = list(map(self._keys(identity), some))
                found[executor] = len(self._job.store.answers(keys, besides=self._job.run_id))
        most = found.most_common(1)
        return most[0][0] if most and most[0][1] else None

    def _keys(self, identity: Mapping[str, Any]) -> Callable[[Cell], str]:
        """What makes each cell the same question as one of another run, with this engine and executor."""
        hashed = content_hash(identity)
        samplings = [sampling_text(config) for config in self._job.grid.sampling]
        conversations = self._job.conversations

        def key(cell: Cell) -> str:
            conversation = conversations.hash((cell.prompt, cell.input_id))
            return cell_key(conversation, hashed, samplings[cell.sampling], cell.seed, cell.repeat)

        return key

    def _prepare(self, engine: InferenceEngine, chosen: Chosen) -> None:
        """Note what the model runs on, and take over answers to the very same questions."""
        fingerprint = engine.fingerprint()
        self._job.provenance.note_engine(self._model, fingerprint, chosen.executor, chosen.why)
        self._book.key = self._keys(identity_of(fingerprint, chosen.executor))
        if self._job.reuse:
            self._take_over()

    def _take_over(self) -> None:
        left = list(self._book.left.values())
        for first in range(0, len(left), _LOOKED_UP):
            keys = [(cell, self._book.key(cell)) for cell in left[first : first + _LOOKED_UP]]
            known = self._job.store.answers([key for _, key in keys], besides=self._job.run_id)
            for cell, key in keys:
                if key in known:
                    self._book.done(cell, {**known[key], "cached": True})

    async def _ask(self, engine: InferenceEngine, chosen: Chosen) -> None:
        grid, conversations, book = self._job.grid, self._job.conversations, self._book
        while book.left and not book.stopping():
            for cells in book.next_cells():
                if chosen.executor in {"lanes", "tree"}:
                    await self._ask_batch(engine, chosen, cells)
                elif chosen.executor == "plain":
                    await ask_side_by_side(engine, cells, grid=grid, conversations=conversations, book=book)
                else:
                    await ask_one_by_one(
                        engine, cells, grid=grid, conversations=conversations, book=book, executor=chosen.executor
                    )

    async def _ask_batch(self, engine: Any, chosen: Chosen, cells: Sequence[Cell]) -> None:
        batch: BatchEngine = engine.batch()
        plan = PlanBook(self._model, chosen.executor, chosen.why)
        size = engine.capabilities.context_size
        work = BatchWork(
            batch,
            chosen.executor,
            grid=self._job.grid,
            conversations=self._job.conversations,
            book=self._book,
            plan=plan,
            context_size=size,
            may_grow=lambda needed: needed > max(size, self._needed),
        )
        try:
            await work.run(cells)
        finally:
            await batch.aclose()
            self._job.provenance.note_plan(self._model, plan.facts(batch.facts))
