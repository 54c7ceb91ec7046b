"""`noa-lab import-promptfoo`: what is written, what is said, what is refused."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from noa_lab.cli._app import cli

CONFIGURATION = """
description: Colours
prompts: ['A {{thing}} is', file://other.txt]
providers: [openai:gpt-5]
tests:
  - vars: {thing: leaf}
    assert: [{type: contains, value: green}, {type: javascript, value: 'true'}]
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NOA_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "promptfooconfig.yaml").write_text(CONFIGURATION)
    return lambda *arguments: CliRunner().invoke(cli, ["import-promptfoo", *arguments], env={"COLUMNS": "200"})


def test_it_writes_a_comparison_and_names_what_has_no_place(run, tmp_path):
    done = run("promptfooconfig.yaml")
    assert done.exit_code == 0, done.output
    written = (tmp_path / "promptfooconfig.noa.yaml").read_text()
    assert "name: Colours" in written
    for named in ("javascript", "other.txt", "not trusted", "openai:gpt-5", "1 prompts, 1 inputs, 1 scorers"):
        assert named in done.output.replace("\n", " "), named
    assert "noa-lab compare promptfooconfig.noa.yaml" in done.output


def test_it_replaces_nothing_unless_told_to(run, tmp_path):
    target = tmp_path / "mine.yaml"
    target.write_text("mine")
    refused = run("promptfooconfig.yaml", "--out", "mine.yaml")
    assert refused.exit_code == 2
    assert target.read_text() == "mine"
    assert run("promptfooconfig.yaml", "--out", "mine.yaml", "--force").exit_code == 0
    assert "Colours" in target.read_text()


def test_trust_reads_the_other_files(run, tmp_path):
    (tmp_path / "other.txt").write_text("One {{thing}}:")
    done = run("promptfooconfig.yaml", "--trust", "--model", "smollm2-135m")
    assert done.exit_code == 0, done.output
    written = (tmp_path / "promptfooconfig.noa.yaml").read_text()
    assert "One {{thing}}:" in written
    assert "smollm2-135m" in written


def test_bad_input_is_exit_code_two(run, tmp_path):
    (tmp_path / "bad.yaml").write_text("- a\n")
    assert run("bad.yaml").exit_code == 2
    assert run("nowhere.yaml").exit_code == 2
    assert not (tmp_path / "bad.noa.yaml").exists()
