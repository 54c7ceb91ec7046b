"""Executes a run on a thread of its own, and tells how far it is.

What has finished goes to the run's `Writer`; listeners hear of it after the commit. Pausing lets cells in flight finish; cancelling
cancels their requests. Either way, and after a crash, the unfinished cells are pending and another runner can go on.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from noa_lab.errors import BudgetSpent, Cancelled, NoaLabError
from noa_lab.events import Progress
from noa_lab.experiments.execution._budget import Allowance
from noa_lab.experiments.execution._job import Job
from noa_lab.experiments.execution._provenance import Provenance
from noa_lab.experiments.execution._tally import RunProgress, Tally
from noa_lab.experiments.execution._wish import EngineFor, Hindrance
from noa_lab.experiments.execution._work import execute
from noa_lab.experiments.grading import Grading
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.store._labels import take_wish
from noa_lab.experiments.store._store import Store
from noa_lab.experiments.store._writer import Change, Writer, describe_error

if TYPE_CHECKING:
    from noa_lab.experiments.score._base import Scorer

__all__ = ["Listener", "Runner", "live_runner"]

Listener = Callable[[RunProgress], None]

_EXIT_SECONDS = 3.0
_WISH_SECONDS = 1.0
"""How often a run looks whether another process wants it to pause or to stop."""

_log = logging.getLogger(__name__)
_live: dict[tuple[str, str], Runner] = {}
_live_lock = threading.Lock()


def live_runner(store: Store, run_id: str) -> Runner | None:
    """The runner that executes a run in this process, or None."""
    with _live_lock:
        return _live.get((str(store.path.absolute()), run_id))


@atexit.register
def _end_with_the_process() -> None:
    with _live_lock:
        runners = list(_live.values())
    for runner in runners:
        runner.cancel(as_state="paused")
    for runner in runners:
        runner.wait(_EXIT_SECONDS)


class Runner:
    """One execution of a run. It begins with `start` and ends by itself, by `pause`, by `cancel`, or with the process.

    Args:
        store: Where the run is.
        run_id: The run.
        token: The run's lease, which the runner gives back at its end.
        grid: The run's grid.
        conversations: Its conversations.
        scorers: How its answers are scored.
        engine_for: Opens a model's engine.
        hindrance: Tells what stands against the executor "tree", see `start`.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        token: str,
        *,
        grid: Grid,
        conversations: Conversations,
        scorers: Sequence[Scorer],
        engine_for: EngineFor,
        hindrance: Hindrance | None = None,
    ) -> None:
        self.run_id, self.scorers = run_id, tuple(scorers)
        self._place = (str(store.path.absolute()), run_id)
        self._tally = Tally(store.counts(run_id))
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._status, self._stop_as = "running", ""
        self._pause_seen = False
        self._error: BaseException | None = None
        self._spent: BudgetSpent | None = None
        self._opening = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = threading.Event()
        self._writer = Writer(store, run_id, token, on_commit=self._committed, on_error=self._cannot_commit)
        row = store.run(run_id)
        self._store = store
        self._allowance = Allowance(run_id, row["budget"])
        self._job = Job(
            store,
            run_id,
            grid,
            conversations,
            self.scorers,
            engine_for,
            put=self._put,
            stopping=self._stopping,
            requested=row["executor"],
            reuse=row["reuse"],
            provenance=Provenance(store, run_id),
            hindrance=hindrance,
            report=self._opens,
        )
        self._grading = Grading(self._job, token, self._announce)
        self._thread = threading.Thread(target=self._run, name=f"noa-lab run {run_id}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        with _live_lock:
            _live[self._place] = self
        self._thread.start()

    # Control and observation, from any thread

    def pause(self) -> None:
        """Begin no further cell; those in flight finish, then the run is paused and the engine let go.

        A model that is just being opened is given up: nothing is in flight then.
        """
        with self._lock:
            if self._status == "running":
                self._status = "pausing"
        if self._opening:
            self._job.cancel.cancel()
        self._announce()

    def go_on(self) -> bool:
        """Take back a `pause` that has not taken effect yet; returns whether the runner is still at work."""
        with self._lock:
            if self._status == "pausing" and not self._pause_seen and not self._job.cancel.cancelled:
                self._status = "running"
            at_work = self._status == "running" and not self._stop_as
        self._announce()
        return at_work

    def cancel(self, as_state: str = "cancelled") -> None:
        """Cancel the requests in flight, or the opening of a model, and stop."""
        with self._lock:
            self._stop_as = self._stop_as or as_state
            loop, task = self._loop, self._task
        self._job.cancel.cancel()
        if loop is not None and task is not None:
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                pass  # the loop has ended in the meantime

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it has come."""
        return self._ended.wait(timeout)

    @property
    def ended(self) -> bool:
        """Whether it is over and the lease given back."""
        return self._ended.is_set()

    @property
    def error(self) -> BaseException | None:
        """What ended the run before its end, or None."""
        return self._error

    def progress(self, changed: tuple[str, ...] = ()) -> RunProgress:
        """How far the run is; `changed` is passed on."""
        counts = self._tally.counts()
        total = sum(counts[status] for status in ("pending", "running", "done", "failed"))
        error = "" if self._error is None else str(describe_error(self._error)["message"])
        eta = None if self.ended else self._tally.eta()
        return RunProgress(
            self.run_id,
            self._status,
            total=total,
            graded=self._grading.total - self._grading.left,
            to_grade=self._grading.total,
            eta_seconds=eta,
            error=error,
            changed=changed,
            opening=self._opening,
            **counts,
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called after each commit and each change of status; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self.unsubscribe(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """End a subscription; one that has ended already is fine."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _announce(self, changed: tuple[str, ...] = ()) -> None:
        with self._lock:
            listeners = list(self._listeners)
        if listeners:
            now = self.progress(changed)
            for listener in listeners:
                try:
                    listener(now)
                except Exception:
                    _log.exception("a listener of the run %s failed", self.run_id)

    def _committed(self, changes: Sequence[Change]) -> None:
        self._tally.apply(changes)
        self._announce(tuple(dict.fromkeys(change.cell_id for change in changes)))

    def _cannot_commit(self, error: BaseException) -> None:
        self._error = error
        self.cancel(as_state="failed")

    # On the runner's thread

    def _run(self) -> None:
        self._announce()
        over = threading.Event()
        listening = threading.Thread(
            target=self._listen, args=(over,), name=f"{self._thread.name}: wishes", daemon=True
        )
        listening.start()
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass  # `cancel` has noted why
        except BaseException as error:
            wanted = isinstance(error, Cancelled) and (self._stop_as or self._status == "pausing")
            if not wanted:
                self._error = self._error or error
            _log.debug("the run %s ended early", self.run_id, exc_info=True)
        finally:
            over.set()
            listening.join()
            self._finish()

    async def _main(self) -> None:
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self._stop_as:
                return
        await execute(self._job)
        if not self._grading.finished and not self._stopping():
            await asyncio.to_thread(self._writer.flush)
            await self._grading.run()

    def _listen(self, over: threading.Event) -> None:
        """Do what another process asks of the run; on a thread of its own, since the loop waits while a model is opened."""
        while not over.wait(_WISH_SECONDS):
            try:
                wish = take_wish(self._store, self.run_id)
            except NoaLabError:
                continue  # whether the database can still be used is the writer's to say
            if wish == "pause":
                self.pause()
            elif wish == "cancel":
                self.cancel()

    def _opens(self, progress: Progress) -> None:
        share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
        words = f"{progress.step}{share}" + (f": {progress.message}" if progress.message else "")
        self._opening = "" if progress.finished else words

    def _put(self, change: Change) -> None:
        self._allowance.spend(change)
        self._writer.put(change)

    def _stopping(self) -> bool:
        spent = self._allowance.reason()
        with self._lock:
            if spent is not None and self._status == "running":
                self._status, self._spent = "pausing", spent
            # Once the work has seen the pause, parts of it have ended, and only another runner can go on.
            self._pause_seen = self._pause_seen or self._status == "pausing"
            return self._pause_seen

    def _finish(self) -> None:
        try:
            self._writer.drain()
            state = self._final_state()
            if state == "paused":
                self._error = self._error or self._spent
            self._writer.close(state, None if self._error is None else describe_error(self._error))
        except BaseException as failure:
            # The lease stays behind and ends with this process; resume takes over then.
            self._error = self._error or failure
            state = "failed"
            _log.debug("the run %s could not be closed", self.run_id, exc_info=True)
        self._job.conversations.forget()
        with self._lock:
            self._status = state
        with _live_lock:
            _live.pop(self._place, None)
        self._ended.set()
        self._announce()

    def _final_state(self) -> str:
        counts = self._tally.counts()
        if self._error is not None:
            return "failed"
        if counts["pending"] + counts["running"] == 0 and self._grading.finished:
            return "failed" if counts["failed"] else "done"
        return self._stop_as or "paused"
