"""One process at a time, for what two must not do at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noa_lab.events import CancelToken, Progress, Report

__all__ = ["exclusive"]


@contextmanager
def exclusive(path: Path, step: str, *, report: Report, cancel: CancelToken | None) -> Iterator[None]:
    """Hold a lock file; a dead holder's lock is free. Threads of one process exclude each other too.

    Args:
        path: The lock file; its folder must exist.
        step: What is waited for, for the progress reports.
        report: Told once when it has to wait.
        cancel: Ends the wait.

    Raises:
        Cancelled: When `cancel` was.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    told = False
    while True:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if cancel is not None:
                cancel.check(step)
            if not told:
                report(Progress(step, "another process is at it; waiting for it"))
                told = True
            continue
        break
    try:
        yield
    finally:
        lock.release()
