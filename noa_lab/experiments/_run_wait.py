"""Waiting for a runner, and what a run that ended early raises."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import noa_lab.errors
from noa_lab.errors import ExperimentError, NoaLabError
from noa_lab.experiments.execution._runner import Runner
from noa_lab.experiments.execution._tally import RunProgress

__all__ = ["end_of", "stored_error"]


async def end_of(runner: Runner) -> None:
    """Wait, in a running event loop, until a runner of this process is over."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def tell(progress: RunProgress) -> None:
        del progress
        if runner.ended and not loop.is_closed():
            loop.call_soon_threadsafe(over.set)

    end_subscription = runner.subscribe(tell)
    try:
        if not runner.ended:
            await over.wait()
    finally:
        end_subscription()


def stored_error(data: Mapping[str, Any]) -> NoaLabError:
    """The error that `describe_error` has described, of its own class where that is one of ours."""
    kind = getattr(noa_lab.errors, str(data["kind"]), None)
    if isinstance(kind, type) and issubclass(kind, NoaLabError):
        return kind(str(data["message"]), fix=str(data["fix"]))
    return ExperimentError(f"{data['kind']}: {data['message']}", fix=str(data["fix"]))
