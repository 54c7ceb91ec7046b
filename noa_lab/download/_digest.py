"""The sha256 of a file while it arrives: hashed in a thread of its own, from the disk, as far as it is here without a gap."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Self

from noa_lab.download._pieces import Pieces

__all__ = ["RunningDigest"]

_CHUNK_BYTES = 2**18
_WAIT_SECONDS = 0.01


class RunningDigest:
    """Follows a half-fetched file; a context manager that ends its thread.

    Args:
        path: The file.
        pieces: What is here of it.
    """

    def __init__(self, path: Path, pieces: Pieces) -> None:
        self._path = path
        self._pieces = pieces
        self._digest = hashlib.sha256()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self.hashed = 0
        """Bytes that have been hashed."""
        self._thread = threading.Thread(target=self._run, name="noa-lab-digest", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._stop.is_set() and not (self._pieces.complete and self.hashed == self._pieces.total):
                    here = self._pieces.prefix - self.hashed
                    count = file.readinto(buffer[:here]) if here else 0
                    if count:
                        self._digest.update(buffer[:count])
                        self.hashed += count
                    elif here:
                        raise OSError(f"{self._path} is shorter than it was")
                    else:
                        self._stop.wait(_WAIT_SECONDS)
        except Exception as error:
            self._error = error

    def wait(self, seconds: float) -> str | None:
        """The hash of the whole file, or None when it is not there after `seconds`.

        Raises:
            OSError: When the file cannot be read.
        """
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return None if self._thread.is_alive() else self._digest.hexdigest()
