"""Bringing a file to the disk while it arrives, so that the last `fsync` need not wait for all of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

from noa_lab.download._pieces import Pieces

__all__ = ["WriteOut"]

_STEP_BYTES = 2**25
"""What may wait in memory before it is written. The system itself waits for gigabytes, or for half a minute."""
_WAIT_SECONDS = 0.05
_LEAVE_SECONDS = 1.0


class WriteOut:
    """Follows a half-fetched file; a context manager that ends its thread.

    It only saves time: whether the bytes are on the disk is seen to by whoever gives the file its name.

    Args:
        path: The file.
        pieces: What is here of it.
    """

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self._path = path
        self._pieces = pieces
        self._stop = threading.Event()
        self.written = 0
        """Bytes that were here when the file was last brought to the disk."""
        self._thread = threading.Thread(target=self._run, name="noa-lab-disk", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stop.set()
        # A slow disk must not hold up a cancel; the thread changes nothing, and lets go of the file as soon as it can.
        self._thread.join(None if kind is None else _LEAVE_SECONDS)

    def _run(self) -> None:
        try:
            with self._path.open("r+b", buffering=0) as file:
                while not self._stop.is_set() and not (self._pieces.complete and self.written == self._pieces.here):
                    here = self._pieces.here
                    # A small file is left to the one who finishes it.
                    if here - self.written >= _STEP_BYTES or (self.written and self._pieces.complete):
                        os.fsync(file.fileno())
                        self.written = here
                    else:
                        self._stop.wait(_WAIT_SECONDS)
        except OSError:
            pass  # the same will happen at the end, where it is named
