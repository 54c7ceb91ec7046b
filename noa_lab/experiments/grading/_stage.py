"""The stage of a run in which models grade its answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from noa_lab.errors import NoaLabError
from noa_lab.experiments.execution._answers import storable
from noa_lab.experiments.execution._job import Job
from noa_lab.experiments.execution._losses import LOST, REOPEN_SECONDS, TRIES, Losses
from noa_lab.experiments.execution._wish import EngineWish
from noa_lab.experiments.grading._cases import Task, open_tasks
from noa_lab.experiments.grading._record import Record
from noa_lab.experiments.score._model import Grade, needs_model
from noa_lab.inference import InferenceEngine

__all__ = ["Grading"]


class Grading:
    """Grades what is not graded yet, model by model.

    Args:
        job: The run.
        token: Its lease.
        on_commit: Called with the ids of the cells whose grades are on the disk.

    Attributes:
        left: Questions that have no answer yet; 0 before `run`.
        total: Questions in all; 0 before `run`.
        finished: Whether nothing is left to be graded.
    """

    def __init__(self, job: Job, token: str, on_commit: Callable[[tuple[str, ...]], None]) -> None:
        self._job, self._token, self._on_commit = job, token, on_commit
        self._scorers = [scorer for scorer in job.scorers if needs_model(scorer)]
        self._losses = Losses()
        self.left = self.total = 0
        self.finished = not self._scorers

    async def run(self) -> None:
        """Grade everything; answers that cannot be graded get an error in the place of a score.

        Raises:
            NoaLabError: When a model cannot be served at all; what is left waits for the next run.
        """
        if not self._scorers:
            return
        job = self._job
        rows = await asyncio.to_thread(job.store.cells, job.run_id)
        tasks, settled = open_tasks(job.grid, job.conversations, self._scorers, rows)
        self.left = self.total = len(tasks)
        scores = {row["cell_id"]: row["scores"] or {} for row in rows}
        record = Record(job.store, job.run_id, self._token, scores, self._on_commit)
        for cell_id, grades in settled.items():
            for name, grade in grades.items():
                record.put(cell_id, name, grade)
        try:
            for model in dict.fromkeys(task.model for task in tasks):
                if not job.stopping():
                    await self._grade(model, {id(task): task for task in tasks if task.model == model}, record)
        finally:
            record.commit()
        self.finished = not self.left

    async def _grade(self, model: str, tasks: dict[int, Task], record: Record) -> None:
        """Answer the questions to one model, opening it again when it goes away."""
        opened = False
        while tasks and not self._job.stopping():
            try:
                with self._job.open(model, EngineWish()) as engine:
                    if not opened:
                        self._job.provenance.note_grader(model, engine.fingerprint())
                        opened = True
                    # What a model broke under is tried alone, so that it takes no innocent neighbour with it.
                    sound = deque(task for task in tasks.values() if not task.tries)
                    width = engine.capabilities.slots if sound else 1
                    await self._drain(engine, tasks, sound or deque(tasks.values()), max(width, 1), record)
            except LOST as error:
                if not opened:
                    raise
                self._losses.count(error)
            if tasks:
                await asyncio.sleep(REOPEN_SECONDS)

    async def _drain(
        self, engine: InferenceEngine, tasks: dict[int, Task], queue: deque[Task], width: int, record: Record
    ) -> None:
        lost = asyncio.Event()

        async def work() -> None:
            while queue and not lost.is_set() and not self._job.stopping():
                task = queue.popleft()
                try:
                    grade = _stored(await task.scorer.grade(engine, task.case))
                except LOST as error:
                    lost.set()
                    self._losses.count(error)
                    task.tries += 1
                    if task.tries < TRIES:
                        continue
                    grade = _failure(error) | {"lost": True}
                except (NoaLabError, ValueError, ArithmeticError) as error:
                    grade = _failure(error)
                else:
                    self._losses.answered()
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


def _stored(grade: Grade) -> dict[str, Any]:
    found: dict[str, Any] = {"value": grade.value, "error": None}
    if grade.reason:
        found["reason"] = storable(grade.reason)
    if grade.orders:
        found["orders"] = grade.orders
    return found


def _failure(error: Exception) -> dict[str, Any]:
    return {"value": None, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
