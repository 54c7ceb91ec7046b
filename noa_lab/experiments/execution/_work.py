"""The work of a run: for each model, open its engine, take over answers already known, ask for the rest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from noa_lab.errors import ExperimentError, ServerExited, StreamBroken, Unreachable
from noa_lab.experiments.execution._answers import config_of, finished_values, score
from noa_lab.experiments.grid._cells import Cell, Rendered, cell_key, messages_hash
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.grid._prompts import content_hash
from noa_lab.experiments.store._store import Store
from noa_lab.experiments.store._writer import Change, describe_error
from noa_lab.inference import InferenceEngine

if TYPE_CHECKING:
    from noa_lab.experiments.score._base import Scorer

__all__ = ["EngineFor", "Work"]

EngineFor = Callable[[str], AbstractContextManager[InferenceEngine]]
"""Opens the engine of a model, by its reference; leaving the block lets it go."""

_LOST = (Unreachable, StreamBroken, ServerExited)
_TRIES = 3
_OUTAGE = 6
_REOPEN_SECONDS = 0.2


class Work:
    """Executes the pending cells of a run.

    Args:
        store: Where the run is.
        run_id: The run.
        grid: Its grid.
        rendered: Its conversations.
        scorers: How answers are scored.
        engine_for: Opens a model's engine.
        put: Takes what happens to a cell.
        stopping: Whether no further cell is to be begun.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        grid: Grid,
        rendered: Rendered,
        scorers: Sequence[Scorer],
        engine_for: EngineFor,
        put: Callable[[Change], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._store, self._run_id, self._grid = store, run_id, grid
        self._rendered, self._scorers, self._engine_for = rendered, scorers, engine_for
        self._put, self._stopping = put, stopping
        self._variables = {found.id: found.variables for found in grid.inputs}
        self._hashes = {place: messages_hash(messages) for place, messages in rendered.items()}
        self._keys: dict[str, str] = {}
        self._tries: dict[str, int] = {}
        self._losses = 0

    async def run(self) -> None:
        """Execute everything; cells that fail are recorded as failed.

        Raises:
            NoaLabError: When a model cannot be served at all; the cells that are left stay pending.
        """
        cells = {cell.cell_id: cell for cell in self._grid.cells()}
        statuses = self._store.statuses(self._run_id)
        waiting = [cells[cell_id] for cell_id, status in statuses.items() if status == "pending"]
        for model in self._grid.models:
            todo = [cell for cell in waiting if cell.model == model]
            if todo and not self._stopping():
                await self._run_model(model, todo)

    async def _run_model(self, model: str, cells: Sequence[Cell]) -> None:
        todo: deque[Cell] = deque()
        again: deque[Cell] = deque()
        opened = False
        while (todo or again or not opened) and not self._stopping():
            try:
                with self._engine_for(model) as engine:
                    if not opened:
                        todo.extend(self._prepare(model, engine, cells))
                        opened = True
                    # What was lost once is tried alone, so that it cannot take an innocent neighbour with it.
                    width = engine.capabilities.slots if todo else 1
                    await self._drain(engine, todo or again, max(1, width), again)
            except _LOST as error:
                if not opened:
                    raise
                self._count_loss(error)
            if todo or again:
                await asyncio.sleep(_REOPEN_SECONDS)

    def _prepare(self, model: str, engine: InferenceEngine, cells: Sequence[Cell]) -> list[Cell]:
        """Note what the model runs on, take over answers to the very same questions, and return the cells that are left."""
        fingerprint = engine.fingerprint()
        run = self._store.run(self._run_id)
        self._note_engine(model, fingerprint, run["provenance"])
        hashed = content_hash(fingerprint)
        for cell in cells:
            place = (cell.prompt, cell.input_id)
            self._keys[cell.cell_id] = cell_key(
                self._hashes[place], hashed, self._grid.sampling[cell.sampling], cell.seed, cell.repeat
            )
        if not run["reuse"]:
            return list(cells)
        known = self._store.answers([self._keys[cell.cell_id] for cell in cells], besides=self._run_id)
        left: list[Cell] = []
        for cell in cells:
            answer = known.get(self._keys[cell.cell_id])
            if answer is None:
                left.append(cell)
            else:
                self._done(cell, {**answer, "cached": True})
        return left

    def _note_engine(self, model: str, fingerprint: dict[str, Any], provenance: Mapping[str, Any]) -> None:
        engines = dict(provenance["engines"])
        before = engines.setdefault(model, fingerprint)
        if before != fingerprint:
            changed = sorted(name for name in {*before, *fingerprint} if before.get(name) != fingerprint.get(name))
            raise ExperimentError(
                f"The model {model!r} is not served as when the run {self._run_id} began: {', '.join(changed)} changed.",
                fix="Start with fresh=True: one run does not mix answers of two setups.",
                run_id=self._run_id,
                changed=changed,
            )
        self._store.update_run(self._run_id, provenance={**provenance, "engines": engines})

    async def _drain(self, engine: InferenceEngine, queue: deque[Cell], width: int, again: deque[Cell]) -> None:
        """Ask for the cells of a queue, `width` at a time, until it is empty, the engine is lost, or the run is to stop."""
        lost = asyncio.Event()
        workers = [asyncio.create_task(self._worker(engine, queue, again, lost)) for _ in range(width)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(
        self, engine: InferenceEngine, queue: deque[Cell], again: deque[Cell], lost: asyncio.Event
    ) -> None:
        while queue and not lost.is_set() and not self._stopping():
            cell = queue.popleft()
            self._put(Change(cell.cell_id, "running", {}))
            try:
                messages = self._rendered[cell.prompt, cell.input_id]
                completion = await engine.achat(messages, config_of(self._grid, cell))
            except asyncio.CancelledError:
                self._put(Change(cell.cell_id, "pending", {}))
                raise
            except _LOST as error:
                lost.set()
                self._lose(cell, error, again)
            except Exception as error:
                self._fail(cell, error)
            else:
                self._losses = 0
                self._done(cell, finished_values(completion))

    def _done(self, cell: Cell, values: Mapping[str, Any]) -> None:
        scores = score(self._scorers, values["answer"], values["finish_reason"], self._variables[cell.input_id])
        found = {**values, "key": self._keys[cell.cell_id], "scores": scores}
        self._put(Change(cell.cell_id, "done", found))

    def _fail(self, cell: Cell, error: BaseException) -> None:
        self._put(Change(cell.cell_id, "failed", {"error": describe_error(error)}))

    def _lose(self, cell: Cell, error: Exception, again: deque[Cell]) -> None:
        """The engine went away under a cell: try it again, a bounded number of times."""
        tries = self._tries[cell.cell_id] = self._tries.get(cell.cell_id, 0) + 1
        if tries >= _TRIES:
            self._fail(cell, error)
        else:
            again.append(cell)
            self._put(Change(cell.cell_id, "pending", {}))
        self._count_loss(error)

    def _count_loss(self, error: Exception) -> None:
        """End the run when nothing answers any more: that is no fault of the cells, which would fail one after the other."""
        self._losses += 1
        if self._losses >= _OUTAGE and isinstance(error, Unreachable | ServerExited):
            raise error
