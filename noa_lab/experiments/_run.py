"""A run as its user sees it: a view of the store that can be watched, waited for, paused, resumed and asked for a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, Cancelled, NoaLabError, RunUnfinished
from noa_lab.experiments._run_record import RunRecord
from noa_lab.experiments._run_table import cell_records, cells_frame, summary_html
from noa_lab.experiments._run_wait import end_of, stored_error
from noa_lab.experiments.execution._answers import check_scorers, score
from noa_lab.experiments.execution._identity import IdentityFor, identities_of, recorded, refuse_changes
from noa_lab.experiments.execution._runner import Listener, Runner, live_runner
from noa_lab.experiments.execution._tally import RunProgress
from noa_lab.experiments.execution._wish import EngineFor, Hindrance
from noa_lab.experiments.grading import check_graders, is_graded, kept_grades
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._specs import scorer_from_spec
from noa_lab.experiments.store._labels import Wish, ask
from noa_lab.experiments.store._lease import release
from noa_lab.experiments.store._store import Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

_POLL = 0.25
_CANCEL_SECONDS = 5.0
_OVER = ("done", "failed", "cancelled")


class Run(RunRecord):
    """One comparison, running or not. Any number of views of a run may exist; what they show comes from the store.

    `await run` waits like `result()`; cancelling the await, as an interrupt in a notebook does, cancels the run.

    Args:
        store: Where it is.
        run_id: Its id.
        engine_for: Opens a model's engine; without it the run can only be read.
        scorers: How its answers are scored; default: as the run was started with.
        identity_for: What a model is now, see `start`.
        hindrance: What stands against the executor "tree", see `start`.
        grid: What it runs, where that is at hand.
        conversations: The grid's conversations, where they have been filled in already.

    Raises:
        UnknownName: When there is no such run.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        engine_for: EngineFor | None = None,
        scorers: Sequence[Scorer] | None = None,
        identity_for: IdentityFor | None = None,
        hindrance: Hindrance | None = None,
        grid: Grid | None = None,
        conversations: Conversations | None = None,
    ) -> None:
        super().__init__(store, run_id, grid)
        self._engine_for, self._identity_for, self._hindrance = engine_for, identity_for, hindrance
        self._given = None if scorers is None else tuple(scorers)
        self._conversations = conversations
        self._last: Runner | None = None
        self._listeners: list[Listener] = []

    def __repr__(self) -> str:
        now = self.progress()
        return f"<Run {self.run_id} {self.name!r}: {now.status}, {now.done} of {now.total} cells done, {now.failed} failed>"

    def _repr_html_(self) -> str:
        return summary_html(self.name, self.progress(), self._store.means(self.run_id))

    # How far it is

    @property
    def status(self) -> str:
        """See `RunProgress.status`."""
        runner = live_runner(self._store, self.run_id)
        return runner.progress().status if runner is not None else self._store.status(self.run_id)[0]

    @property
    def running(self) -> bool:
        """Whether some process executes it, this one or another."""
        return live_runner(self._store, self.run_id) is not None or self._store.status(self.run_id)[1] is not None

    def progress(self) -> RunProgress:
        """How far it is; `eta_seconds` is only known in the process that executes it."""
        runner = live_runner(self._store, self.run_id)
        if runner is not None:
            return runner.progress()
        row = self._store.run(self.run_id)
        counts = self._store.counts(self.run_id)
        running = counts["running"] if row["pid"] is not None else 0
        total = counts["pending"] + counts["running"] + counts["done"] + counts["failed"]
        return RunProgress(
            self.run_id,
            row["status"],
            total=total,
            done=counts["done"],
            failed=counts["failed"],
            running=running,
            pending=total - counts["done"] - counts["failed"] - running,
            cached=counts["cached"],
            error=row["error"]["message"] if row["error"] else "",
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Be told how far it is, as long as this process executes it.

        Args:
            listener: Called from another thread with a `RunProgress` after each commit (its `changed` names the cells, which
                `cells(ids)` then shows) and each change of status. It must return quickly.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(listener)
        runner = live_runner(self._store, self.run_id)
        end_current = runner.subscribe(listener) if runner is not None else None

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if end_current is not None:
                end_current()
            if self._last is not None:
                self._last.unsubscribe(listener)

        return end

    # What it found

    def cells(self, ids: Iterable[str] | None = None) -> pd.DataFrame:
        """One row a cell, in the order of execution.

        Args:
            ids: Only these cells; None for all.

        Returns:
            A DataFrame with the columns `run_id, cell_id, prompt, input_id, model, sampling, repeat, status, answer, error,
            finish_reason, seed, prompt_tokens, cached_tokens, completion_tokens, queue_ms, ttft_ms, prefill_ms, decode_ms,
            total_ms, executor, cached`, then `score.<name>` for each scorer (and `score_error.<name>` where one failed) and
            `input.<name>` for each field of the inputs. Times of cached cells are NaN: a copied answer took none.
        """
        rows = self._store.cells(self.run_id, ids)
        return cells_frame(self.grid, self.scorers, rows, alive=self.running)

    def as_dict(self) -> dict[str, Any]:
        """Everything about the run as plain data for JSON; `cells` has the columns of `cells()`."""
        rows = self._store.cells(self.run_id)
        return {
            "run_id": self.run_id,
            "name": self.name,
            "status": self.status,
            "created": self.created,
            "progress": self.progress().as_dict(),
            "prompts": {name: prompt.turns() for name, prompt in self.grid.prompts.items()},
            "models": self.models,
            "sampling": [config.model_dump(mode="json") for config in self.grid.sampling],
            "repeats": self.grid.repeats,
            "seed": self.grid.seed,
            "exclude": self.grid.exclude.as_list(),
            "executor": self.executor,
            "scorers": self.scorer_specs,
            "provenance": self.provenance,
            "cells": cell_records(self.grid, self.scorers, rows, alive=self.running),
        }

    # What can be done with it

    def pause(self) -> None:
        """Begin no further cell. Those in flight finish, then the engine is let go; `resume` goes on. A download or start is given up.

        Another process that executes the run hears of it within a second.
        """
        self._ask("pause")

    def cancel(self) -> None:
        """Cancel the requests in flight, or the download or start of a model, and stop; what is finished is kept, and `resume` goes on.

        Another process that executes the run hears of it within a second.
        """
        self._ask("cancel")

    def _ask(self, wish: Wish) -> None:
        runner = live_runner(self._store, self.run_id)
        if runner is None:
            if self._store.status(self.run_id)[1] is not None:
                ask(self._store, self.run_id, wish)
        elif wish == "pause":
            runner.pause()
        else:
            runner.cancel()

    def resume(self) -> None:
        """Go on with the cells that are missing; failed ones are tried again. A finished run stays as it is.

        Returns at once; only a run that is just being paused or cancelled is first waited for.

        Raises:
            RunBusy: When another process executes it.
            BadInput: When this view has no engines, or the run's scorers cannot be made again from the store.
            ExperimentError: When a model has changed since the run began.
        """
        conversations, self._conversations = self._conversations, None
        runner = live_runner(self._store, self.run_id)
        if runner is not None and runner.go_on():
            return
        if runner is not None:
            runner.wait()
        if self._store.status(self.run_id)[0] == "done" and is_graded(self._store, self.run_id, self.scorer_specs):
            return
        if self._engine_for is None:
            raise BadInput(
                f"This view of the run {self.run_id} can only be read.",
                fix="Open it with lab.open_run(...), or pass engine_for=.",
                field="engine_for",
                value=None,
            )
        refuse_changes(self.run_id, recorded(self.provenance), identities_of(self.models, self._identity_for))
        scorers = self._scorers()
        token = self._store.lease(self.run_id)
        try:
            runner = Runner(
                self._store,
                self.run_id,
                token,
                grid=self.grid,
                conversations=conversations or self.grid.conversations(),
                scorers=scorers,
                engine_for=self._engine_for,
                hindrance=self._hindrance,
            )
        except BaseException:
            self._give_back(token, "paused")
            raise
        self._last = runner
        for listener in self._listeners:
            runner.subscribe(listener)
        runner.start()

    def rescore(self, scorers: Sequence[Scorer]) -> None:
        """Score the stored answers with other scorers; the new scores take the old ones' place.

        No answer is asked for again. Scorers that ask a model themselves go to work in the background (`result` waits for them); grades
        of those that stay as they were are kept.

        Raises:
            RunBusy: While the run is being executed.
            BadInput: When two scorers have one name.
            TemplateInvalid: When a scorer uses a field that no input has.
        """
        chosen = tuple(scorers)
        check_scorers(chosen, set(self.grid.fields))
        check_graders(self.grid, chosen)
        state, before = self._store.run(self.run_id)["state"], self.scorer_specs
        token = self._store.lease(self.run_id, retry_failed=False)
        try:
            variables = {found.id: found.variables for found in self.grid.inputs}
            done = [row for row in self._store.cells(self.run_id) if row["status"] == "done"]
            updates = [
                (
                    row["cell_id"],
                    score(chosen, row, variables[row["input_id"]]) | kept_grades(before, chosen, row["scores"]),
                )
                for row in done
            ]
            self._store.replace_scores(self.run_id, [scorer.spec() for scorer in chosen], updates)
        finally:
            graded = is_graded(self._store, self.run_id, self.scorer_specs)
            self._give_back(token, state if graded and state != "running" else "paused")
        self._given = chosen
        if not graded and self._engine_for is not None:
            self.resume()

    def _give_back(self, token: str, state: str) -> None:
        with self._store.write() as connection:
            release(connection, self.run_id, token, state, None)

    def _scorers(self) -> tuple[Scorer, ...]:
        if self._given is None:
            self._given = tuple(scorer_from_spec(spec) for spec in self.scorer_specs)
        return self._given

    # Waiting for it

    def result(self, timeout: float | None = None) -> Run:
        """Wait until it is over. Ctrl-C cancels it.

        Args:
            timeout: Most seconds to wait; None waits for ever.

        Returns:
            The run itself. Some of its cells may have failed: `status` and `progress().failed` say so.

        Raises:
            RunUnfinished: When the time is up (the run goes on), or when it is paused.
            Cancelled: When it was cancelled.
            NoaLabError: What ended the run early, for example `ServerExited`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while self.running:
                left = _POLL if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise self._unfinished(f"was not over after {timeout:g} seconds", "Wait longer; it goes on.")
                self._wait(min(left, _POLL))
        except KeyboardInterrupt:
            runner = live_runner(self._store, self.run_id)
            if runner is not None:
                runner.cancel()
                runner.wait(_CANCEL_SECONDS)
            raise
        return self._outcome()

    def _wait(self, seconds: float) -> None:
        runner = live_runner(self._store, self.run_id)
        if runner is not None:
            runner.wait(seconds)
        else:
            time.sleep(seconds)

    def __await__(self) -> Generator[Any, None, Run]:
        return self._awaited().__await__()

    async def _awaited(self) -> Run:
        try:
            runner = live_runner(self._store, self.run_id)
            if runner is not None:
                await end_of(runner)
            while self.running:  # noqa: ASYNC110 - another process executes it; only the store can tell
                await asyncio.sleep(_POLL)
        except asyncio.CancelledError:
            runner = live_runner(self._store, self.run_id)
            if runner is not None:
                runner.cancel()
            raise
        return self._outcome()

    def _outcome(self) -> Run:
        row = self._store.run(self.run_id)
        if row["status"] == "cancelled":
            raise Cancelled(f"The run {self.run_id} was cancelled.", fix="run.resume() goes on where it stopped.")
        if row["status"] not in _OVER and row["error"] is None:
            raise self._unfinished(f"is {row['status']}", "run.resume() goes on.")
        if row["error"] is not None:
            own = self._last.error if self._last is not None else None
            raise own if isinstance(own, NoaLabError) else stored_error(row["error"]) from own
        return self

    def _unfinished(self, how: str, fix: str) -> RunUnfinished:
        now = self.progress()
        return RunUnfinished(
            f"The run {self.run_id} {how}: {now.done} of {now.total} cells are done.",
            fix=fix,
            run_id=self.run_id,
            done=now.done,
            total=now.total,
        )
