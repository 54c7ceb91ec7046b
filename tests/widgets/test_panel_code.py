"""A panel's code, run, gives the panel's configuration again."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panel_fakes import FakeLab

import noa_lab
from noa_lab.errors import BadInput
from noa_lab.experiments import Prompt, score
from noa_lab.inference import InferenceConfig
from noa_lab.widgets import ComparePanel, ModelPanel, RunView, ServerPanel, SetupPanel
from noa_lab.widgets._source import call, literal


def run_code(source, **more):
    """Run the code with verbs that write down what they were given."""
    calls = []

    def verb(name):
        return lambda *args, **kwargs: calls.append((name, args, kwargs))

    verbs = {name: verb(name) for name in ("check", "install", "serve", "compare", "open_run")}
    model_verbs = {name: verb(f"models.{name}") for name in ("get", "fit", "quantize", "import_model")}
    things = {name: getattr(noa_lab, name) for name in ("Grid", "Prompt", "InferenceConfig", "score")}
    lab = SimpleNamespace(**verbs, **things, models=SimpleNamespace(**model_verbs))
    importer = {"__import__": lambda name, *_: lab if name == "noa_lab" else __import__(name)}
    exec(source, {"__builtins__": {**vars(builtins), **importer}, **more})
    return calls


words = st.text(st.characters(codec="utf-8", exclude_characters="{}%#\r\x00", exclude_categories=["Cs"]), max_size=60)
templates = st.builds(lambda before, after: f"{before}{{{{ text }}}}{after}", words, words)
names = st.text("abcXYZ 09-_é'\"", min_size=1, max_size=12).map(str.strip).filter(bool)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": templates}),
    min_size=1,
    max_size=4,
)
prompts = st.one_of(
    templates,
    st.builds(lambda system, user: Prompt(system=system or None, user=user), words, templates),
    turns.map(lambda found: Prompt(messages=found)),
)
values = st.one_of(
    words,
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(words, max_size=3),
)
inputs = st.lists(
    st.fixed_dictionaries(
        {"text": words},
        optional={"expected": words, "n": values, "cluster": names, "tags": st.lists(names, max_size=2)},
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row["text"],
)
scorers = st.lists(
    st.one_of(
        st.builds(
            score.contains,
            st.sampled_from(["{{ expected }}", "Paris", 'it\'s "so"']),
            ignore_case=st.booleans(),
            negate=st.booleans(),
        ),
        st.builds(score.icontains, st.just("x"), negate=st.booleans()),
        st.builds(score.equals, st.just("y"), name=st.sampled_from(["", "same"])),
        st.builds(score.regex, st.just(r"\d+\s")),
        st.builds(score.starts_with, st.just("a")),
        st.builds(score.max_words, st.integers(1, 99), name=st.sampled_from(["", "short"])),
        st.builds(score.min_characters, st.integers(1, 99), negate=st.booleans()),
        st.builds(score.json_valid, required=st.lists(st.sampled_from("ab"), unique=True), negate=st.booleans()),
        st.builds(score.json_schema, st.just({"type": "object", "required": ["a"]})),
        st.builds(
            score.similarity, st.just(["a", "b"]), method=st.sampled_from(["ratio", "words"]), at_least=st.just(0.5)
        ),
        st.builds(
            score.rubric, st.just("It's polite."), levels=st.integers(2, 5), when=st.sampled_from(["", "expected"])
        ),
        st.builds(score.judge, over=st.just("a"), weight=st.just(2.0)),
        st.just(score.weighted([score.contains("x", weight=3.0), score.max_words(3)], at_least=0.5)),
    ),
    max_size=4,
)
sampling = st.lists(
    st.builds(InferenceConfig, temperature=st.sampled_from([0.0, 0.7, 1.25]), max_tokens=st.integers(1, 500),
              top_p=st.sampled_from([0.5, 0.9]), stop_sequences=st.sampled_from([(), ("\n",), ("a", "b")])),
    min_size=1, max_size=3, unique=False,
).filter(lambda found: all(one not in found[:number] for number, one in enumerate(found)))  # fmt: skip
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@quick
@given(
    st.dictionaries(names, prompts, min_size=1, max_size=3),
    inputs,
    scorers,
    sampling,
    st.integers(1, 9),
    st.integers(0, 9),
    st.one_of(st.just(""), names),
)
def test_comparisons_round_trip(prompts, inputs, scorers, sampling, repeats, seed, name):
    panel = ComparePanel(
        prompts, inputs, scorers, ["smollm2-135m", "b"], sampling, repeats=repeats, seed=seed, name=name, lab=FakeLab()
    )
    try:
        ((verb, args, kwargs),) = run_code(panel.code)
        assert verb == "compare"
        assert args == (panel.grid,)
        assert args[0].hash == panel.grid.hash
        assert kwargs.get("scorers", []) == list(panel.scorers) == scorers
        assert kwargs.get("name", "") == name
        again = noa_lab.Grid(prompts, inputs, ["smollm2-135m", "b"], sampling, repeats, seed)
        assert again.hash == panel.grid.hash
    finally:
        panel.close()


@quick
@given(
    st.sampled_from(["", "smollm2-135m", "hf://a/b/c.gguf", "a 'b'.gguf"]), st.one_of(st.none(), st.integers(16, 9999)),
    st.one_of(st.none(), st.integers(1, 64)), st.one_of(st.none(), st.integers(1, 64)), st.booleans(),
)  # fmt: skip
def test_server_settings_round_trip(model, context, slots, threads, keep):
    lab = FakeLab()
    panel = ServerPanel(model, context_size=context, slots=slots, threads=threads, keep=keep, lab=lab)
    try:
        ((verb, args, kwargs),) = run_code(panel.code)
        assert verb == "serve"
        assert args == ((model,) if model else ())
        wanted = {"context_size": context, "slots": slots, "threads": threads, "keep": keep or None}
        assert kwargs == {key: value for key, value in wanted.items() if value is not None}
    finally:
        panel.close()


@quick
@given(st.fixed_dictionaries({}, optional={
    "cache_type_k": st.sampled_from(["f16", "q8_0", "q4_0"]), "cache_type_v": st.sampled_from(["f16", "bf16"]),
    "load_mode": st.sampled_from(["none", "mmap+mlock"]), "flash_attention": st.sampled_from(["on", "off"]),
    "embeddings": st.just(True), "port": st.integers(1024, 65535), "gpu_layers": st.integers(-1, 99), "ubatch_size": st.integers(1, 4096),
}))  # fmt: skip
def test_further_server_settings_round_trip(settings):
    panel = ServerPanel(lab=FakeLab(), **settings)
    try:
        assert run_code(panel.code) == [("serve", (), settings)]
    finally:
        panel.close()


def test_setup_models_and_runs(lab, opened):
    assert run_code(opened(SetupPanel(lab)).code) == [("check", (), {}), ("install", (), {})]
    for options in (
        {"source": "release", "tag": "latest-stable", "backend": "cuda-12.4"},
        {"source": "source", "native": True},
        {"source": "source", "source_path": "a 'folder'"},
        {"source": "release", "mirror": "https://example.org/llama"},
        {"source": "system"},
        {"source": "./build/bin"},
        {"backend": "vulkan"},
    ):
        assert run_code(opened(SetupPanel(lab, **options)).code)[1:] == [("install", (), options)]
    assert run_code(opened(SetupPanel(lab, native=True)).code)[1:] == [
        ("install", (), {"source": "source", "native": True})
    ]
    assert run_code(opened(ModelPanel("a'b", lab=lab)).code) == [("models.get", ("a'b",), {})]
    assert run_code(opened(ModelPanel(lab=lab)).code) == [("models.get", (), {})]
    panel = opened(ModelPanel("tiny-q2", context_size=8192, lab=lab))
    panel.fill(cache_type="q8_0", to="Q4_K_M", requantize=True, path="C:\\m\\x.gguf")
    assert panel.settle()
    assert run_code(panel.code) == [
        ("models.fit", ("tiny-q2",), {"context_size": 8192, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
        ("models.get", ("tiny-q2",), {}),
        ("models.quantize", ("tiny-q2", "Q4_K_M"), {"allow_requantize": True}),
        ("models.import_model", ("C:\\m\\x.gguf",), {}),
    ]
    panel.fill(slots="none")
    assert panel.settle()
    with pytest.raises(BadInput):
        panel.code  # noqa: B018
    run = lab.compare(noa_lab.Grid({"a": "x"}, [{"text": "y"}]))
    assert run_code(opened(RunView(run, lab=lab)).code) == [("open_run", ("r-2f9c81d4",), {})]


@pytest.mark.parametrize(
    ("kind", "typed", "rows"),
    [
        ("lines", "one\n\n  two, three \n", [{"text": "one"}, {"text": "two, three"}]),
        (
            "csv",
            'id,text,expected\na,"x, y",1\nb,"two\nlines",\n',
            [{"id": "a", "text": "x, y", "expected": "1"}, {"id": "b", "text": "two\nlines", "expected": ""}],
        ),
        ("jsonl", '{"text": "a", "n": 1}\n\n{"text": "b", "id": 7}', [{"text": "a", "n": 1}, {"text": "b", "id": 7}]),
    ],
)
def test_typed_inputs_and_scorers_round_trip(lab, opened, kind, typed, rows):
    panel = opened(ComparePanel(lab=lab))
    panel.fill(inputs_as=kind, inputs=typed, scorers="contains: a: b\nshort = max_words: 5\n\njson_valid")
    assert panel.settle()
    ((_, (grid,), kwargs),) = run_code(panel.code)
    assert grid == noa_lab.Grid(panel.grid.prompts, rows, sampling=[{"temperature": 0.7, "max_tokens": 48}])
    assert kwargs["scorers"] == [score.contains("a: b"), score.max_words(5, name="short"), score.json_valid()]


def test_typed_scorers_of_every_kind(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    lines = (
        "not_contains_any: a, b",
        'json_schema: {"type": "object"}',
        "max_tokens: 9",
        "kind = rubric: It is kind.",
        "refusal",
    )
    panel.fill(inputs="France", scorers="\n".join(lines))
    assert panel.settle()
    ((_, _, kwargs),) = run_code(panel.code)
    assert kwargs["scorers"] == [
        score.contains_any(["a", "b"], negate=True),
        score.json_schema({"type": "object"}),
        score.max_tokens(9),
        score.rubric("It is kind.", name="kind"),
        score.refusal(),
    ]


def test_inputs_from_a_file_stay_a_path_and_frames_are_written_out(lab, opened, tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"text": "a"}))
    panel = opened(ComparePanel(inputs=path, lab=lab))
    assert f'inputs="{path}"' in panel.code
    ((_, (grid,), _),) = run_code(panel.code)
    assert grid == panel.grid
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1.5, None]})
    panel = opened(ComparePanel(inputs=frame, lab=lab))
    ((_, (grid,), _),) = run_code(panel.code)
    assert grid == panel.grid


def test_a_scorer_that_is_a_function_is_written_by_its_name(lab, opened):
    def mine(answer, row):
        return True

    chosen = [score.function(mine), score.function(mine, name="other")]
    panel = opened(ComparePanel(scorers=chosen, lab=lab))
    ((_, _, kwargs),) = run_code(panel.code, mine=mine)
    assert kwargs["scorers"] == chosen


def test_code_of_a_form_with_a_mistake_is_refused_by_name(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    panel.fill(repeats="many")
    assert panel.settle()
    with pytest.raises(BadInput, match="many"):
        _ = panel.code


def test_literals_are_laid_out_and_only_plain_values_are_taken():
    assert literal({"a": [1, (2,)], "b": "it's"}) == '{"a": [1, (2,)], "b": "it\'s"}'
    long = call("f", {"0": "x" * 60, "k": ["y" * 60]})
    assert long == "f(\n    \"" + "x" * 60 + "\",\n    k=[\"" + "y" * 60 + "\"],\n)"  # fmt: skip
    assert eval(literal([float("inf"), 0.1, True, None])) == [float("inf"), 0.1, True, None]
    with pytest.raises(TypeError):
        literal(object())
