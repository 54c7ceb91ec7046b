"""Comparison files: the shipped ones load, the wrong ones are refused with file, line and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from noa_lab.errors import BadInput, ConfigInvalid, TemplateInvalid
from noa_lab.experiments import load_comparison

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "experiments").glob("*.yaml"))

GOOD = """\
name: tone
models: [smollm2-135m]
prompts:
  plain: "Summarise: {{ text }}"
  persona: {system: "You are an editor.", user: "{{ text }}"}
  shots:
    messages:
      - {role: user, content: "..."}
      - {role: assistant, content: "..."}
      - {role: user, content: "{{ text }}"}
inputs:
  - {id: a, text: "one", expected: yes}
  - {id: b, text: "two", expected: no}
sampling: [{temperature: 0.7, max_tokens: 24}]
repeats: 3
seed: 7
margin: 0.1
scorers: [{contains: "{{ expected }}"}, {name: short, max_words: 30}]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_files_load_and_render(path):
    comparison = load_comparison(path)
    assert comparison.grid.models == ("smollm2-135m",)
    assert all(config.max_tokens <= 24 for config in comparison.grid.sampling)
    assert comparison.grid.render()
    assert comparison.scorers


def test_the_demo_is_what_the_readme_promises():
    grid = load_comparison(next(path for path in SHIPPED if path.name == "demo.yaml")).grid
    assert len(grid.prompts) == 2
    assert len(grid.inputs) >= 24
    assert all(found.variables["expected"] for found in grid.inputs)


def test_everything_in_a_file_arrives(tmp_path):
    comparison = load_comparison(str(write(tmp_path, GOOD)))
    grid = comparison.grid
    assert comparison.name == "tone"
    assert comparison.margin == 0.1
    assert list(grid.prompts) == ["plain", "persona", "shots"]
    assert [found.variables for found in grid.inputs] == [
        {"text": "one", "expected": "yes"},
        {"text": "two", "expected": "no"},
    ]
    assert (grid.sampling[0].temperature, grid.sampling[0].max_tokens) == (0.7, 24)
    assert grid.sampling[0].model_fields_set == {"temperature", "max_tokens"}
    assert (grid.repeats, grid.seed, len(grid)) == (3, 7, 18)
    assert [scorer.name for scorer in comparison.scorers] == ["contains", "short"]


def test_inputs_come_from_a_file_beside_it(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    comparison = load_comparison(write(tmp_path, "name: n\nprompts: {p: '{{ text }}'}\ninputs: data/in.jsonl\n"))
    assert comparison.grid.inputs[0].variables == {"text": "x"}
    assert comparison.grid.models == ()
    assert comparison.margin == 0.05


WRONG = [
    (("sampling:", "samplng:"), 14, "samplng", "sampling"),
    (("temperature", "temprature"), 14, "sampling.0.temprature", "temperature"),
    (("repeats: 3", "repeats: three"), 15, "repeats", None),
    (("repeats: 3", "repeats: 0"), 15, "repeats", None),
    (("seed: 7", "seed: -7"), 16, "seed", None),
    (("margin: 0.1", "margin: 0"), 17, "margin", None),
    (("margin: 0.1", "margin: .inf"), 17, "margin", None),
    (("name: tone\n", ""), 1, "name", None),
    (("system: ", "sytem: "), 5, "prompts.persona.sytem", "system"),
    (("role: assistant", "role: robot"), None, None, None),
    (('"Summarise: {{ text }}"', "7"), 4, None, None),
    (("id: b", "id: a"), 11, None, None),
    (('text: "two"', "text: .inf"), 13, None, None),
    (("max_words: 30", "max_wrods: 30"), 18, None, "max_words"),
    (("max_words: 30", "max_words: many"), 18, None, None),
    (("name: short, ", "name: contains, "), 18, None, None),
    (("models: [smollm2-135m]", "models: 3"), 2, "models", None),
]


@pytest.mark.parametrize(("change", "line", "key", "near"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_file_is_refused_with_file_line_key_and_nearest(tmp_path, change, line, key, near):
    assert change[0] in GOOD
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ConfigInvalid) as caught:
        load_comparison(path)
    error = caught.value
    assert str(path) in error.message
    assert error.fix
    assert error.fields["file"] == str(path)
    if line is not None:
        assert error.fields["line"] == line, error
    if key is not None:
        assert error.fields["key"] == key
    if near is not None:
        assert error.fields["nearest"] == near
        assert near in error.fix


def test_messages_call_it_the_comparison_file(tmp_path):
    path = write(tmp_path, GOOD.replace("repeats:", "repaets:"))
    with pytest.raises(ConfigInvalid) as caught:
        load_comparison(path)
    assert caught.value.message == f"{path}, line 15: The comparison file has no field 'repaets'."
    assert caught.value.fix == "Did you mean 'repeats'?"


@pytest.mark.parametrize(
    ("change", "line", "variable"),
    [
        (('"Summarise: {{ text }}"', '"Summarise: {{ txt }}"'), 4, "txt"),
        (('contains: "{{ expected }}"', 'contains: "{{ expeced }}"'), 18, "expeced"),
        (('"Summarise: {{ text }}"', '"{% for %}"'), 4, ""),
        (('"Summarise: {{ text }}"', "\"{{ ''.__class__ }}\""), 4, ""),
    ],
)
def test_a_wrong_template_is_refused_with_its_line_before_anything_runs(tmp_path, change, line, variable):
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(TemplateInvalid) as caught:
        load_comparison(path)
    assert f"{path}, line {line}" in caught.value.message
    assert caught.value.fields["variable"] == variable
    assert caught.value.exit_code == 2


def test_a_missing_file_and_missing_inputs_are_named(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_comparison(tmp_path / "none.yaml")
    path = write(tmp_path, "name: n\nprompts: {p: '{{ text }}'}\ninputs: nothing.csv\n")
    with pytest.raises(BadInput, match=r"line 3.*no file .*nothing\.csv"):
        load_comparison(path)


def test_python_objects_in_yaml_are_refused(tmp_path):
    with pytest.raises(ConfigInvalid):
        load_comparison(write(tmp_path, GOOD.replace("seed: 7", "seed: !!python/object/apply:os.system ['true']")))


def test_the_file_in_the_docs_loads(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "comparisons.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    found = load_comparison(write(tmp_path, shown))
    assert list(found.grid.prompts) == ["plain", "short"]
    assert [scorer.name for scorer in found.scorers] == ["contains", "brief"]
