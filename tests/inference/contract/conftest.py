"""The engines that the contract is checked on, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract_rig import make

from noa_lab.inference import EngineBase


@pytest.fixture(
    scope="session",
    params=[
        *(pytest.param(kind, marks=pytest.mark.real) for kind in ("server", "openai", "embedded")),
        # The routed engine differs from the server's in one field of each request.
        pytest.param("routed", marks=[pytest.mark.real, pytest.mark.full]),
        *("scripted", "recording", "replayed"),
    ],
)
def engine(request: pytest.FixtureRequest) -> Iterator[EngineBase]:
    made = make(request.param, request)
    yield made
    made.close()
