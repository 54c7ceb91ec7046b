"""promptfoo's configurations: ten of our own that cover what it documents; hostile ones run nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from comparison_rig import Rig

from noa_lab.errors import BadInput
from noa_lab.experiments import Imported, Store, import_promptfoo, load_comparison, start
from noa_lab.experiments.promptfoo._assertions import supported
from noa_lab.experiments.promptfoo._csv import assertion_in_line
from noa_lab.experiments.promptfoo._nunjucks import compose, rendered, translated

HERE = Path(__file__).parent / "promptfoo"
KNOWN = ["smollm2-135m"]


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "configurations"
    shutil.copytree(HERE, copy)
    (copy / "files" / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    return copy


def _imported(name: str, folder: Path = HERE, **options: Any) -> Imported:
    file = next(path for path in folder.iterdir() if path.name.startswith(name))
    return import_promptfoo(file, known_models=KNOWN, **options)


def _notes(found: Imported, kind: str) -> dict[str, str]:
    return {note.what: note.why for note in found.notes if note.kind == kind}


def _spec(found: Imported, name: str) -> dict[str, Any]:
    return next(spec for spec in found.document["scorers"] if spec["name"] == name)


def _row(found: Imported, name: str) -> dict[str, Any]:
    return next(row for row in found.document["inputs"] if row["id"] == name)


def test_texts_providers_and_the_usual_assertions() -> None:
    found = _imported("01")
    assert found.document["name"] == "Capitals"
    assert list(found.document["prompts"]) == ["prompt 1", "short"]
    assert found.document["models"] == ["smollm2-135m"]
    assert found.document["sampling"] == [{"temperature": 0, "max_tokens": 16, "stop_sequences": ["\n"]}]
    assert _notes(found, "left out") == {"openai:gpt-5-mini": "There is no such model here; it is left out."}
    assert _spec(found, "contains") == {"name": "contains", "contains": "{{ expected_contains }}"}
    assert [row["expected_contains"] for row in found.document["inputs"]] == ["Paris", "Tokyo", "Oslo"]
    assert _spec(found, "contains_2")["when"] == "use_contains_2"
    assert _spec(found, "not_refusal") == {"name": "not_refusal", "not_refusal": True}
    assert _row(found, "France")["country"] == "France"
    named = import_promptfoo(HERE / "01_capitals.yaml", models=["other"])
    assert named.document["models"] == ["other"]


def test_conversations_and_lists() -> None:
    found = _imported("02")
    assert found.document["prompts"]["prompt 1"]["messages"][0] == {
        "role": "system",
        "content": "You are a tutor of {{subject}}.",
    }
    assert [turn["role"] for turn in found.document["prompts"]["prompt 2"]["messages"]] == ["system", "user"]
    assert any("pictures" in why for why in _notes(found, "left out").values())
    assert _spec(found, "contains_all")["contains_all"] == ["divi", "one"]
    assert _spec(found, "contains_any_2")["ignore_case"] is True


def test_templates_become_ours() -> None:
    found = _imported("03")
    messages = found.comparison.grid.render()
    first = messages["prompt 1", "1"][0].content
    assert first.startswith("Priority. ADA (36) likes sums, looms [2]. Team support. Ticket T-1. {")
    assert first.endswith("Write about bananas")
    assert [row["name"] for row in found.document["inputs"]] == ["ada", "grace", "alan"]
    assert "env.SECRET" in _notes(found, "left out")
    assert "variables that a test lacks: item" in _notes(found, "approximated")


def test_structure() -> None:
    found = _imported("04")
    assert _spec(found, "exactly")["json_schema"] == {"const": {"x": 0, "y": 0}}
    assert _spec(found, "json_schema")["json_schema"]["required"] == ["x", "y"]
    assert _spec(found, "xml_valid")["required"] == ["root/child"]
    assert _spec(found, "contains_json_2")["schema"] == {"type": "array"}
    assert "is-sql" in _notes(found, "left out")
    exactly = next(each for each in found.scorers if each.name == "exactly")
    assert exactly('{"y": 0, "x": 0}', {"use_exactly": True}) is True
    assert exactly('{"x": 1}', {"use_exactly": True}) is False
    assert exactly("{}", {}) is None


def test_likeness_weights_and_thresholds() -> None:
    found = _imported("05")
    assert _spec(found, "rouge") == {"name": "rouge", "rouge": "{{reference}}", "at_least": 0.5, "weight": 2.0}
    assert _spec(found, "fluency")["gleu"] == "{{reference}}"
    assert _spec(found, "levenshtein")["at_most"] == 8
    overall = _spec(found, "all")
    assert overall["at_least"] == 0.6
    assert [part["name"] for part in overall["weighted"]] == [
        "rouge",
        "bleu",
        "fluency",
        "levenshtein",
        "starts_with",
        "regex",
    ]
    assert "meteor" in _notes(found, "left out")
    assert found.document["sampling"] == [{"max_tokens": 32, "top_p": 0.9, "seed": 7}]
    assert found.document.get("models") is None
    assert "the lab's default model answers" in _notes(found, "approximated")["vllm:local"]


def test_scenarios_affixes_and_repeats() -> None:
    found = _imported("06")
    assert len(found.document["inputs"]) == 4
    assert found.document["repeats"] == 3
    assert [row["id"] for row in found.document["inputs"]] == ["greeting", "farewell", "greeting (2)", "farewell (2)"]
    assert _row(found, "greeting")["tags"] == ["kind: easy"]
    texts = {place[1]: turns[0].content for place, turns in found.comparison.grid.render().items()}
    assert texts["greeting"] == "Please. Say it in Spanish: Hello Thanks."
    assert texts["farewell (2)"] == "Quickly. Say it in German: Goodbye Thanks."
    assert [row["expected_contains"] for row in found.document["inputs"]] == ["Hola", "Adiós", "Hallo", "Tschüss"]
    assert set(_notes(found, "ignored")) == {"evaluateOptions.cache", "evaluateOptions.maxConcurrency"}


def test_graders_judges_and_all_that_has_no_place() -> None:
    found = _imported("07")
    assert _spec(found, "rubric")["rubric"] == "is polite"
    assert _spec(found, "rubric_2") == {
        "name": "rubric_2",
        "rubric": "is correct\nis short",
        "levels": 5,
        "reasoning": 200,
        "at_least": 0.6,
    }
    assert _spec(found, "rubric_3")["rubric"] == "The answer agrees with this fact: {{fact}}"
    assert _spec(found, "judge")["judge"] == "the friendlier one"
    assert _spec(found, "perplexity_2")["at_most"] == pytest.approx(4.0)
    left_out = _notes(found, "left out")
    assert {
        "context-recall",
        "moderation",
        "classifier",
        "latency",
        "cost",
        "max-score",
        "trace-span-count",
        "tool-call-f1",
        "finish-reason",
        "rubricPrompt",
        "options.provider",
    } <= set(left_out)
    assert all(left_out.values())


def test_other_files_are_read_only_where_they_are_trusted(folder) -> None:
    with pytest.raises(BadInput, match="No prompt") as caught:
        _imported("08", folder)
    assert "--trust" in caught.value.fix
    found = _imported("08", folder, trust=True)
    assert list(found.document["prompts"]) == ["prompts 1", "prompts 2", "chat", "shorter"]
    assert found.document["models"] == KNOWN
    assert found.document["sampling"] == [{"temperature": 0.1}]
    assert [row["id"] for row in found.document["inputs"]] == ["weather", "maths", "code", "4", "5", "6"]
    assert _row(found, "weather")["expected_contains"] == "rain"
    assert _spec(found, "contains_any")["contains_any"] == ["wet", "water"]
    assert _spec(found, "equals")["equals"] == "4"
    assert _spec(found, "similar")["at_least"] == 0.7
    assert _row(found, "5")["expected_contains"] == "vars"
    assert _row(found, "6")["text"] == "A long text."
    left_out = _notes(found, "left out")
    assert "picture.png" in left_out
    assert "javascript" in left_out
    assert "__config:__expected:threshold" in left_out


def test_sets_and_tests_that_skip_the_defaults() -> None:
    found = _imported("09")
    assert list(found.document["prompts"]) == ["counted"]
    assert _spec(found, "either")["weighted"] == [{"contains": "rain"}, {"contains": "{{topic}}y", "weight": 2.0}]
    assert _spec(found, "either")["at_least"] == 0.5
    assert _spec(found, "all_of_2")["all_of"] == [{"contains": "snow"}, {"not_contains": "rain"}]
    assert "use_contains" not in _row(found, "2")
    assert found.document["sampling"] == [{"temperature": 0.2, "json_schema": {"type": "object"}}]
    assert "s3cret" not in found.yaml() + json.dumps([note.as_dict() for note in found.notes])
    left_out = _notes(found, "left out")
    assert {"derivedMetrics", "transform", "prompts of a provider", "echo", "config.apiKey"} <= set(left_out)
    either = next(each for each in found.scorers if each.name == "either")
    row = {"use_either": True, "topic": "rain"}
    assert either("rainy", row) is True
    assert either("rain", row) is False


@pytest.mark.parametrize("trust", [False, True])
def test_a_hostile_configuration_runs_nothing(folder, trust, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "MARKER.js").write_text('require("fs").writeFileSync("MARKER", "")\n')
    (folder / "MARKER.sh").write_text("#!/bin/sh\ntouch MARKER\n")
    os.chmod(folder / "MARKER.sh", 0o755)
    # A trusted configuration's Python assertions are used; everything else that is Python is not.
    (folder / "MARKER.py").write_text(
        "import pathlib\npathlib.Path('PYTHON').touch()\n"
        "def get_assert(output, context): return True\n"
        "def make(context): pathlib.Path('MARKER').touch()\n"
        "tests = get_var = call_api = make\n"
    )
    (folder / "MARKER.yaml").write_text("name: from yaml\n")
    before = {path.name for path in folder.iterdir()}
    modules = set(sys.modules)
    opened: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching[0]:
            return
        if event in {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect"}:
            raise AssertionError(f"{event}: {arguments}")
        if event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    try:
        found = _imported("10", folder, trust=trust)
    finally:
        watching[0] = False
    assert not {name for name in set(sys.modules) - modules if "MARKER" in name}
    made = {path.name for path in folder.iterdir()} - before - {"__pycache__"}
    assert made == ({"PYTHON"} if trust else set())
    read = {Path(path).name for path in opened if str(folder) in path or path.startswith("/etc")}
    if not trust:
        assert read == {"10_hostile.yaml"}, "no other file is opened"
        assert list(found.document["prompts"]) == ["prompt 1"]
        assert not found.functions
        assert "python" in _notes(found, "not trusted")
    everything = {note.what for note in found.notes}
    assert {
        "extensions",
        "nunjucksFilters",
        "redteam",
        "javascript",
        "ruby",
        "webhook",
        "exec:touch MARKER",
    } <= everything
    assert any("langfuse" in what for what in everything)
    assert trust or os.environ.get("HOME", "?") not in found.yaml(), "the environment is not read"


def test_python_is_used_where_it_is_trusted(folder, tmp_path) -> None:
    file = folder / "python.yaml"
    file.write_text(
        """
prompts: ['Capital of {{country}}?', '{{country}}?']
providers: [x]
defaultTest:
  assert:
    - {type: python, value: "'Paris' in output", metric: has_paris}
    - {type: python, value: file://checks.py, threshold: 0.4}
    - {type: not-python, value: "return len(output) > 3"}
    - {type: python, value: "((("}
tests:
  - vars: {country: France}
  - vars: {country: Peru}
    assert: [{type: python, value: "context['vars']['country'] in output", weight: 2}]
"""
    )
    plain = import_promptfoo(file)
    assert plain.functions == ()
    assert "python" in _notes(plain, "not trusted")
    found = import_promptfoo(file, trust=True)
    assert [each.name for each in found.functions] == ["has_paris", "python_2", "python_3", "python_5"]
    assert "Its code cannot be used" in _notes(found, "left out")["python"]
    assert "scorers" not in found.document, "no file can hold them"
    grid = found.comparison.grid.replace(models=["m"], sampling=[{"temperature": 0}])
    with Store(tmp_path / "runs.db") as store:
        run = start(grid, found.scorers, store=store, engine_for=Rig("Paris")).result(30)
        frame = run.cells().set_index(["prompt", "input_id"])
        france, peru = frame.loc[("prompt 1", "1")], frame.loc[("prompt 1", "2")]
        assert (france["score.has_paris"], france["score.python_2"], peru["score.python_2"]) == (1.0, 1.0, 0.0)
        assert france["score.python_3"] == 0.0
        assert france.isna()["score.python_5"]
        assert peru["score.python_5"] == 0.0


@pytest.mark.parametrize("name", ["01", "02", "03", "04", "05", "06", "07", "09"])
def test_what_is_written_is_what_was_imported(name, tmp_path) -> None:
    found = _imported(name)
    written = found.write(tmp_path / "comparison.yaml")
    again = load_comparison(written)
    assert again.grid == found.comparison.grid
    assert again.scorers == found.comparison.scorers
    assert found.document["inputs"][0]["id"] == again.grid.inputs[0].id


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Paris", {"type": "equals", "value": "Paris"}),
        ("at 12:30", {"type": "equals", "value": "at 12:30"}),
        ("contains: Paris", {"type": "contains", "value": "Paris"}),
        ("not-icontains:x", {"type": "not-icontains", "value": "x"}),
        ("is-json", {"type": "is-json"}),
        ("similar(0.8):Hi, you", {"type": "similar", "threshold": 0.8, "value": "Hi, you"}),
        ('contains-any: a, "b, c"', {"type": "contains-any", "value": ["a", "b, c"]}),
        ("grade:is kind", {"type": "llm-rubric", "value": "is kind"}),
        ("fn:output.length", {"type": "javascript", "value": "output.length"}),
        ("levenshtein(3): abc", {"type": "levenshtein", "threshold": 3.0, "value": "abc"}),
        ("note: well", {"type": "equals", "value": "note: well"}),
    ],
)
def test_assertions_in_one_line(line: str, wanted: dict[str, Any]) -> None:
    assert assertion_in_line(line) == wanted


def test_reasons_to_end_that_differ_are_scorers_of_their_own(tmp_path) -> None:
    file = tmp_path / "reasons.yaml"
    reasons = [("one", "stop"), ("two", "length"), ("three", "stop")]
    tests = "".join(
        f"  - {{vars: {{q: {q}}}, assert: [{{type: finish-reason, value: {reason}}}]}}\n" for q, reason in reasons
    )
    file.write_text(f"prompts: ['{{{{q}}}}']\nproviders: [smollm2-135m]\ntests:\n{tests}")
    found = import_promptfoo(file, known_models=KNOWN)
    by_reason = {spec["finish_reason"]: spec["when"] for spec in found.document["scorers"]}
    assert set(by_reason) == {"stop", "length"}
    used = [[reason for reason, when in by_reason.items() if when in row] for row in found.document["inputs"]]
    assert used == [["stop"], ["length"], ["stop"]]


def test_nunjucks() -> None:
    assert (
        translated("{{ a.length }} .length {% if a !== 'b===c' %}") == "{{ a | length }} .length {% if a != 'b===c' %}"
    )
    assert translated("{{ id }} {{ x.id }} {{ 'id' }} id") == "{{ promptfoo_id }} {{ x.id }} {{ 'id' }} id"
    assert translated("{% if a && !b || c %}").count("and") == 1
    assert rendered("{{ missing }}x{{ id }}", {"id": 3}) == "x3"
    assert compose({"a": "1 {{ b }}", "b": "2 {{ c }}", "c": "3", "d": "{{ ( }}"}) == {
        "a": "1 2 3",
        "b": "2 3",
        "c": "3",
        "d": "{{ ( }}",
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a\n", "no promptfoo configuration"),
        ("prompts: []\n", "No prompt"),
        ("prompts: ['{{ a']\n", "No prompt"),
        ("prompts: [a]\ntests: [{assert: [{$ref: '#/nowhere'}]}]\n", "leads nowhere"),
        ("prompts: [a]\nx: {$ref: '#/x'}\n", "refers to itself"),
    ],
)
def test_what_is_no_configuration(tmp_path, text: str, match: str) -> None:
    file = tmp_path / "promptfooconfig.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=match) as caught:
        import_promptfoo(file)
    assert caught.value.fix


def test_a_configuration_in_code_is_refused(tmp_path) -> None:
    file = tmp_path / "promptfooconfig.js"
    file.write_text("module.exports = {}")
    with pytest.raises(BadInput, match="is code"):
        import_promptfoo(file, trust=True)


@pytest.mark.parametrize("part", ["tests", "providers"])
def test_a_file_that_names_itself_is_refused(tmp_path, part) -> None:
    (tmp_path / "round.yaml").write_text("- file://round.yaml\n")
    file = tmp_path / "round.config.yaml"
    file.write_text(f"prompts: [hello]\n{part}: file://round.yaml\n")
    with pytest.raises(BadInput, match="names itself|nested"):
        import_promptfoo(file, trust=True)


def test_a_product_that_explodes_is_refused(tmp_path) -> None:
    file = tmp_path / "promptfooconfig.yaml"
    lists = ", ".join(f"v{number}: [{', '.join(map(str, range(10)))}]" for number in range(9))
    file.write_text(f"prompts: ['{{{{v1}}}}']\nproviders: [x]\ntests: [{{vars: {{{lists}}}}}]\n")
    with pytest.raises(BadInput, match="more than 100,000"):
        import_promptfoo(file)


def test_most_of_the_documented_assertions_are_mapped() -> None:
    assert len(supported()) >= 33
