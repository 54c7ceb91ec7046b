"""The desk: requests come and wait, and are told where to go. Carries out what the schedule decides.

Everything runs on the event loop's thread, so that nothing needs a lock; what blocks runs in threads and comes back as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import NoaLabError
from noa_lab.server.router._actions import Action, Dispatch, Refuse, Start, Stop
from noa_lab.server.router._model_state import ModelState
from noa_lab.server.router._schedule import Schedule

if TYPE_CHECKING:
    from noa_lab.server.router._model_servers import Address, ModelServers
    from noa_lab.server.router._plan import RouterPlan

__all__ = ["Desk", "Refused"]

_LOG = logging.getLogger("noa_lab.router")
_LOOK_SECONDS = 1.0
_BACK_SECONDS = 120.0
_BACK_LOOK = 0.05


class Refused(Exception):
    """A request gets no answer. Internal: the caller makes an HTTP error of it."""

    def __init__(self, why: Refuse) -> None:
        super().__init__(why.reason)
        self.why = why


class Desk:
    """Gives requests their places.

    Args:
        plan: What the router is to do.
        servers: The models' servers.
    """

    def __init__(self, plan: RouterPlan, servers: ModelServers) -> None:
        models = (ModelState(one.name, one.predicted_bytes, one.pinned) for one in plan.models)
        self._schedule = Schedule(models, plan.policy)
        self._servers = servers
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[Address]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.counts: Counter[tuple[str, str]] = Counter()
        """What has happened, by ("requests" | "starts" | "evictions" | "failures", model)."""

    # --- for requests -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def place(self, model: str) -> AsyncIterator[Address]:
        """Wait for a place at a model, loading it if need be; it is busy until the block is left.

        Raises:
            Refused: When there is none.
        """
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = (model, future)
        self.counts["requests", model] += 1
        try:
            self._do(self._schedule.arrive(number, model, time.monotonic()))
            yield await future
        finally:
            self._waiting.pop(number, None)
            self._do(self._schedule.leave(number, time.monotonic()))

    async def lost(self, address: Address) -> None:
        """A server did not answer: wait until its watcher has started it again, or take note that it is gone.

        Returns when another place can be asked for.
        """
        deadline = time.monotonic() + _BACK_SECONDS
        while self._is_current(address) and time.monotonic() < deadline:
            state = self._servers.state(address.model)
            if state == "up":
                return
            if state == "gone":
                self._gone(address.model)
                return
            await asyncio.sleep(_BACK_LOOK)

    async def unload(self, model: str) -> bool:
        """End a model's server; False when it is at work."""
        actions = self._schedule.unload(model, time.monotonic())
        if actions is None:
            return False
        self._do(actions)
        if model in self._stops:
            await asyncio.shield(self._stops[model])
        return True

    def loaded(self, model: str) -> Address | None:
        """Where a model answers, without loading it; None when it is not loaded."""
        return self._servers.address(model) if self._schedule.models[model].state == "loaded" else None

    def states(self) -> Iterable[ModelState]:
        """How each model is."""
        return (replace(one) for one in self._schedule.models.values())

    # --- life ---------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at the servers now and then, for ever: what they take, and whether they are still there."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for one in list(self._schedule.models.values()):
                if one.state != "loaded":
                    continue
                if self._servers.state(one.name) == "gone":
                    self._gone(one.name)
                else:
                    self._do(self._schedule.measured(one.name, self._servers.measure(one.name), time.monotonic()))

    def _is_current(self, address: Address) -> bool:
        now = self.loaded(address.model)
        return now is not None and now.start == address.start

    def _gone(self, model: str) -> None:
        _LOG.warning("%s has ended by itself or was stopped", model)
        self.counts["failures", model] += 1
        self._servers.forget(model)
        self._do(self._schedule.stopped(model, time.monotonic()))

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Dispatch(request):
                    self._tell(request, None)
                case Refuse(request):
                    self._tell(request, Refused(action))
                case Start(model):
                    self._spawn(self._start(model))
                case Stop(model):
                    self._stops[model] = self._spawn(self._stop(model))
        self._set_timer()

    def _tell(self, request: int, refused: Refused | None) -> None:
        model, future = self._waiting.get(request, ("", None))
        if future is None or future.done():
            return
        if refused is None:
            future.set_result(self._servers.address(model))  # now: it may be gone when the request looks
        else:
            future.set_exception(refused)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, model: str) -> None:
        _LOG.info("loading %s", model)
        began = time.monotonic()
        self.counts["starts", model] += 1
        try:
            taken = await asyncio.to_thread(self._servers.start, model)
        except Exception as error:  # whatever it is: those who wait for the model have to hear of it
            reason = error.message if isinstance(error, NoaLabError) else f"{type(error).__name__}: {error}"
            _LOG.error("%s does not load: %s", model, reason)
            self.counts["failures", model] += 1
            self._do(self._schedule.start_failed(model, reason, time.monotonic()))
        else:
            now = time.monotonic()
            _LOG.info("loaded %s in %.1f s: %.0f MB", model, now - began, taken / 1e6)
            self._do(self._schedule.started(model, taken, now))

    async def _stop(self, model: str) -> None:
        _LOG.info("unloading %s", model)
        self.counts["evictions", model] += 1
        try:
            await asyncio.to_thread(self._servers.stop, model)
        finally:
            del self._stops[model]
            self._do(self._schedule.stopped(model, time.monotonic()))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        due = self._schedule.wake_at(now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(due - now, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._schedule.tick(time.monotonic()))
