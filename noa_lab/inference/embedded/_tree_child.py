"""The process of a `TreeEngine`: `python -m noa_lab.inference.embedded._tree_child MODEL CONTEXT THREADS CELLS LANES STORES`.

It speaks as `_child` does, and takes one question more: "grow", a batch of questions whose answers come as they are finished.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noa_lab.inference.embedded._child import Child, Inbox, serve_parent
from noa_lab.inference.embedded._growth import Growth
from noa_lab.inference.embedded._tree_model import TreeModel

__all__ = ["main"]

Message = dict[str, Any]

_LIGHT = frozenset(("render", "tokenize", "detokenize"))
"""What is done without the context."""


class TreeChild(Child):
    """Grows answers, and between two steps does what else is asked."""

    def __init__(
        self, model: TreeModel, inbox: Inbox, say: Callable[[Message], None], *, lanes: int, stores: int
    ) -> None:
        super().__init__(model, inbox, say, can_go_back=model.can_go_back)
        self._growth = Growth(model, lanes, stores, say)
        self._later: list[Message] = []
        """What needs the context, and waits for the answers that grow in it."""

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            if not self._growth.busy and self._later:
                self._take(self._later.pop(0))
            elif not self._growth.busy:
                self._take(self._inbox.waiting.get())
            else:
                self._take_all()
                self._step()

    def _take_all(self) -> None:
        while True:
            try:
                self._take(self._inbox.waiting.get_nowait())
            except queue.Empty:
                return

    def _take(self, message: Message) -> None:
        if message["op"] == "grow":
            self._growth.add(message["id"], message["questions"], message["early"])
        elif message["op"] == "enough":
            self._growth.enough()
        elif message["op"] == "cancel":
            self._cancel(message["id"])
        elif self._growth.busy and message["op"] not in _LIGHT:
            self._later.append(message)
        else:
            self.do(message)

    def _cancel(self, number: int) -> None:
        """What is sent after a cancel stands behind it in the queue, so that only older work ends."""
        if number in self._growth.batches:
            self._inbox.cancelled.discard(number)
            self._give_up(self._growth.batches - {number}, "the batch that ran beside it was cancelled")

    def _step(self) -> None:
        try:
            self._growth.step()
        except Exception as error:
            self._give_up(self._growth.batches, f"{type(error).__name__}: {error}")

    def _give_up(self, batches: set[int], reason: str) -> None:
        """End all that grows, and tell those who wait for these batches."""
        self._growth.cancel()
        for batch in batches:
            self._say({"id": batch, "error": {"kind": "failed", "reason": reason}})


def main(arguments: list[str]) -> None:
    """Load the model and answer until the parent is gone.

    Args:
        arguments: Path of the GGUF file, context size, threads, cells, lanes, trunks to keep.
    """
    path, (context, threads, cells, lanes, stores) = Path(arguments[0]), map(int, arguments[1:])

    def make(inbox: Inbox, say: Callable[[Message], None]) -> Child:
        model = TreeModel(path, context, threads, cells=cells, sequences=lanes + stores)
        return TreeChild(model, inbox, say, lanes=lanes, stores=stores)

    serve_parent(make)


if __name__ == "__main__":
    main(sys.argv[1:])
