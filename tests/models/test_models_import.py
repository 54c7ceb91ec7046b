"""Models of other tools, used where they are: found, linked, checked, never copied and never harmed."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import gguf
import numpy as np
import pytest

from noa_lab.errors import BadInput, ChecksumMismatch, ModelFileBroken, SetupError, UnknownModel, UnknownName
from noa_lab.events import CancelToken, Progress
from noa_lab.models import ModelFile, Models
from noa_lab.models._import import link_ways
from noa_lab.models.stores import (
    StoredModel,
    models_in_folder,
    models_of_hugging_face,
    models_of_lm_studio,
    models_of_ollama,
    name_for,
)
from noa_lab.paths import Home


def write_model(path: Path, seed: int = 1, *, split: int = 0) -> Path:
    """A small complete model file; with `split` one of so many tensors a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_context_length(2048)
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_vocab_size(64)
    for number in range(4):
        data = np.random.default_rng(seed + number).random((64, 64), dtype=np.float32)
        writer.add_tensor(f"blk.0.ffn_{number}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home folder with the stores of three tools in it, and a home of noa_lab."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setattr(Path, "home", lambda: folder)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("NOA_LAB_HOME", str(tmp_path / "lab"))
    monkeypatch.chdir(tmp_path)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(folder / "hub"), raising=False)
    return folder


@pytest.fixture
def library(user: Path) -> Models:
    return Models()


def ollama(user: Path, name: str = "llama3.2", tag: str = "3b", owner: str = "library", **changes: object) -> Path:
    """A model as Ollama stores it; returns its blob."""
    folder = user / ".ollama" / "models"
    draft = write_model(folder / "draft.gguf", seed=1000 + zlib.crc32(f"{name}:{tag}".encode()) % 1000)
    digest = sha256(draft)
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    draft.rename(blob)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": blob.stat().st_size,
    }
    other = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 3}
    manifest = {"schemaVersion": 2, "layers": [other, layer | changes]}
    path = folder / "manifests" / "registry.ollama.ai" / owner / name / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return blob


def hugging_face(
    user: Path, repo: str = "someone/a-model", file: str = "model.Q8_0.gguf", *, split: int = 0
) -> list[Path]:
    """A model as huggingface_hub caches it; returns its blobs."""
    folder = user / "hub" / f"models--{repo.replace('/', '--')}"
    draft = write_model(folder / "draft" / file, split=split)
    revision = "c" * 40
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    (folder / "blobs").mkdir()
    blobs = []
    for part in sorted(draft.parent.iterdir()):
        blob = folder / "blobs" / sha256(part)
        part.rename(blob)
        (snapshot / part.name).symlink_to(os.path.relpath(blob, snapshot))
        blobs.append(blob)
    draft.parent.rmdir()
    return blobs


def unchanged(paths: list[Path]) -> dict[Path, tuple[int, int, str]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, sha256(path)) for path in paths}


def test_every_store_is_found(user: Path, library: Models) -> None:
    ollama(user)
    ollama(user, "tiny", "latest", owner="someone")
    hugging_face(user)
    write_model(user / ".lmstudio" / "models" / "publisher" / "repo" / "file.Q4_K_M.gguf")
    write_model(user / ".lmstudio" / "models" / "publisher" / "repo" / "mmproj-file.gguf")
    assert {(each.tool, each.name) for each in library.stored()} == {
        ("Ollama", "llama3.2:3b"),
        ("Ollama", "someone/tiny:latest"),
        ("Hugging Face", "someone/a-model/model.Q8_0.gguf"),
        ("LM Studio", "publisher/repo/file.Q4_K_M.gguf"),
    }
    assert all(each.size_bytes > 60_000 for each in library.stored())
    assert "llama3.2:3b" in library.stored()._repr_html_()


def test_no_store_is_no_error(user: Path, library: Models) -> None:
    assert library.stored() == []
    assert "No other tool" in library.stored()._repr_html_()


@pytest.mark.parametrize("what", ["llama3.2:3b", "someone/a-model/model.Q8_0.gguf", "publisher/repo/file.gguf"])
def test_a_model_is_used_where_it_is(user: Path, library: Models, what: str) -> None:
    theirs = [ollama(user), *hugging_face(user), write_model(user / ".lmstudio/models/publisher/repo/file.gguf")]
    before = unchanged(theirs)
    told: list[Progress] = []
    model = library.import_model(what, report=told.append)
    assert model.path.is_symlink()
    assert model.path.resolve() in theirs
    assert model.sha256 == sha256(model.path)
    assert model.metadata.context_length == 2048
    assert library.find(model.name) == model
    assert library.verify(model.name).sha256 == model.sha256
    assert any(row.name == model.name and row.installed for row in library.list())
    assert told[-1].finished
    assert unchanged(theirs) == before
    assert sum(file.lstat().st_size for file in model.path.parent.glob("*.gguf")) < 500, "no copy"


def test_names_become_names(user: Path, library: Models) -> None:
    ollama(user)
    assert library.import_model("llama3.2:3b").name == "llama3.2-3b"
    assert name_for("a/b/some model (v2).gguf") == "some-model-v2"
    assert name_for("big-00001-of-00003.gguf") == "big"
    assert name_for("///") == "model"


def test_the_same_bytes_are_one_model(user: Path, library: Models, tmp_path: Path) -> None:
    first = library.import_model(write_model(tmp_path / "one.gguf"))
    assert library.import_model(write_model(tmp_path / "elsewhere" / "two.gguf")) == first
    again = library.import_model(tmp_path / "one.gguf", name="third")
    assert again.name == "third"
    assert again.sha256 == first.sha256


def test_a_taken_name_is_refused_or_numbered(user: Path, library: Models, tmp_path: Path) -> None:
    library.import_model(write_model(tmp_path / "a" / "model.gguf", 1))
    second = write_model(tmp_path / "b" / "model.gguf", 50)
    for name in ("model", "smollm2-135m"):
        with pytest.raises(BadInput, match="already"):
            library.import_model(second, name=name)
    for name in ("../up", "mine.gguf"):
        with pytest.raises(BadInput, match="cannot be the name"):
            library.import_model(second, name=name)
    assert library.import_model(second).name == "model-2"


def test_a_hard_link_stays_when_the_other_tool_deletes_its_own(user: Path, library: Models) -> None:
    blob = ollama(user)
    model = library.import_model("llama3.2:3b", hard_link=True)
    assert not model.path.is_symlink()
    assert model.path.stat().st_ino == blob.stat().st_ino
    blob.unlink()
    assert library.verify(model.name).sha256 == model.sha256


def test_a_hard_link_to_another_file_system_is_refused(user: Path, library: Models, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    path = write_model(other / f"noa-lab-test-{os.getpid()}.gguf")
    try:
        with pytest.raises(SetupError, match="another file system") as caught:
            library.import_model(path, hard_link=True)
        assert "without --hard-link" in caught.value.fix
        assert library.find(path.stem) is None
    finally:
        path.unlink()


def test_which_links_are_tried() -> None:
    assert link_ways("posix", hard_link=False) == ("symbolic",)
    assert link_ways("nt", hard_link=False) == ("symbolic", "hard"), "users of Windows may lack the right"
    assert link_ways("nt", hard_link=True) == link_ways("posix", hard_link=True) == ("hard",)


def test_where_no_link_can_be_made_it_is_said(
    user: Path, library: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(SetupError, match="not permitted"):
        library.import_model(write_model(tmp_path / "m.gguf"))
    assert list(Home.default().models.glob("*.gguf*")) == []


def test_a_link_whose_file_is_gone_is_no_model_and_is_said(user: Path, library: Models) -> None:
    blob = ollama(user)
    model = library.import_model("llama3.2:3b")
    blob.unlink()
    assert library.find(model.name) is None
    (row,) = [row for row in library.list() if row.name == model.name]
    assert (row.installed, row.missing, library.show(model.name)["missing"]) == (False, str(blob), str(blob))
    assert f"noa-lab models remove {model.name}" in row.use_case
    with pytest.raises(UnknownModel, match="is gone") as caught:
        library.get(model.name)
    assert f"noa-lab models remove {model.name}" in caught.value.fix
    (use,) = [use for use in library.disk().uses if use.kind == "broken link"]
    assert model.name in use.note
    assert library.remove(model.name).stays == ()
    assert not os.path.lexists(model.path)
    assert not any(row.name == model.name for row in library.list())


def test_a_model_in_parts(user: Path, library: Models, tmp_path: Path) -> None:
    write_model(tmp_path / "split" / "parts.gguf", split=2)
    paths = sorted((tmp_path / "split").iterdir())
    assert [path.name for path in paths] == ["parts-00001-of-00002.gguf", "parts-00002-of-00002.gguf"]
    for what in (tmp_path / "split", paths[1]):
        model = library.import_model(what)
        assert [file.name for file in model.files] == [path.name for path in paths]
        assert model.metadata.tensors == 4
        assert model.size_bytes == sum(path.stat().st_size for path in paths)
    assert library.find("parts") == model
    paths[1].unlink()
    assert library.find("parts") is None
    with pytest.raises(BadInput, match="missing"):
        library.import_model(paths[0])


def test_a_split_model_of_the_hubs_cache_gets_the_names_that_llama_cpp_looks_for(user: Path, library: Models) -> None:
    blobs = hugging_face(user, file="big.gguf", split=1)
    model = library.import_model("someone/a-model/big-00001-of-00004.gguf")
    assert [file.name for file in model.files] == [f"big-0000{number}-of-00004.gguf" for number in range(1, 5)]
    assert {file.resolve() for file in model.files} == set(blobs)


def test_bytes_that_are_not_what_the_store_says_are_refused(user: Path, library: Models) -> None:
    blob = ollama(user)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ChecksumMismatch) as caught:
        library.import_model("llama3.2:3b")
    assert "Ollama" in caught.value.fix
    assert list(Home.default().models.glob("*.gguf*")) == []


def test_a_cancelled_import_leaves_nothing(user: Path, library: Models, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Exception, match="cancelled"):
        library.import_model(write_model(tmp_path / "m.gguf"), cancel=token)
    assert list(Home.default().models.glob("*.gguf*")) == []


def test_what_is_no_model_or_not_there(user: Path, library: Models, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<!DOCTYPE html>" * 100)
    with pytest.raises(ModelFileBroken):
        library.import_model(tmp_path / "page.gguf")
    ollama(user)
    with pytest.raises(UnknownName, match="Did you mean 'llama3.2:3b'"):
        library.import_model("llama3.2:3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="0 models"):
        library.import_model(tmp_path / "empty")
    write_model(tmp_path / "two" / "a.gguf")
    write_model(tmp_path / "two" / "b.gguf")
    with pytest.raises(BadInput, match=r"2 models.*a\.gguf, b\.gguf"):
        library.import_model(tmp_path / "two")


@pytest.mark.parametrize(
    "layer",
    [
        {"digest": "sha256:../../../../etc/passwd"},
        {"digest": "sha256:" + "a" * 63},
        {"digest": "sha256:" + "A" * 64},
        {"digest": 7},
        {"mediaType": "application/vnd.ollama.image.tensor"},
    ],
)
def test_a_hostile_manifest_leads_nowhere(user: Path, layer: dict[str, object]) -> None:
    ollama(user, **layer)
    assert models_of_ollama(user) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"layers": 3}', '{"layers": [{}]}', "\udcff"])
def test_a_broken_manifest_is_passed_over(user: Path, content: str) -> None:
    ollama(user)
    path = user / ".ollama/models/manifests/registry.ollama.ai/library/other/latest"
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert [each.name for each in models_of_ollama(user)] == ["llama3.2:3b"]


def test_ollamas_folder_can_be_named(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama(user)
    (user / ".ollama").rename(tmp_path / "moved")
    assert models_of_ollama(user) == []
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "moved" / "models"))
    assert len(models_of_ollama(user)) == 1


def test_lm_studios_folder_is_where_its_settings_say(user: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "big-disk" / "p" / "r" / "m.gguf")
    (user / ".lmstudio").mkdir()
    (user / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "big-disk")}))
    assert [each.name for each in models_of_lm_studio(user)] == ["p/r/m.gguf"]
    (user / ".lmstudio-home-pointer").write_text(str(tmp_path / "pointed"))
    write_model(tmp_path / "pointed" / "models" / "p" / "r" / "n.gguf")
    assert {each.name for each in models_of_lm_studio(user)} == {"p/r/m.gguf", "p/r/n.gguf"}


def test_a_folder_that_leads_into_itself_ends(tmp_path: Path) -> None:
    write_model(tmp_path / "a" / "m.gguf")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    deep = tmp_path.joinpath(*"abcdefghijkl")
    write_model(deep / "deep.gguf")
    (tmp_path / "a" / "gone.gguf").symlink_to(tmp_path / "nowhere")
    assert [each.name for each in models_in_folder(tmp_path)] == ["a/m.gguf"]


def test_an_unreadable_cache_is_none(user: Path) -> None:
    (user / "hub").write_text("a file")
    assert models_of_hugging_face(user / "hub") == []
    assert models_of_hugging_face(user / "not there") == []


def test_a_stored_model_is_ready_for_json(tmp_path: Path) -> None:
    stored = StoredModel("Ollama", "m:latest", (tmp_path / "x",), 7, "a" * 64)
    assert json.loads(json.dumps(stored.as_dict()))["suggested"] == "m-latest"


def test_a_model_remembers_its_parent_and_older_records_have_none() -> None:
    record = {
        "name": "m",
        "path": "/m.gguf",
        "sha256": "",
        "size_bytes": 1,
        "source": "s",
        "verified": False,
        "metadata": dict.fromkeys(
            [
                "architecture",
                "name",
                "parameters",
                "context_length",
                "layers",
                "embedding_length",
                "heads",
                "kv_heads",
                "vocabulary",
                "quantization",
                "chat_template",
                "tensors",
            ],
        ),
    }
    assert ModelFile.from_record(record).parent == ""
    assert ModelFile.from_record(record | {"parent": "a" * 64}).to_record()["parent"] == "a" * 64
