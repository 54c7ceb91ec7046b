"""One private event loop in a daemon thread, on which every request of this process runs.

Sync calls wait for it from outside, so they also work where an event loop is already running (a notebook cell). The module owns
the thread: it starts with the first request, ends at interpreter exit, and a forked child begins with a new one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

__all__ = ["LoopThread", "background", "next_piece"]

T = TypeVar("T")

_POLL_SECONDS = 0.25
"""Waits are cut: Windows delivers Ctrl-C only between them, and elsewhere one that arrives just as a wait begins does not end it."""


class Closable(Protocol):
    """What is closed on the loop it was used on."""

    async def aclose(self) -> None: ...


class LoopThread:
    """A daemon thread that runs an event loop until `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._owned: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._thread = threading.Thread(target=self._serve, name="noa-lab-inference", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start `work` on the loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` from another thread; an exception in the waiting thread (Ctrl-C) cancels it.

        Raises:
            RuntimeError: When called on the loop's own thread, which would wait for itself for ever.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("A sync call was made on noa_lab's own event loop; use its async twin there.")
        future = self.submit(work)
        try:
            while not concurrent.futures.wait([future], timeout=_POLL_SECONDS).done:
                pass
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def hop(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work` from another event loop; cancelling the waiting task cancels it."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        return await asyncio.wrap_future(self.submit(work))

    def own(self, thing: Closable) -> None:
        """Close `thing` when the thread ends, should it still be there."""
        self._owned.add(thing)

    def stop(self) -> None:
        """Cancel what is running, close what is still open and end the thread."""
        if self.loop.is_closed():
            return
        with contextlib.suppress(concurrent.futures.CancelledError, TimeoutError):
            self.submit(self._wind_down()).result(timeout=3.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=1.0)

    async def _wind_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.gather(*(thing.aclose() for thing in list(self._owned)), return_exceptions=True)


_current: LoopThread | None = None
_lock = threading.Lock()
_before_fork: list[LoopThread | None] = []


def background() -> LoopThread:
    """The loop thread of this process, started on first use."""
    global _current  # noqa: PLW0603 - one loop thread for the process is the point
    with _lock:
        if _current is None or _current.loop.is_closed():
            _current = LoopThread()
        return _current


def _forget_after_fork() -> None:
    """In a forked child the thread is gone, and its selector is shared with the parent: never touch or collect it."""
    global _current, _lock
    _before_fork.append(_current)
    _current, _lock = None, threading.Lock()


def _stop_at_exit() -> None:
    if _current is not None:
        _current.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_stop_at_exit)


def next_piece(pieces: queue.SimpleQueue[str | None]) -> str | None:
    """Wait for the next piece of an answer so that Ctrl-C is noticed on every platform."""
    while True:
        try:
            return pieces.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
