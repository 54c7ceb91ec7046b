"""server.yaml: the seed's file as it is, what is refused, and which value wins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noa_lab.config import parse_yaml
from noa_lab.errors import BadInput, ConfigInvalid
from noa_lab.inference import InferenceConfig
from noa_lab.models import Models
from noa_lab.paths import Home
from noa_lab.server import ServerSettings
from noa_lab.server.config import (
    LoggingSection,
    ModelSection,
    RouterSection,
    ServerConfig,
    find_model,
    load_server_config,
    machine_notes,
    model_places,
    nearest_server_yaml,
    values,
)
from noa_lab.server.config._sections import SAMPLING

SEED = Path(__file__).with_name("seed_server.yaml")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path: Path):
    """Writes configs/server.yaml into a project of the test's own."""

    def make(text: str, folder: str = "project/configs") -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        file = tmp_path / folder / "server.yaml"
        file.write_text(text)
        return file

    return make


def load(file: Path, **environment: str) -> ServerConfig:
    return load_server_config(file, environment)


def refused(file: Path, **environment: str) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as caught:
        load(file, **environment)
    return caught.value


# --- the seed's file


def test_the_seeds_file_means_what_it_says():
    config = load(SEED)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8080)
    assert [one.name for one in config.models] == ["llama-3.2-3b", "mistral-7b", "codellama-7b"]
    assert config.default is config.models[0]
    code = config.settings("codellama-7b")
    assert (code.context_size, code.batch_size, code.threads, code.gpu_layers) == (16384, 512, 8, 35)
    assert config.inference == InferenceConfig(
        temperature=0.7, top_p=0.9, top_k=40, repeat_penalty=1.1, max_tokens=2048
    )
    assert (config.logging.level, config.logging.file, config.logging.rotation) == (
        "info",
        Path("./logs/server.log"),
        "daily",
    )


def test_every_key_of_the_seeds_file_has_an_effect_that_is_told_with_its_line():
    document = parse_yaml(SEED.read_text(), SEED)
    told = {value.key: value for value in values(load(SEED))}
    written = {
        ".".join(map(str, path)): line
        for path, line in document.lines.items()
        if len(path) > 1 and not isinstance(path[-1], int)
    }
    assert len(written) == 25
    for key, line in written.items():
        assert told[key].origin == f"{SEED}, line {line}"


def test_the_seeds_relative_paths_begin_beside_the_configs_folder(write, tmp_path):
    config = load(write(SEED.read_text()))
    models = Models(Home(tmp_path / "home"))
    project = tmp_path / "project"
    assert config.log_settings.file == project / "logs" / "server.log"
    beside, inside = project / "models/llama-3.2-3b-q4.gguf", project / "configs/models/llama-3.2-3b-q4.gguf"
    place = find_model(config, config.models[0], models)
    assert (place.reference, place.tried) == ("llama-3.2-3b", (beside, inside))
    assert "catalogue" in place.note
    for file in (inside, beside):
        file.parent.mkdir()
        file.write_bytes(b"GGUF")
        assert find_model(config, config.models[0], models).reference == str(file)


def test_what_this_machine_or_build_cannot_honour_is_said(runtime, tmp_path):
    config = load(SEED)
    home = Home(tmp_path / "home")
    assert any("threads 8 is more than the 2 cores" in note for note in machine_notes(config, 2))
    assert machine_notes(config, 8) == []
    for place in model_places(config, Models(home), home, runtime):
        assert any("gpu_layers 35 has no effect" in note for note in place.notes)


def test_the_docs_show_the_seeds_file_and_every_key():
    page = (ROOT / "docs" / "configuration.md").read_text()
    (shown,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", page)
    assert parse_yaml(shown, SEED).data == parse_yaml(SEED.read_text(), SEED).data
    for section in (RouterSection, LoggingSection, SAMPLING):
        for key in section if isinstance(section, tuple) else section.model_fields:
            assert f"`{key}`" in page


@pytest.mark.real
def test_the_shipped_file_serves_the_embedded_model_as_if_there_were_none(runtime, model, real_home):
    config = load(ROOT / "configs" / "server.yaml")
    (place,) = model_places(config, Models(real_home), real_home, runtime)
    assert (place.name, place.reference, place.installed, place.default) == (
        "smollm2-135m",
        str(model.path),
        True,
        True,
    )
    assert set(place.tags) == {"general", "fast-agent"}
    assert config.settings("smollm2-135m") == ServerSettings(batch_size=512)  # what the default means on a CPU
    assert config.inference == InferenceConfig()
    assert place.settings["threads"] == max(1, runtime.threads)
    assert place.origins["threads"] in ("measured at install", "tuned for this model")


# --- which value wins


def test_the_call_stands_above_the_model_above_all_models_above_the_default(write):
    file = write(
        "server: {threads: 3, slots: 4, options: {cache-reuse: 1, poll: 2}}\n"
        "models:\n  - {name: a, threads: 5, options: {poll: 7}}\n  - name: b\n"
    )
    config = load(file)
    a, b, other = config.settings("a"), config.settings("b"), config.settings("not-listed")
    assert (a.threads, a.slots, a.batch_size) == (5, 4, 2048)
    assert a.options == {"cache-reuse": 1, "poll": 7}
    assert (b.threads, other.threads, config.settings().threads) == (3, 3, 3)
    assert config.settings("a", threads=6, options={"poll": 8}).options == {"cache-reuse": 1, "poll": 8}
    assert config.settings("a", threads=6).threads == 6
    assert load(file, NOA_LAB_MODELS__A__THREADS="9").settings("a").threads == 9


def test_the_endpoints_address_is_not_the_model_servers(write):
    chosen = load(write("server: {host: 0.0.0.0, port: 9000, allow_remote: true}\nmodels: [{name: a}]")).settings("a")
    assert (chosen.host, chosen.port, chosen.allow_remote) == ("127.0.0.1", 0, False)


def test_only_what_is_written_counts_as_set_for_sampling(write):
    config = load(write("inference: {temperature: 0.2, stop_sequences: [END]}"), NOA_LAB_INFERENCE__TOP_K="5")
    assert config.inference.model_fields_set == {"temperature", "stop_sequences", "top_k"}
    answer = InferenceConfig(temperature=0.9, max_tokens=3).over(config.inference)
    assert (answer.temperature, answer.max_tokens, answer.top_k, answer.top_p) == (0.9, 3, 5, 0.9)


def test_a_wrong_value_of_the_call_is_the_calls(write):
    config = load(write("models: [{name: a}]"))
    with pytest.raises(BadInput) as caught:
        config.settings("a", slots=0)
    assert not isinstance(caught.value, ConfigInvalid)


def test_the_first_model_answers_where_none_is_the_default(write):
    assert load(write("models: [{name: a}, {name: b}]")).default.name == "a"
    assert load(write("models: [{name: a}, {name: b, default: true}]")).default.name == "b"
    assert load(write("server: {port: 1}")).default is None


def test_some_models_of_the_file(write):
    config = load(write("server: {threads: 2}\nmodels: [{name: a, slots: 7}, {name: b, default: true}]"))
    some = config.with_models((ModelSection.named("owner/c:Q4"), config.models[0]))
    assert [one.name for one in some.models] == ["owner-c-Q4", "a"]
    assert (some.settings("a").slots, some.settings("owner-c-Q4").threads) == (7, 2)
    assert some.default.name == "owner-c-Q4"


# --- what is refused

WRONG = {
    "server:\n  prot: 1": (2, "server.prot", "port"),
    "server:\n  port: 70000": (2, "server.port", None),
    "server:\n  port: eighty": (2, "server.port", None),
    "server:\n  host: example.org": (2, "server.host", None),
    "server:\n  threads: 2\n  host: 0.0.0.0": (3, "server.host", None),
    "sever:\n  port: 1": (1, "sever", "server"),
    "models:\n  - path: x": (2, "models.0.name", None),
    "models:\n  - name: a\n    contxt_size: 1": (3, "models.0.contxt_size", "context_size"),
    "models:\n  - name: a\n    port: 1": (3, "models.0.port", None),
    "models:\n  - name: a/b": (2, "models.0.name", None),
    "models:\n  - name: a\n  - name: a": (3, "models.1.name", None),
    "models:\n  - {name: a, default: true}\n  - name: b\n    default: true": (4, "models.1.default", None),
    "models:\n  - name: a\n    tags: [two words]": (3, "models.0.tags", None),
    "models: {name: a}": (1, "models", None),
    "server:\n  flash_attention: 'off'\nmodels:\n  - name: a\n    cache_type_v: q8_0": (
        5,
        "models.0.cache_type_v",
        None,
    ),
    "inference:\n  temprature: 1": (2, "inference.temprature", "temperature"),
    "inference:\n  top_p: 2": (2, "inference.top_p", None),
    "inference:\n  grammar: root ::= x": (2, "inference.grammar", None),
    "logging:\n  level: loud": (2, "logging.level", None),
    "logging:\n  rotation: yearly": (2, "logging.rotation", None),
    "router:\n  memory_budget: lots": (2, "router.memory_budget", None),
    "router:\n  memory_budget: 120%": (2, "router.memory_budget", None),
    "router:\n  memory_budget: 0": (2, "router.memory_budget", None),
    "- a": (1, "", None),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_file_line_and_the_nearest_key(write, text):
    line, key, near = WRONG[text]
    file = write(text)
    error = refused(file)
    assert (error.fields["file"], error.fields["line"], error.fields["key"]) == (str(file), line, key)
    assert error.fields.get("nearest") == near
    assert error.message.startswith(f"{file}, line {line}: ")
    assert error.fix
    assert error.exit_code == 2


def test_a_model_that_is_nowhere_is_refused_with_all_that_was_tried(write, tmp_path):
    file = write("models:\n  - name: smollm2-135\n    path: models/x.gguf")
    config = load(file)
    home = Home(tmp_path / "home")
    with pytest.raises(ConfigInvalid) as caught:
        find_model(config, config.models[0], Models(home))
    for tried in (tmp_path / "project/models/x.gguf", tmp_path / "project/configs/models/x.gguf"):
        assert str(tried) in caught.value.message
    assert "catalogue" in caught.value.message
    assert (caught.value.fields["line"], caught.value.fields["nearest"]) == (3, "smollm2-135m")
    (place,) = model_places(config, Models(home), home, None)
    assert place.error == caught.value.message


def test_an_absolute_path_and_a_reference_are_not_looked_for_elsewhere(write, tmp_path):
    gguf = tmp_path / "m.gguf"
    config = load(write(f"models: [{{name: smollm2-135m, path: {gguf}}}, {{name: b, path: 'hf://o/r/f.gguf'}}]"))
    models = Models(Home(tmp_path / "home"))
    assert find_model(config, config.models[0], models).tried == (gguf,)
    gguf.write_bytes(b"GGUF")
    assert find_model(config, config.models[0], models).reference == str(gguf)
    assert find_model(config, config.models[1], models).reference == "hf://o/r/f.gguf"


# --- amounts, and the nearest file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GB", 8 * 10**9),
        ("'8 GiB'", 8 * 2**30),
        ("1.5gb", 1_500_000_000),
        ("500MB", 500 * 10**6),
        ("123456", 123456),
        ("50%", 5 * 10**8),
        ("12.5 %", 125 * 10**6),
    ],
)
def test_memory_in_the_ways_people_write_it(write, text, expected):
    assert load(write(f"router: {{memory_budget: {text}}}")).router.budget_bytes(10**9) == expected


def test_the_nearest_file_upward_is_used_unless_the_environment_says_another(write, tmp_path, monkeypatch):
    file = write("server: {threads: 3}")
    deep = tmp_path / "project/a/b"
    deep.mkdir(parents=True)
    assert nearest_server_yaml(deep, {}) == file
    assert nearest_server_yaml(deep, {"NOA_LAB_CONFIG": "none"}) is None
    assert nearest_server_yaml(deep, {"NOA_LAB_CONFIG": "/elsewhere.yaml"}) == Path("/elsewhere.yaml")
    assert nearest_server_yaml(Path("/"), {}) is None
    monkeypatch.chdir(deep)
    assert load_server_config(None, {}).server.threads == 3
    assert load_server_config(None, {"NOA_LAB_CONFIG": "none"}).file is None


def test_somebody_elses_server_yaml_is_refused_with_the_way_around_it(write, tmp_path, monkeypatch):
    write("spring: {port: 1}")
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(ConfigInvalid) as caught:
        load_server_config(None, {})
    assert "NOA_LAB_CONFIG=none" in caught.value.fix
