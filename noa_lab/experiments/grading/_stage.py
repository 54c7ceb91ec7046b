"""The stage of a run in which models grade its answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noa_lab.errors import ExperimentError, NoaLabError, ServerExited, StreamBroken, Unreachable
from noa_lab.experiments.execution._answers import storable
from noa_lab.experiments.execution._wish import EngineFor, EngineWish
from noa_lab.experiments.grading._cases import Task, open_tasks
from noa_lab.experiments.grading._record import Record
from noa_lab.experiments.grid._cells import Rendered
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._model import Grade, needs_model
from noa_lab.experiments.store._store import Store
from noa_lab.inference import InferenceEngine

__all__ = ["Grading"]

_LOST = (Unreachable, StreamBroken, ServerExited)
_TRIES = 3
_OUTAGE = 6
_REOPEN_SECONDS = 0.2


class Grading:
    """Grades what is not graded yet, model by model.

    Args:
        store: Where the run is.
        run_id: The run.
        token: Its lease.
        grid: Its grid.
        rendered: Its conversations.
        scorers: Its scorers; those that ask no model are left alone.
        engine_for: Opens a model's engine.
        stopping: Whether no further question is to be begun.
        on_commit: Called with the ids of the cells whose grades are on the disk.

    Attributes:
        left: Questions that have no answer yet; 0 before `run`.
        total: Questions in all; 0 before `run`.
        finished: Whether nothing is left to be graded.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        token: str,
        *,
        grid: Grid,
        rendered: Rendered,
        scorers: Sequence[Scorer],
        engine_for: EngineFor,
        stopping: Callable[[], bool],
        on_commit: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._store, self._run_id, self._token = store, run_id, token
        self._grid, self._rendered = grid, rendered
        self._scorers = [scorer for scorer in scorers if needs_model(scorer)]
        self._engine_for, self._stopping, self._on_commit = engine_for, stopping, on_commit
        self._losses = 0
        self.left = self.total = 0
        self.finished = not self._scorers

    async def run(self) -> None:
        """Grade everything; answers that cannot be graded get an error in the place of a score.

        Raises:
            NoaLabError: When a model cannot be served at all; what is left waits for the next run.
        """
        if not self._scorers:
            return
        rows = await asyncio.to_thread(self._store.cells, self._run_id)
        tasks, settled = open_tasks(self._grid, self._rendered, self._scorers, rows)
        self.left = self.total = len(tasks)
        scores = {row["cell_id"]: row["scores"] or {} for row in rows}
        record = Record(self._store, self._run_id, self._token, scores, self._on_commit)
        for cell_id, grades in settled.items():
            for name, grade in grades.items():
                record.put(cell_id, name, grade)
        try:
            for model in dict.fromkeys(task.model for task in tasks):
                if not self._stopping():
                    await self._grade(model, {id(task): task for task in tasks if task.model == model}, record)
        finally:
            record.commit()
        self.finished = not self.left

    async def _grade(self, model: str, tasks: dict[int, Task], record: Record) -> None:
        """Answer the questions to one model, opening it again when it goes away."""
        opened = False
        while tasks and not self._stopping():
            try:
                with self._engine_for(model, EngineWish()) as engine:
                    if not opened:
                        self._note(model, engine.fingerprint())
                        opened = True
                    # What a model broke under is tried alone, so that it takes no innocent neighbour with it.
                    sound = deque(task for task in tasks.values() if not task.tries)
                    width = engine.capabilities.slots if sound else 1
                    await self._drain(engine, tasks, sound or deque(tasks.values()), max(width, 1), record)
            except _LOST as error:
                if not opened:
                    raise
                self._count_loss(error)
            if tasks:
                await asyncio.sleep(_REOPEN_SECONDS)

    async def _drain(
        self, engine: InferenceEngine, tasks: dict[int, Task], queue: deque[Task], width: int, record: Record
    ) -> None:
        lost = asyncio.Event()

        async def work() -> None:
            while queue and not lost.is_set() and not self._stopping():
                task = queue.popleft()
                try:
                    grade = _stored(await task.scorer.grade(engine, task.case))
                except _LOST as error:
                    lost.set()
                    self._count_loss(error)
                    task.tries += 1
                    if task.tries < _TRIES:
                        continue
                    grade = _failure(error) | {"lost": True}
                except (NoaLabError, ValueError, ArithmeticError) as error:
                    grade = _failure(error)
                else:
                    self._losses = 0
                del tasks[id(task)]
                self.left -= 1
                for cell_id in task.cells:
                    record.put(cell_id, task.scorer.name, grade)
                if record.due:
                    await asyncio.to_thread(record.commit)

        workers = [asyncio.create_task(work()) for _ in range(width)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _count_loss(self, error: Exception) -> None:
        """End the stage when nothing answers any more: that is no fault of the answers, which would fail one after the other."""
        self._losses += 1
        if self._losses >= _OUTAGE and isinstance(error, Unreachable | ServerExited):
            raise error

    def _note(self, model: str, fingerprint: Mapping[str, Any]) -> None:
        """Note what grades: grades of two setups are not mixed."""
        provenance = self._store.run(self._run_id)["provenance"]
        graders = dict(provenance.get("graders", {}))
        before = graders.setdefault(model, dict(fingerprint))
        if before != fingerprint:
            changed = sorted(name for name in {*before, *fingerprint} if before.get(name) != fingerprint.get(name))
            raise ExperimentError(
                f"The grader {model!r} is not served as when it began to grade the run {self._run_id}: {', '.join(changed)} changed.",
                fix="Give it another name in another scorer, or start with fresh=True: one run does not mix grades of two setups.",
                run_id=self._run_id,
                changed=changed,
            )
        self._store.update_run(self._run_id, provenance={**provenance, "graders": graders})


def _stored(grade: Grade) -> dict[str, Any]:
    found: dict[str, Any] = {"value": grade.value, "error": None}
    if grade.reason:
        found["reason"] = storable(grade.reason)
    if grade.orders:
        found["orders"] = grade.orders
    return found


def _failure(error: Exception) -> dict[str, Any]:
    return {"value": None, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
