"""What the tests of downloads share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from download_rig import Rig

from noa_lab.testing import FileServer


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with FileServer() as server:
        made = Rig(server, tmp_path / "folder")
        server.put(made.path, made.content)
        yield made
