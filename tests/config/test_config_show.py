"""`noa-lab config show`, and what the verbs make of the nearest server.yaml."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from noa_lab import models
from noa_lab.cli._app import cli
from noa_lab.errors import ConfigInvalid, UnknownModel
from noa_lab.inference import CompletionRequest, InferenceConfig
from noa_lab.server.tuning._tuned import Tuned, machine_words, write_tuned
from noa_lab.workbench import Lab
from noa_lab.workbench._served_models import get_model

SEED = Path(__file__).with_name("seed_server.yaml")


def show(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, ["config", "show", *arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to work in, with a configs folder."""
    folder = tmp_path / "project"
    (folder / "configs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.real
def test_the_seeds_file_is_shown_with_the_place_of_every_value_and_what_cannot_be_had(home, monkeypatch):
    monkeypatch.setenv("NOA_LAB_SERVER__PORT", "9000")
    out = show("--config", str(SEED))
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "NOA_LAB_SERVER__PORT" in rows["server.port"]
    assert "9000" in rows["server.port"]
    assert "line 27" in rows["inference.top_p"]
    assert "default" in rows["inference.min_p"]
    assert "gpu_layers 35 has no effect" in out
    assert "catalogue's mistral-7b is used instead" in out


@pytest.mark.real
def test_as_json(home, project):
    (project / "configs" / "server.yaml").write_text("models: [{name: smollm2-135m, slots: 3, pinned: true}]")
    shown = json.loads(show("--json"))
    assert Path(shown["file"]) == project / "configs" / "server.yaml"
    settings = {one["key"]: one for one in shown["settings"]}
    assert settings["models.0.slots"]["value"] == 3
    (model,) = shown["models"]
    assert model["installed"]
    assert model["pinned"]
    assert model["settings"]["slots"] == 3
    assert model["settings"]["threads"] >= 1
    assert model["origins"]["threads"] in ("measured at install", "tuned for this model")


def test_without_a_file_the_defaults_are_shown(home, monkeypatch):
    monkeypatch.setenv("NOA_LAB_CONFIG", "none")
    assert "no server.yaml found" in show()


def test_a_model_that_is_nowhere_is_shown_and_ends_with_exit_code_2(home, project):
    (project / "configs" / "server.yaml").write_text("models: [{name: nowhere, path: x.gguf}]")
    out = show(code=2)
    assert "server.port" in out, "everything is shown all the same"
    assert "is not to be found" in " ".join(out.split())


@pytest.mark.real
def test_a_comparison_takes_the_files_sampling_where_the_grid_leaves_it_open(home, project, monkeypatch):
    import noa_lab as lab

    (project / "configs" / "server.yaml").write_text("inference: {top_k: 7, temperature: 0.3}")
    seen = []
    monkeypatch.setattr("noa_lab.experiments.start", lambda grid, *rest, **more: seen.append(grid))
    sampling = [lab.InferenceConfig(temperature=0.9), {"max_tokens": 5}]
    Lab(home).compare(lab.Grid(prompts={"p": "Hi {{ x }}"}, inputs=[{"x": "1"}], sampling=sampling))
    first, second = seen[0].sampling
    assert (first.temperature, first.top_k, first.max_tokens) == (0.9, 7, 2048)
    assert (second.temperature, second.top_k, second.max_tokens) == (0.3, 7, 5)


@pytest.mark.real
def test_the_verbs_know_the_files_models_and_settings(home, project, model):
    (project / "models").mkdir()
    (project / "models" / "mine.gguf").symlink_to(model.path)
    (project / "configs" / "server.yaml").write_text(
        "server: {slots: 1, context_size: 512}\nmodels: [{name: mine, path: models/mine.gguf, context_size: 256}]\n"
        "inference: {top_k: 3, max_tokens: 4, seed: 1}"
    )
    lab = Lab(home)
    with lab.serve("mine", batch_size=64) as server:
        assert (server.model.name, server.settings.context_size, server.settings.slots) == ("mine", 256, 1)
        assert server.settings.batch_size == 64
        assert server.client().completion(CompletionRequest(prompt="Hi", max_tokens=1)).model == "mine"
        engine = server.engine()
        answer = engine.generate("Hi", InferenceConfig(max_tokens=2))
        assert (answer.raw_request["top_k"], answer.raw_request["temperature"]) == (3, 0.7)
        assert engine.generate("Hi", InferenceConfig(max_tokens=2, top_k=5)).raw_request["top_k"] == 5
        assert engine.generate("Hi").completion_tokens == 4, "the file's max_tokens"
    with lab.serve() as server:
        assert (server.model.name, server.settings.context_size) == (models.Models(home).default, 512)


@pytest.mark.real
def test_what_was_tuned_is_found_by_the_name_in_the_file(home, project, model, runtime):
    (project / "mine.gguf").symlink_to(model.path)
    (project / "configs" / "server.yaml").write_text("models: [{name: mine, path: mine.gguf}]")
    lab = Lab(home)
    known = get_model(lab.server_config(), "mine", lab.models)
    tuned = Tuned("mine", runtime.id, machine_words(), 3, 4, 256, 256, 8, "2026-11-25T00:00:00+00:00")
    write_tuned(home, runtime, known, tuned.machine, tuned)
    assert lab.tuned("mine") == tuned
    assert lab.forget_tuned("mine")
    assert lab.tuned("mine") is None
    with pytest.raises(UnknownModel):
        lab.tuned("mime")


def test_the_verbs_refuse_a_wrong_file_before_anything_is_started(home, project):
    (project / "configs" / "server.yaml").write_text("server: {prot: 1}")
    with pytest.raises(ConfigInvalid):
        Lab(home).serve("smollm2-135m")
    assert Lab(home).servers() == []
