"""What the tests of comparisons share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noa_lab.experiments import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store of the test's own."""
    with Store(tmp_path / "runs.db") as opened:
        yield opened
