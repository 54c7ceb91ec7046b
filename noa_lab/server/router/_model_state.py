"""One model as the schedule sees it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ModelState"]


@dataclass(slots=True)
class ModelState:
    """One model.

    Attributes:
        name: Its name.
        bytes: Memory that it takes, or would take: as measured, before that as predicted.
        pinned: Whether it stays once it is loaded.
        state: Where it is.
        running: Requests that were sent to it and are not over.
        waiting: Requests for it that were not sent yet, oldest first, with the time they came.
        overtaken: Later requests that were sent past it while it waited for memory, since the last loading.
        closing: Whether it gets nothing new because another one waits for its memory.
        last_used: When a request was last sent to it or ended.
        failures: Failed starts in a row.
        failure: Why the last start failed; empty after one that did not.
        resting_until: Until when it is not tried again.
    """

    name: str
    bytes: int
    pinned: bool = False
    state: Literal["unloaded", "loading", "loaded", "unloading"] = "unloaded"
    running: set[int] = field(default_factory=set)
    waiting: OrderedDict[int, float] = field(default_factory=OrderedDict)
    overtaken: int = 0
    closing: bool = False
    last_used: float = 0.0
    failures: int = 0
    failure: str = ""
    resting_until: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nothing runs on it."""
        return self.state == "loaded" and not self.running

    @property
    def oldest(self) -> int:
        """Its request that has waited longest; only where one waits."""
        return next(iter(self.waiting))
