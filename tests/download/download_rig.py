"""A server with one file, and a folder to fetch it to."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noa_lab.download import FetchedFile, Order, fetch_file, journal_path
from noa_lab.download._journal import Journal
from noa_lab.errors import DownloadFailed
from noa_lab.testing import FileFault, FileServer

CONTENT = random.Random(1).randbytes(6_500_000)
PARTS = ["model.gguf.part", "model.gguf.part.journal"]
"""What an interrupted download leaves."""


@dataclass
class Rig:
    """A server with one file, and a folder to fetch it to."""

    server: FileServer
    folder: Path
    path: str = "/files/model.gguf"
    content: bytes = CONTENT

    @property
    def url(self) -> str:
        return self.server.url + self.path

    @property
    def target(self) -> Path:
        return self.folder / "model.gguf"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def fetch(self, **options: Any) -> FetchedFile:
        told = {name: options.pop(name) for name in ("report", "cancel") if name in options}
        options = {"pause_seconds": 0.01, "spare_bytes": 0} | options
        order = Order(options.pop("url", self.url), self.target, allow_http_loopback=True, **options)
        return fetch_file(order, **told)

    def fail(self, *faults: FileFault) -> None:
        self.server.fail(self.path, *faults)

    @property
    def sent(self) -> int:
        """Bytes that the server has sent."""
        return self.server.sent[self.path]

    def left(self) -> list[str]:
        """Names of what is in the folder."""
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []

    def here(self) -> int:
        """Bytes that the journal says are here."""
        found = Journal.load(journal_path(self.target))
        if found is None:
            return 0
        found[0].close()
        return sum(found[2])

    def wait_for(self, count: int, seconds: float = 30.0) -> None:
        """Wait until so many bytes are here."""
        until = time.monotonic() + seconds
        while self.here() < count:
            assert time.monotonic() < until, "they never came"
            time.sleep(0.005)


def interrupted(rig: Rig, **options: object) -> None:
    """Leave a part with about 2 MB in it."""
    rig.fail(FileFault("drop", times=99, after=600_000))
    with pytest.raises(DownloadFailed):
        rig.fetch(attempts=1, **options)
    rig.fail()
    assert rig.left() == PARTS
