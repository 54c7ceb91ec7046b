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

    Args:
        answers: Each event of it counts as a sign of life.
        patience: Seconds.
        alive: Asked, with the seconds it may take, while the request waits for a slot: a server that answers it is not silent.
    """

    async def watch(deadline: asyncio.Timeout) -> None:
        seen = 0
        while True:
            await asyncio.sleep(patience / 4)
            waiting = not answers.events and alive is not None and await alive(patience / 4)
            if answers.events > seen or waiting:
                seen = answers.events
                deadline.reschedule(asyncio.get_running_loop().time() + patience)

    async with asyncio.timeout(patience) as deadline:
        watcher = asyncio.create_task(watch(deadline))
        try:
            yield
        finally:
            watcher.cancel()
