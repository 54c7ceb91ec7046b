"""Models in the embedded runtime for comparisons: whether that is a good idea, and with which sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from noa_lab import runtime
from noa_lab.errors import NotEnoughMemory, RuntimeMissing

if TYPE_CHECKING:
    from noa_lab.experiments import EngineWish
    from noa_lab.inference.embedded import TreeEngine
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.server import ServerSettings

__all__ = ["Trees"]

_FEWEST = 2
"""Answers side by side below which a tree has nothing that a server has not."""

_NOT_TAKEN_OVER = ("cache_type_k", "cache_type_v", "flash_attention", "options")
"""Settings of a server that change its answers, and that the embedded runtime does not have."""


class Trees:
    """Makes the engines of the executor "tree".

    Args:
        home: Where the runtimes are.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def hindrance(self, model: ModelFile, wish: EngineWish, settings: ServerSettings) -> str:
        """Why a server is better, as a part of a sentence; "" when nothing stands against a tree.

        Args:
            model: The model.
            wish: How many answers of which size it is wanted for.
            settings: How the model would be served.
        """
        current = runtime.current(self._home)
        if not runtime.bindings_ready(self._home):
            return "llama-cpp-python has no llama.cpp here"
        if current.backend != "cpu" and current.backend != self._backend():
            return f"the server computes with {current.backend}, the embedded runtime with {self._backend()}"
        usual = type(settings)()
        if own := [name for name in _NOT_TAKEN_OVER if getattr(settings, name) != getattr(usual, name)]:
            return f"server.yaml says {' and '.join(own)} for it, and the embedded runtime does not take that over"
        if self._lanes(model, wish) < min(_FEWEST, wish.slots or 1):
            return "a second copy of the model would not fit into the memory"
        return ""

    @contextmanager
    def engine(self, model: ModelFile, wish: EngineWish, settings: ServerSettings) -> Iterator[TreeEngine]:
        """An engine in a process of its own, which ends with the block.

        Args:
            model: The model.
            wish: How many answers of which size it is wanted for.
            settings: How the model would be served: its threads are taken over.

        Raises:
            NotEnoughMemory: When not even one answer at a time fits.
        """
        from noa_lab import server
        from noa_lab.inference.embedded import TreeEngine

        lanes = self._lanes(model, wish)
        if not lanes:
            raise NotEnoughMemory(
                f"There is no room for {model.name} with a context of {wish.context_size} tokens beside what runs.",
                fix='Stop a server (`noa-lab stop NAME`), or take executor="lanes".',
                model=model.name,
            )
        current = runtime.current(self._home)
        resolved = settings.resolved(current, model, server.find_tuned(self._home, current, model)).settings
        with TreeEngine(
            model.path,
            lanes=lanes,
            context_size=_size(model, wish),
            threads=resolved.threads,
            model_name=model.name,
            model_sha256=model.sha256 or None,
        ) as engine:
            assert engine.capabilities  # the model is loaded now rather than in the time of the first answers
            yield engine

    def _backend(self) -> str:
        try:
            return runtime.embedded(self._home).backend
        except RuntimeMissing:
            return "a llama.cpp of its own"

    def _lanes(self, model: ModelFile, wish: EngineWish) -> int:
        """How many answers side by side there is memory for; 0 when not even one fits."""
        from noa_lab.models import memory
        from noa_lab.models.memory import MemorySettings

        wanted = max(1, wish.slots or 1)
        for lanes in (wanted, *(fewer for fewer in (4, 2, 1) if fewer < wanted)):
            # The context has room for one more than grow: a beginning that is prepared meanwhile. What waits beside the context takes
            # half as much, and what is moved in it as much as one.
            grown = lanes + 1
            sizes = MemorySettings(context_size=_size(model, wish), slots=grown + math.ceil(grown / 2) + 1)
            if memory.fit_of_file(model, self._home, sizes, quick=True).verdict != "does not fit":
                return lanes
        return 0


def _size(model: ModelFile, wish: EngineWish) -> int:
    size = wish.context_size or 4096
    return min(size, model.metadata.context_length or size)
