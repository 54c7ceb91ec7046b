"""Will it fit? The verdict, the largest context, and every way to the numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.download import RemoteFile
from noa_lab.errors import BadInput, Cancelled, DownloadFailed, ModelFileBroken, UnknownModel
from noa_lab.events import CancelToken
from noa_lab.models import ModelFile, Models
from noa_lab.models._gguf import read_header_of
from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models._reference import WebFile
from noa_lab.models.memory import MemorySettings, find_fit
from noa_lab.models.memory import _find_fit as finding
from noa_lab.models.memory._heads import Head, header_of_heads, read_head, read_head_of, recall_heads, remember_heads
from noa_lab.models.memory._judge import Subject, judge
from noa_lab.models.memory._parts import DeviceMemory, MemoryParts
from noa_lab.models.memory._remote import read_heads
from noa_lab.models.memory._stand_in import stand_in
from noa_lab.paths import Home
from noa_lab.runtime import FreeMemory, Runtime
from noa_lab.testing import SHAPES, FakeHub, FileFault, FileServer, write_shape
from noa_lab.testing._file_server import FileFaultKind

GB = 10**9
REF = "hf://someone/a-model/model.gguf"


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    return read_header_of(write_shape(tmp_path_factory.mktemp("s") / "s.gguf", SHAPES["llama-3.2-3b"], "Q4_0"))


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without llama.cpp and without models."""
    monkeypatch.setenv("NOA_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def free(count: float, total: float = 32 * GB) -> FreeMemory:
    return FreeMemory(int(count), int(total))


def verdict_at(header: GgufHeader, memory: float, **more: object) -> str:
    return judge(Subject("m", header), MemorySettings(**more), free(memory)).verdict  # type: ignore[arg-type]


def test_the_verdict_follows_the_interval(header: GgufHeader) -> None:
    fit = judge(Subject("m", header), MemorySettings(), free(32 * GB))
    assert fit.low_bytes < fit.bytes < fit.high_bytes
    assert verdict_at(header, fit.high_bytes) == "fits"
    assert verdict_at(header, fit.high_bytes - 1) == "tight"
    assert verdict_at(header, fit.low_bytes) == "tight"
    assert verdict_at(header, fit.low_bytes - 1) == "does not fit"


def test_a_full_gpu_decides_too(header: GgufHeader) -> None:
    fit = judge(Subject("m", header), MemorySettings(), free(32 * GB))
    gpu = DeviceMemory("CUDA0", MemoryParts(weights=2 * GB), free_bytes=GB)
    assert replace(fit, devices=(gpu,)).verdict == "does not fit"
    assert replace(fit, devices=(replace(gpu, free_bytes=3 * GB),)).verdict == "fits"
    assert replace(fit, devices=(replace(gpu, free_bytes=None),)).verdict == "fits"


@given(memory=st.integers(1 * GB, 40 * GB), slots=st.integers(1, 8), kind=st.sampled_from(["f16", "q8_0"]))
@settings(max_examples=60)
def test_the_largest_context_fits_and_the_next_does_not(header: GgufHeader, memory: int, slots: int, kind: str) -> None:
    fit = judge(Subject("m", header), MemorySettings(512, slots, kind, kind), free(memory))
    largest = fit.largest_context
    assert largest is not None
    assert largest % 256 == 0
    if largest:
        assert (
            verdict_at(header, memory, context_size=largest, slots=slots, cache_type_k=kind, cache_type_v=kind)
            == "fits"
        )
    if largest < 131072:
        more = {"context_size": largest + 1024, "slots": slots, "cache_type_k": kind, "cache_type_v": kind}
        assert verdict_at(header, memory, **more) != "fits"


def test_an_architecture_that_was_never_measured_says_so_and_is_less_sure(header: GgufHeader) -> None:
    known = judge(Subject("m", header), MemorySettings(), free(32 * GB))
    odd = replace(header, values={**header.values, "general.architecture": "llama-9000"})
    renamed = {key.replace("llama.", "llama-9000.", 1): value for key, value in odd.values.items()}
    unknown = judge(Subject("m", replace(odd, values=renamed)), MemorySettings(), free(32 * GB))
    assert known.measured
    assert not unknown.measured
    assert "never measured" in " ".join(unknown.notes)
    assert unknown.bytes == known.bytes
    assert unknown.high_bytes - unknown.bytes > 2 * (known.high_bytes - known.bytes)


def test_what_long_conversations_add_is_said_of_models_that_need_it(header: GgufHeader, tmp_path: Path) -> None:
    gemma = read_header_of(write_shape(tmp_path / "gemma.gguf", SHAPES["gemma-3-270m"]))
    notes = judge(Subject("m", gemma), MemorySettings(slots=4), free(32 * GB)).notes
    assert "32 checkpoints of 8 MB" in " ".join(notes)
    assert "1.0 GB in all" in " ".join(notes)
    assert not judge(Subject("m", header), MemorySettings(slots=4), free(32 * GB)).notes


def test_it_can_be_read_everywhere(header: GgufHeader) -> None:
    fit = judge(Subject("<b>m</b>", header), MemorySettings(), free(2 * GB), notes=["A note & more."])
    assert "2 slots of 4,096 tokens" in str(fit)
    assert "<b>m</b>" not in fit._repr_html_().replace("<b>&lt;", "")
    assert "A note &amp; more." in fit._repr_html_()
    data = fit.as_dict()
    assert data["verdict"] == "does not fit"
    assert data["bytes"] == sum(data["parts"].values())
    assert data["settings"]["slots"] == 2


def test_of_a_catalogue_entry_whose_place_cannot_be_reached_the_words_are_known(
    empty_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(finding, "read_heads", refuse)
    fit = find_fit("llama-3.1-8b", empty_home, MemorySettings(), free=free(8 * GB))
    assert (fit.how, fit.bytes, fit.verdict) == ("catalogue", 10 * GB, "tight")
    assert "not reached" in " ".join(fit.notes)
    assert "made up of" not in str(fit)
    assert (
        find_fit("llama-3.1-8b", empty_home, MemorySettings(), quick=True, free=free(5 * GB)).verdict == "does not fit"
    )
    with pytest.raises(DownloadFailed):
        find_fit(REF, empty_home, MemorySettings())
    with pytest.raises(UnknownModel):
        find_fit("llama-3.1-9b", empty_home, MemorySettings())
    with pytest.raises(ModelFileBroken):
        find_fit("nowhere/model.gguf", empty_home, MemorySettings())


def refuse(*_: object, **__: object) -> list[Head]:
    raise DownloadFailed("The header of x could not be read: not reached.", fix="-", source="x", reason="offline")


def test_the_list_says_what_fits_without_network_or_program(empty_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "read_heads", lambda *_, **__: pytest.fail("the network was asked"))
    monkeypatch.setattr(finding, "ask_fit_params", lambda *_, **__: pytest.fail("a program was started"))
    write_shape(empty_home.models / "mine.gguf", SHAPES["qwen3-0.6b"])
    rows = {row.name: row for row in Models(empty_home).list()}
    assert rows["mine"].fits in {"fits", "tight", "does not fit"}
    assert 0.6 * GB < (rows["mine"].needs_bytes or 0) < 2.5 * GB
    assert rows["llama-3.2-3b"].needs_bytes == 4 * GB
    assert rows["llama-3.2-3b"].size == "about 2 GB"


@pytest.mark.real
def test_a_model_file_answers_for_itself(model: ModelFile, runtime: Runtime) -> None:
    fit = model.fit(context_size=8192, slots=1)
    assert (fit.model, fit.how, fit.settings.context_size) == (model.name, "llama-fit-params", 8192)
    with pytest.raises(BadInput, match="Did you mean 'slots'"):
        model.fit(slot=1)


# Before the download: the beginning of a file that is somewhere else.


@pytest.fixture(scope="module")
def remote_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(SHAPES["qwen2.5-0.5b"], vocabulary=30_000, layers=3)
    return write_shape(tmp_path_factory.mktemp("remote") / "model.gguf", shape, words=True)


@pytest.fixture
def pushed(hub: FakeHub, empty_home: Home, remote_model: Path) -> FakeHub:
    hub.push("someone/a-model", {"model.gguf": remote_model.read_bytes()})
    return hub


def test_only_the_beginning_of_the_file_is_read(pushed: FakeHub, empty_home: Home, remote_model: Path) -> None:
    header, content = read_header_of(remote_model), remote_model.read_bytes()
    fit = find_fit(REF, empty_home, MemorySettings(), free=free(32 * GB))
    assert fit.how == "header"
    assert fit.host.weights == sum(tensor.size_bytes for tensor in header.tensors)
    assert pushed.sent(content) < header.data_offset + 2**20 + 1 < len(content) / 20
    asked = len(pushed.requests)
    again = find_fit(REF, empty_home, MemorySettings(slots=1), quick=True, free=free(32 * GB))
    assert len(pushed.requests) == asked, "it is remembered"
    assert again.bytes < fit.bytes


def test_what_its_header_says_is_shown_before_the_download(
    pushed: FakeHub, empty_home: Home, remote_model: Path
) -> None:
    library = Models(empty_home)
    with pytest.raises(UnknownModel):
        library.show(REF, quick=True)
    assert pushed.requests == []
    shown = library.show(REF)
    assert (shown["installed"], shown["size_bytes"]) == (False, remote_model.stat().st_size)
    assert (shown["metadata"]["architecture"], shown["metadata"]["layers"]) == ("qwen2", 3)
    assert library.show(REF, quick=True) == shown, "it is remembered"


def test_what_another_tool_has_fetched_is_looked_at_there(
    pushed: FakeHub, empty_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, hf_hub_download

    hf_hub_download("someone/a-model", "model.gguf", cache_dir=constants.HF_HUB_CACHE)
    asked = len(pushed.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_fit(REF, empty_home, MemorySettings()).how == "header"
    assert len(pushed.requests) == asked


@pytest.mark.real
def test_before_and_after_the_download_say_the_same(
    pushed: FakeHub, empty_home: Home, real_home: Home, runtime: Runtime, remote_model: Path
) -> None:
    os.symlink(real_home.runtimes, empty_home.root / "runtimes")
    before = find_fit(REF, empty_home, MemorySettings(), free=free(32 * GB))
    after = find_fit(remote_model, empty_home, MemorySettings(), free=free(32 * GB))
    assert before.how == after.how == "llama-fit-params"
    assert before.host == after.host


def test_the_token_goes_to_the_hub_alone(pushed: FakeHub, empty_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", pushed.token)
    find_fit(REF, empty_home, MemorySettings())
    assert {request.headers.get("authorization") for request in pushed.requests} == {f"Bearer {pushed.token}"}
    assert pushed.storage.requests
    assert not any("authorization" in request.headers for request in pushed.storage.requests)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("whole", "no parts of files"), ("wrong range", "another part"), ("404", "no such file"), ("gzip", "compressed")],
)
def test_places_that_give_no_header(
    pushed: FakeHub, empty_home: Home, remote_model: Path, kind: FileFaultKind, words: str
) -> None:
    pushed.fail(remote_model.read_bytes(), FileFault(kind, times=99))
    with pytest.raises(DownloadFailed, match=words) as caught:
        find_fit(REF, empty_home, MemorySettings())
    assert caught.value.fix
    assert recall_heads(empty_home, REF) == []


def test_what_breaks_off_is_asked_for_again(pushed: FakeHub, empty_home: Home, remote_model: Path) -> None:
    faults = [FileFault("drop", first=1, after=300_000), FileFault("500")]
    pushed.fail(remote_model.read_bytes(), *faults)
    assert find_fit(REF, empty_home, MemorySettings()).how == "header"


@pytest.mark.parametrize(("fault", "pauses"), [("500", [0.5, 1.0]), ("429", [])])
def test_a_place_is_waited_for_a_moment_and_no_longer(
    pushed: FakeHub,
    empty_home: Home,
    remote_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: FileFaultKind,
    pauses: list[float],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(CancelToken, "wait", lambda self, seconds: waited.append(seconds))
    pushed.fail(remote_model.read_bytes(), FileFault(fault, times=99, seconds=60))
    with pytest.raises(DownloadFailed):
        find_fit(REF, empty_home, MemorySettings())
    assert waited == pauses


def test_a_file_that_is_replaced_meanwhile_is_noticed(pushed: FakeHub, empty_home: Home, remote_model: Path) -> None:
    pushed.fail(remote_model.read_bytes(), FileFault("changed unseen", first=1, times=99))
    with pytest.raises((DownloadFailed, ModelFileBroken)):
        find_fit(REF, empty_home, MemorySettings())


def test_a_gate_is_explained(hub: FakeHub, empty_home: Home, remote_model: Path) -> None:
    hub.push("someone/a-model", {"model.gguf": remote_model.read_bytes()}, gated=True)
    with pytest.raises(DownloadFailed, match="licence") as caught:
        find_fit(REF, empty_home, MemorySettings())
    assert f"{hub.url}/someone/a-model" in caught.value.fix


def test_what_is_no_model_there_is_named(hub: FakeHub, empty_home: Home) -> None:
    hub.push("someone/a-model", {"model.gguf": b"no model at all " * 1000})
    with pytest.raises(ModelFileBroken):
        find_fit(REF, empty_home, MemorySettings())
    with pytest.raises(UnknownModel):
        find_fit("hf://someone/a-model/other.gguf", empty_home, MemorySettings())


def test_a_web_address(empty_home: Home, remote_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer() as site:
        site.put("/x/model.gguf", remote_model.read_bytes())
        with pytest.raises(DownloadFailed, match="not encrypted"):
            read_heads(WebFile(f"{site.url}/x/model.gguf"), report=lambda _: None, cancel=None)
        assert site.requests == []
        file = RemoteFile(f"{site.url}/x/model.gguf", "model.gguf", allow_http_loopback=True)
        with file:
            assert read_head(file).size == remote_model.stat().st_size


def test_a_cancelled_look_ends(pushed: FakeHub, empty_home: Home) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        find_fit(REF, empty_home, MemorySettings(), cancel=token)


def split_files(folder: Path) -> int:
    """A model in three files, as llama-gguf-split makes them; returns the bytes of its tensors."""
    writer = gguf.GGUFWriter(folder / "parts.gguf", "llama", split_max_tensors=2)
    writer.add_context_length(2048)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_vocab_size(256)
    total = 0
    for number in range(5):
        data = np.ones((64, 64), dtype=np.float16)
        writer.add_tensor(f"blk.{number}.ffn_up.weight", data)
        total += data.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


def test_a_model_in_several_files_is_one_model(hub: FakeHub, empty_home: Home, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    total = split_files(tmp_path / "split")
    files = {path.name: path.read_bytes() for path in (tmp_path / "split").iterdir()}
    hub.push("someone/a-model", files)
    fit = find_fit("hf://someone/a-model/parts-00002-of-00003.gguf", empty_home, MemorySettings())
    assert fit.host.weights == total
    assert all(hub.sent(content) for content in files.values())


# The parts of it.


def test_heads_are_remembered_for_a_while_and_broken_memories_are_none(empty_home: Home, tmp_path: Path) -> None:
    path = write_shape(tmp_path / "s.gguf", replace(SHAPES["smollm2-135m"], vocabulary=5_000), words=True)
    head = read_head_of(path)
    remember_heads(empty_home, "a", [head, head])
    assert recall_heads(empty_home, "a") == [head, head]
    assert recall_heads(empty_home, "b") == []
    assert recall_heads(empty_home, "a", days=0) == []
    (kept,) = (empty_home.models / ".heads").iterdir()
    for broken in (b"", kept.read_bytes()[:-5], b"\xff" * 500):
        kept.write_bytes(broken)
        assert recall_heads(empty_home, "a") == []


def test_a_head_says_what_the_file_says(tmp_path: Path) -> None:
    path = write_shape(tmp_path / "s.gguf", replace(SHAPES["gemma-3-270m"], vocabulary=40_000), words=True)
    head, header = read_head_of(path), read_header_of(path)
    assert header_of_heads([head]).tensors == header.tensors
    assert len(head.content) == header.data_offset
    assert head.size == path.stat().st_size


def test_a_header_that_never_ends_is_given_up(tmp_path: Path) -> None:
    class Endless:
        name, size = "endless.gguf", 2**40

        def read(self, offset: int, count: int) -> bytes:
            start = b"GGUF\x03\x00\x00\x00" + (1).to_bytes(8, "little") + (8000).to_bytes(8, "little")
            text = (7 * 2**20).to_bytes(8, "little")
            key = (4).to_bytes(8, "little") + b"%04d" + (8).to_bytes(4, "little") + text
            if offset == 0:
                return (start + (key % 1) + bytes(count))[:count]
            return bytes(count)

    with pytest.raises(ModelFileBroken):
        read_head(Endless())


def test_a_stand_in_is_as_large_as_the_model_and_takes_no_disk(tmp_path: Path) -> None:
    with stand_in([(b"GGUF" * 1000, 40 * GB), (b"GGUF", GB)], tmp_path) as first:
        assert first is not None
        assert first.name == "model-00001-of-00002.gguf"
        assert first.stat().st_size == 40 * GB
        assert first.stat().st_blocks * 512 < 100_000
        assert len(list(first.parent.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_stand_in_is_no_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noa_lab.models.memory._stand_in._MOST_DISK_BYTES", -(2**40))
    with stand_in([(b"GGUF", GB)], tmp_path) as first:
        assert first is None
    assert list(tmp_path.iterdir()) == []


def test_a_name_without_a_place_to_look_has_no_fit(empty_home: Home) -> None:
    with pytest.raises(BadInput, match="once the model is on this machine"):
        find_fit("pypi://some-dist==1.0/some/model.gguf", empty_home, MemorySettings())


def test_the_command_line_says_no_with_exit_code_1(empty_home: Home, tmp_path: Path) -> None:
    path = write_shape(tmp_path / "huge.gguf", replace(SHAPES["llama-3.1-8b"], feed_forward=2_000_000))
    command = [sys.executable, "-m", "noa_lab.cli", "models", "fit", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert "does not fit" in done.stdout
    assert done.stderr == ""
