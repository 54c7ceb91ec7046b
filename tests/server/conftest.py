"""Homes of their own, the fake llama-server, and a check that no process outlives its test."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_fakes import FakeLlama, Holder, nothing_runs, wait_until

from noa_lab import server
from noa_lab.paths import Home


@pytest.fixture
def bare_home(tmp_path: Path) -> Home:
    """A home with nothing in it, whose servers are gone when the test ends."""
    home = Home(tmp_path / "home")
    yield home
    server.stop_all(home)
    # One whose starter was killed may still be on its way to see that nobody holds it.
    wait_until(lambda: nothing_runs(tmp_path))


@pytest.fixture
def fake(tmp_path: Path) -> FakeLlama:
    """A runtime with a fake llama-server, and a model to go with it."""
    return FakeLlama(tmp_path)


@pytest.fixture
def holder(bare_home: Home, fake: FakeLlama):
    """Makes `Holder`s."""
    made: list[Holder] = []

    def make(code: str = "wait()", **options: object) -> Holder:
        made.append(Holder(bare_home, fake, code, **options))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def serve(bare_home: Home, fake: FakeLlama):
    """`server.serve` with the fake; what it returns is released when the test ends."""
    made = []

    def call(settings=None, model=None, **options):
        made.append(server.serve(fake.runtime, model or fake.model, settings, home=bare_home, **options))
        return made[-1]

    yield call
    for one in made:
        one.release()
