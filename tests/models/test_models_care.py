"""Looking after models: a real llama-quantize, removing without harm, and an honest account of the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_models_import import hugging_face, ollama, write_model

from noa_lab.cli._app import cli
from noa_lab.errors import BadInput, Cancelled, DiskFull, SetupError, UnknownModel, UnknownName
from noa_lab.events import CancelToken, Progress
from noa_lab.models import ModelFile, Models
from noa_lab.models import _quantize as quantizing
from noa_lab.models._unfinished import WorkFolder
from noa_lab.paths import Home
from noa_lab.runtime import Runtime
from noa_lab.workbench import Lab

PARENT = "smollm2-135m"


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelFile, real_home: Home) -> Home:
    """A home with the real llama.cpp, and the embedded model as a link with its record."""
    user = tmp_path / "user"
    user.mkdir()
    monkeypatch.setattr(Path, "home", lambda: user)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(user / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(user / "hub"), raising=False)
    home = Home(tmp_path / "home")
    monkeypatch.setenv("NOA_LAB_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    home.root.mkdir()
    os.symlink(real_home.runtimes, home.root / "runtimes")
    os.link(model.path, home.models / model.path.name)
    shutil.copy2(f"{model.path}.json", home.models)
    return home


def models_in(home: Home) -> list[str]:
    return sorted(path.name for path in home.models.glob("*.gguf*"))


# Quantising


@pytest.mark.real
def test_quantise_with_progress_and_parent(own_home: Home, model: ModelFile) -> None:
    library = Models(own_home)
    told: list[Progress] = []
    made = library.quantize(PARENT, "q4_0", allow_requantize=True, report=told.append)
    assert made.name == "smollm2-135m-q4_0"
    assert made.parent == model.sha256
    assert made.source == "smollm2-135m, quantised to Q4_0"
    assert made.size_bytes < model.size_bytes
    assert made.path.stat().st_nlink == 1
    counted = [each for each in told if each.unit == "tensors"]
    assert [each.done for each in counted] == list(range(272))
    assert counted[0].total == 272
    assert told[-1].finished
    assert library.find(made.name) == made
    assert library.verify(made.name).sha256 == made.sha256
    assert list((own_home.models / ".incoming").glob("*/*")) == []
    again: list[Progress] = []
    written = made.path.stat().st_mtime_ns
    assert library.quantize(PARENT, "Q4_0", allow_requantize=True, report=again.append) == made
    assert library.get(made.name) == made, "it can be had by its name, though no catalogue knows it"
    assert "here already" in again[-1].message
    assert made.path.stat().st_mtime_ns == written, "it is not made again"
    assert library.plan_removal(PARENT).children == (made.name,)


@pytest.mark.real
@pytest.mark.parametrize(
    ("to", "more", "kind", "words"),
    [
        ("Q4_0", {}, BadInput, "quantised itself"),
        ("Q4_K_X", {"allow_requantize": True}, UnknownName, "Q4_K_X"),
        ("COPY", {"allow_requantize": True}, UnknownName, "COPY"),
        ("Q4_0", {"allow_requantize": True, "name": PARENT}, BadInput, "already"),
        ("Q4_0", {"allow_requantize": True, "name": "../up"}, BadInput, "cannot be the name"),
        ("IQ2_XXS", {"allow_requantize": True}, SetupError, "imatrix"),
    ],
)
def test_what_cannot_be_quantised_is_named_and_leaves_nothing(
    own_home: Home, to: str, more: dict[str, object], kind: type[Exception], words: str
) -> None:
    before = models_in(own_home)
    with pytest.raises(kind, match=words) as caught:
        Models(own_home).quantize(PARENT, to, **more)  # type: ignore[arg-type]
    assert getattr(caught.value, "fix", "")
    assert models_in(own_home) == before
    assert list((own_home.models / ".incoming").glob("*/*")) == []


@pytest.mark.real
def test_a_type_that_needs_an_importance_matrix_says_what_to_take(own_home: Home) -> None:
    with pytest.raises(SetupError) as caught:
        Models(own_home).quantize(PARENT, "IQ2_XXS", allow_requantize=True)
    assert "Q4_K_M" in caught.value.fix


@pytest.mark.real
def test_a_cancelled_quantisation_ends_at_once_and_leaves_nothing(own_home: Home) -> None:
    before, token = models_in(own_home), CancelToken()
    told: list[Progress] = []

    def report(progress: Progress) -> None:
        told.append(progress)
        if progress.unit == "tensors" and (progress.done or 0) > 20:
            token.cancel()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        Models(own_home).quantize(PARENT, "Q4_K_M", allow_requantize=True, report=report, cancel=token)
    assert time.monotonic() - started < 60
    assert models_in(own_home) == before
    assert list((own_home.models / ".incoming").glob("*/*")) == []


@pytest.mark.real
def test_no_room_is_said_before_anything_is_written(own_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=150_000_000))
    told: list[Progress] = []
    with pytest.raises(DiskFull) as caught:
        Models(own_home).quantize(PARENT, "Q8_0", allow_requantize=True, report=told.append)
    assert caught.value.fields["needed_bytes"] == pytest.approx(136.4 * 2**20 + 100e6, rel=0.01)
    assert not any(each.unit == "tensors" for each in told)


@pytest.mark.real
def test_a_disk_that_fills_up_meanwhile_is_named(
    own_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    small = own_home.models / ".incoming"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setattr(quantizing, "check_disk", lambda *_: None)
        with pytest.raises(DiskFull, match="could not be written"):
            Models(own_home).quantize(PARENT, "Q8_0", allow_requantize=True)
        assert list(small.glob("*/*")) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.real
def test_two_at_once_make_one(own_home: Home) -> None:
    made: list[ModelFile] = []
    told: list[Progress] = []
    library = Models(own_home)

    def work() -> None:
        made.append(library.quantize(PARENT, "Q4_0", allow_requantize=True, report=told.append))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert sum("here already" in each.message for each in told) == 1, "the second one found what the first had made"


@pytest.mark.real
def test_a_name_that_is_taken_meanwhile_stays_whose_it_is(own_home: Home) -> None:
    target = own_home.models / "four.gguf"

    def report(progress: Progress) -> None:
        if progress.unit == "tensors" and not target.exists():
            write_model(target, 5)

    with pytest.raises(BadInput, match="already"):
        Models(own_home).quantize(PARENT, "Q4_0", name="four", allow_requantize=True, report=report)
    assert target.stat().st_size < 1_000_000
    assert not (own_home.models / "four.gguf.json").exists()
    assert list((own_home.models / ".incoming").glob("*/*")) == []


@pytest.mark.real
def test_the_types_are_those_of_this_llama_cpp(runtime: Runtime) -> None:
    types = quantizing.quantization_types(runtime)
    assert {"Q4_K_M", "Q8_0", "F16", "IQ4_XS", "Q2_K"} <= set(types)
    assert all(each == each.upper() for each in types)


# Removing


@pytest.mark.real
def test_our_own_file_is_deleted_and_its_disk_is_free(own_home: Home) -> None:
    library = Models(own_home)
    made = library.quantize(PARENT, "Q8_0", allow_requantize=True)
    plan = library.plan_removal(made.name)
    assert plan.frees_bytes == made.size_bytes
    assert plan.stays == plan.used_by == ()
    assert made.path.exists(), "a plan changes nothing"
    assert library.remove(made.name) == plan
    assert not list(own_home.models.glob("*q8_0*"))
    with pytest.raises(UnknownModel):
        library.remove(made.name)


def test_another_tools_file_is_never_touched(own_home: Home) -> None:
    user, library = Path.home(), Models(own_home)
    theirs = {"Ollama": ollama(user), "Hugging Face": hugging_face(user)[0], "you": write_model(user / "mine.gguf", 77)}
    for owner, file in theirs.items():
        model = library.import_model(file if owner == "you" else next(s for s in library.stored() if file in s.files))
        before = file.read_bytes()
        plan = library.remove(model.name)
        assert plan.frees_bytes == 0
        assert owner in plan.stays[0] or "yours" in plan.stays[0]
        assert str(file) in plan.stays[0]
        assert file.read_bytes() == before
        assert library.find(model.name) is None
        assert not os.path.lexists(model.path)


def test_a_second_name_frees_nothing_and_says_so(own_home: Home, model: ModelFile) -> None:
    plan = Models(own_home).remove(PARENT)
    assert plan.frees_bytes == 0
    assert "another name" in plan.stays[0]
    assert model.path.exists()


def test_a_file_that_was_only_used_in_place_is_only_forgotten(own_home: Home) -> None:
    library = Models(own_home)
    path = write_model(Path.home() / "mine.gguf")
    library.get(str(path))
    plan = library.remove(str(path))
    assert "yours" in plan.stays[0]
    assert [each.parent.name for each in plan.deletes] == [".elsewhere"]
    assert path.exists()


@pytest.mark.parametrize(("split", "lost"), [(0, 0), (2, 0), (2, 1)])
def test_what_is_remembered_of_a_file_that_is_gone_is_shown_and_forgotten(
    own_home: Home, split: int, lost: int
) -> None:
    library = Models(own_home)
    write_model(Path.home() / "mine.gguf", split=split)
    first, *_ = files = sorted(Path.home().glob("mine*.gguf"))
    library.get(str(first))
    kept = own_home.models / ".elsewhere"
    (kept / "damaged.json").write_text("{")
    assert not [use for use in library.disk().uses if use.kind == "gone"]
    files[lost].unlink()
    (use,) = [use for use in library.disk().uses if use.kind == "gone"]
    assert (use.path, use.bytes) == (str(first), 0)
    assert f'noa-lab models remove "{first}"' in use.note
    plan = library.plan_removal(str(first))
    assert [file.parent for file in plan.deletes] == [kept]
    assert plan.frees_bytes == 0
    assert len(plan.stays) == len(files) - 1
    assert library.remove(str(first)) == plan
    assert [each.name for each in kept.iterdir()] == ["damaged.json"]
    assert not [use for use in library.disk().uses if use.kind == "gone"]
    assert [file.exists() for file in files] == [at != lost for at in range(len(files))]


def test_all_parts_go_together(own_home: Home, tmp_path: Path) -> None:
    library = Models(own_home)
    write_model(tmp_path / "split" / "parts.gguf", split=2)
    model = library.import_model(tmp_path / "split", hard_link=True)
    shutil.rmtree(tmp_path / "split")
    plan = library.remove(model.name)
    assert plan.frees_bytes == model.size_bytes
    assert not list(own_home.models.glob("parts*"))


@pytest.mark.real
@pytest.mark.timeout(120)
def test_a_model_that_a_server_runs_is_not_removed(own_home: Home) -> None:
    lab = Lab(own_home)
    with lab.serve(context_size=512, slots=1) as server:
        assert lab.models.plan_removal(PARENT).used_by == (server.name,)
        with pytest.raises(BadInput, match="in use") as caught:
            lab.models.remove(PARENT)
        assert f"noa-lab stop {server.name}" in caught.value.fix
        server.stop()
    assert lab.models.plan_removal(PARENT).used_by == ()


def test_a_file_that_cannot_be_deleted_is_named_and_stays_known(
    own_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    library = Models(own_home)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SetupError, match="Permission denied"):
        library.remove(PARENT)
    assert library.find(PARENT) is not None


def half_fetched(home: Home) -> None:
    """What an interrupted download leaves."""
    work = WorkFolder.of("https://example.org/big.gguf", home)
    work.begin("big", "https://example.org/big.gguf")
    (work.path / "1.gguf").write_bytes(b"x" * 100_000)


@pytest.mark.parametrize("ref", ["big", "https://example.org/big.gguf"])
def test_an_interrupted_download_is_given_up(own_home: Home, ref: str) -> None:
    library = Models(own_home)
    half_fetched(own_home)
    assert library.plan_removal(ref).frees_bytes == 100_000
    assert library.remove(ref).frees_bytes == 100_000
    assert list((own_home.models / ".incoming").glob("*/*")) == []
    with pytest.raises(UnknownModel):
        library.remove("big")


# The disk


def test_the_account_of_the_disk(own_home: Home) -> None:
    user, library = Path.home(), Models(own_home)
    ollama(user)
    hugging_face(user)
    write_model(own_home.models / "by-hand.gguf", 3)
    library.import_model("llama3.2:3b")
    half_fetched(own_home)
    report = library.disk()
    kinds = {use.name: (use.kind, use.bytes) for use in report.uses}
    assert kinds["by-hand"] == ("model", (own_home.models / "by-hand.gguf").stat().st_size)
    assert kinds["llama3.2-3b"] == ("link", 0)
    assert kinds[PARENT] == ("second name", 0)
    assert kinds["big"] == ("unfinished", 100_000)
    assert kinds["Ollama"][0] == kinds["Hugging Face"][0] == "other tool"
    assert kinds["Ollama"][1] > 60_000
    assert report.own_bytes == kinds["by-hand"][1] + kinds["big"][1]
    assert report.free_bytes > 0
    assert json.loads(json.dumps(report.as_dict()))["uses"][0]["name"]
    assert "by-hand" in str(report)
    assert "<table>" in report._repr_html_()


# The command line


def noa_lab(*words: str) -> Result:
    return CliRunner().invoke(cli, ["models", *words])


@pytest.mark.real
def test_a_whole_life_in_the_terminal(own_home: Home, tmp_path: Path) -> None:
    made = noa_lab("quantize", PARENT, "Q4_0", "--allow-requantize", "--name", "four", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["name"] == "four"
    path = write_model(tmp_path / "mine.gguf")
    assert json.loads(noa_lab("import", str(path), "--json").stdout)["name"] == "mine"
    listed = noa_lab("list").stdout
    assert "four" in listed
    assert "mine" in listed
    planned = json.loads(noa_lab("remove", "four", "--json").stdout)
    assert planned["removed"] is False
    assert planned["frees_bytes"] > 80_000_000
    refused = noa_lab("remove", "four")
    assert refused.exit_code == 2
    assert "frees 91.7 MB" in refused.stdout
    assert "--yes" in refused.stderr
    assert noa_lab("remove", "four", "--yes").exit_code == 0
    assert "four" not in noa_lab("list").stdout
    assert "mine" in noa_lab("disk").stdout
    write_model(own_home.models / "by-hand.gguf")
    assert "recorded now" in noa_lab("verify", "by-hand").stdout
    assert "as recorded" in noa_lab("verify", "by-hand").stdout
    assert "No other tool has GGUF models here" in noa_lab("import").stdout
