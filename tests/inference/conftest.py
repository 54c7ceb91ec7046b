"""A real llama-server and the embedded model's file, for the tests of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import RealServer, start_server, stop_server

import noa_lab.models
import noa_lab.runtime
from noa_lab.paths import Home


@pytest.fixture(scope="session")
def llama_server_program() -> Path:
    return noa_lab.runtime.current(Home.default()).tool("llama-server")


@pytest.fixture(scope="session")
def gguf() -> Path:
    return noa_lab.models.fetch("smollm2-135m", Home.default()).path


@pytest.fixture(scope="session")
def real_server(
    llama_server_program: Path, gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    server = start_server(
        llama_server_program, gguf, tmp_path_factory.mktemp("server") / "log", "--embeddings", "--pooling", "mean"
    )
    yield server
    stop_server(server)
