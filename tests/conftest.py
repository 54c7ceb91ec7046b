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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI=true a skipped test is a failed run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped, and under CI=true nothing may be skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
