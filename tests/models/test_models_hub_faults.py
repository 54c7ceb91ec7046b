"""A model is right or it is not there: every fault of a storage and of a gate, for one file, three files, and a split model."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_rig import litter, random_model, split_model

from noa_lab import models
from noa_lab.download import KINDS, Order
from noa_lab.errors import DownloadFailed
from noa_lab.models import ModelFile, _hub
from noa_lab.paths import Home
from noa_lab.testing import FakeHub, FileFault, FileServer

REPO = "owner/some-GGUF"
FAULTS = {
    "drop at once": FileFault("drop"),
    "drop": FileFault("drop", after=123_456),
    "stall": FileFault("stall", after=1000),
    "silent": FileFault("silent"),
    "200 for 206": FileFault("whole"),
    "wrong Content-Range": FileFault("wrong range"),
    "no Content-Range": FileFault("no range"),
    "416": FileFault("416"),
    "429 with Retry-After": FileFault("429", seconds=1),
    "500": FileFault("500"),
    "expired signature": FileFault("403"),
    "ETag change": FileFault("changed"),
    "other bytes": FileFault("changed unseen"),
    "flipped byte": FileFault("flipped", after=77),
    "gzip body": FileFault("gzip"),
    "web page": FileFault("web page"),
    "too long": FileFault("too long"),
    "other host": FileFault("elsewhere"),
}
PASSES = {
    "drop at once",
    "drop",
    "stall",
    "silent",
    "200 for 206",
    "wrong Content-Range",
    "416",
    "429 with Retry-After",
    "500",
}
PASSES |= {"expired signature", "ETag change", "other bytes", "too long", "other host"}
"""Faults of a moment that the user need not hear of."""
STAYS = FAULTS.keys() - {"200 for 206", "other host"}
"""Faults that end the download when they stay."""


class Shape:
    """What is on the hub, what is asked for, and which file the faults are in."""

    def __init__(self, name: str, folder: Path) -> None:
        if name == "split":
            self.files = split_model(folder, 1_500_000)
            self.refs = [f"{REPO}:F32"]
            self.victim = list(self.files.values())[1]
        else:
            count = 1 if name == "1 file" else 3
            contents = [random_model(folder / f"{number}.gguf", 2_600_000, seed=number) for number in range(count)]
            self.files = {f"Model-{number}.gguf": content for number, content in enumerate(contents)}
            self.refs = [f"hf://{REPO}/{file}" for file in self.files]
            self.victim = contents[count // 2]
        self.split = name == "split"

    def fetch(self, home: Home) -> list[ModelFile]:
        return [models.fetch(ref, home) for ref in self.refs]


@pytest.fixture(scope="module", params=["1 file", "3 files", "split"])
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return Shape(request.param, tmp_path_factory.mktemp("shape"))


@pytest.fixture
def other_host() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def pushed(hub: FakeHub, shape: Shape, other_host: FileServer, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr(_hub, "Order", functools.partial(Order, stall_seconds=0.7, pause_seconds=0.01))
    other_host.put("/copy", shape.victim)
    hub.push(REPO, shape.files)
    return hub


def script(hub: FakeHub, shape: Shape, other_host: FileServer, name: str, *, first: int, times: int) -> None:
    fault = FAULTS[name]
    target = f"{other_host.url}/copy" if name == "other host" else ""
    hub.fail(shape.victim, FileFault(fault.kind, times, first, fault.after, fault.seconds, target))


def check_all_right(found: list[ModelFile], shape: Shape, home: Home, cache: Path) -> None:
    bytes_of = {path.name: path.read_bytes() for model in found for path in model.files}
    assert bytes_of == shape.files
    assert all(model.verified for model in found)
    assert litter(home) == []
    check_cache(cache)
    assert [path.name for path in cache.glob("models--*/blobs/*") if len(path.name) != 64] == []


def check_cache(cache: Path) -> None:
    """What can be seen in the cache is right."""
    for blob in cache.glob("models--*/blobs/*"):
        if len(blob.name) == 64:
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for link in cache.glob("models--*/snapshots/*/*"):
        assert link.resolve().name == link.readlink().name


def check_nothing_wrong(shape: Shape, home: Home, cache: Path) -> None:
    for model in models.installed(home):
        assert not shape.split
        assert model.path.read_bytes() == shape.files[model.path.name] != shape.victim
    check_cache(cache)


def thinned(names: set[str]) -> list[object]:
    """All of them for `--full`; for the normal run every third."""
    return [
        pytest.param(name, marks=[pytest.mark.full] if number % 3 else []) for number, name in enumerate(sorted(names))
    ]


@pytest.mark.parametrize("first", [0, 1, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", thinned(set(FAULTS)))
def test_a_fault_of_a_moment(
    own_home: Home, pushed: FakeHub, shape: Shape, other_host: FileServer, tmp_path: Path, name: str, first: int
) -> None:
    script(pushed, shape, other_host, name, first=first, times=1)
    cache = tmp_path / "hub"
    try:
        found = shape.fetch(own_home)
    except DownloadFailed as error:
        assert name not in PASSES
        assert error.fields["kind"] in KINDS
        assert error.fix
        check_nothing_wrong(shape, own_home, cache)
        found = shape.fetch(own_home)
    check_all_right(found, shape, own_home, cache)


@pytest.mark.parametrize("name", thinned(set(FAULTS)))
def test_a_fault_that_stays(
    own_home: Home, pushed: FakeHub, shape: Shape, other_host: FileServer, tmp_path: Path, name: str
) -> None:
    script(pushed, shape, other_host, name, first=0, times=10_000)
    cache = tmp_path / "hub"
    if name in STAYS:
        with pytest.raises(DownloadFailed) as caught:
            shape.fetch(own_home)
        assert caught.value.fields["kind"] in KINDS
        assert caught.value.fix
        check_nothing_wrong(shape, own_home, cache)
        pushed.fail(shape.victim)
    check_all_right(shape.fetch(own_home), shape, own_home, cache)


def test_a_gate(own_home: Home, pushed: FakeHub, shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed.push(REPO, shape.files, gated=True)
    for token in ("", pushed.token):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(DownloadFailed) as caught:
            shape.fetch(own_home)
        assert caught.value.fields["kind"] == "gated"
        assert f"{pushed.url}/{REPO}" in caught.value.fix
        assert models.installed(own_home) == []
    pushed.accept()
    check_all_right(shape.fetch(own_home), shape, own_home, tmp_path / "hub")
    assert not any("authorization" in request.headers for request in pushed.storage.requests)
