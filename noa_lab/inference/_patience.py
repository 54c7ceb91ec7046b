"""Giving up after a silence, not after a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from noa_lab.inference._growing_answers import GrowingAnswers

__all__ = ["patient"]


@contextlib.asynccontextmanager
async def patient(
    answers: GrowingAnswers, patience: float, alive: Callable[[float], Awaitable[bool]] | None = None
) -> AsyncIterator[None]:
    """Raise `TimeoutError` when nothing happens for `patience` seconds.

    Time in which this process itself stood still (Ctrl-Z, a laptop that slept) says nothing of the server: between two looks, twice the
    time between them counts at most.

    Args:
        answers: Each event of it counts as a sign of life.
        patience: Seconds.
        alive: Asked, with the seconds it may take, while the request waits for a slot: a server that answers it is not silent.
    """

    async def watch(deadline: asyncio.Timeout) -> None:
        clock = asyncio.get_running_loop().time
        seen, silence, last = 0, 0.0, clock()
        while silence < patience:
            await asyncio.sleep(patience / 4)
            waiting = not answers.events and alive is not None and await alive(patience / 4)
            now = clock()
            silence = 0.0 if answers.events > seen or waiting else silence + min(now - last, patience / 2)
            seen, last = answers.events, now
        deadline.reschedule(clock())

    async with asyncio.timeout(None) as deadline:
        watcher = asyncio.create_task(watch(deadline))
        try:
            yield
        finally:
            watcher.cancel()
