"""What tests share: the built runtime, the embedded model, a home of their own."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from noa_lab import models
from noa_lab.errors import RuntimeMissing
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, current
from noa_lab.testing import borrowed_home

# The same examples in every run; and one may take as long as a busy machine makes it take.
hypothesis.settings.register_profile(
    "patient", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def real_home() -> Home:
    """The user's home, where `lab.py` has put the runtime and the model."""
    return Home.default()


@pytest.fixture(scope="session")
def runtime(real_home: Home) -> Runtime:
    """The built llama.cpp of the user's home."""
    try:
        return current(real_home)
    except RuntimeMissing as error:
        pytest.fail(
            f"{error.message} The tests need it: run `python lab.py test`, which builds it, or `noa-lab install`."
        )


@pytest.fixture(scope="session")
def model(real_home: Home) -> ModelFile:
    """The embedded model in the user's home."""
    found = models.find("smollm2-135m", real_home)
    if found is None:
        pytest.fail(
            "The embedded model is not here: run `python lab.py test`, which gets it, or `noa-lab models get smollm2-135m`."
        )
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of the test's own, with the installed runtime and model."""
    borrowed = borrowed_home(tmp_path / "home", Home.default())
    monkeypatch.setenv("NOA_LAB_HOME", str(borrowed.root))
    return borrowed


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI=true a skipped test is a failed run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped, and under CI=true nothing may be skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
