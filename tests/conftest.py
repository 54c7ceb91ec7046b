"""What tests share: the built runtime, the embedded model, a home of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noa_lab.paths import Home


@pytest.fixture(scope="session")
def real_home() -> Home:
    """The user's home, where `lab.py` has put the runtime and the model."""
    return Home.default()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of the test's own, linked to the installed runtime and model."""
    default = Home.default()
    root = tmp_path / "home"
    root.mkdir()
    for name in ("runtimes", "models"):
        os.symlink(getattr(default, name), root / name)
    monkeypatch.setenv("NOA_LAB_HOME", str(root))
    return Home(root)
