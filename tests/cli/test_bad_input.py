"""Bad input ends with exit code 2, what was wrong, and the fix; never with a traceback."""

from __future__ import annotations

import pytest

GOOD = """\
name: words
prompts:
  a: "Say {{ word }}."
inputs: [{word: "yes"}]
sampling: [{temperature: 0, max_tokens: 4}]
scorers: [{contains: "{{ word }}"}]
"""


def refused(done, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Fix: " in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def test_unknown_model(noa_lab):
    refused(noa_lab("generate", "hello", "--model", "smollm2-135"), "'smollm2-135'", "Did you mean 'smollm2-135m'?")


def test_misspelt_key_in_a_comparison_file(noa_lab, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(GOOD.replace("sampling:", "samplings:"))
    refused(noa_lab("compare", file), "words.yaml", "line 5", "'samplings'", "'sampling'")


def test_misspelt_scorer(noa_lab, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(GOOD.replace("contains:", "contians:"))
    refused(noa_lab("compare", file), "line 6", "contians", "contains")


def test_variable_that_no_input_has(noa_lab, tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text(GOOD.replace("Say {{ word }}", "Say {{ wrod }}"))
    refused(noa_lab("compare", file), "'a'", "wrod", "'word'")


def test_file_that_is_not_there(noa_lab):
    refused(noa_lab("compare", "nothing.yaml"), "nothing.yaml")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, b"not a model at all" * 100])
def test_broken_gguf(noa_lab, tmp_path, content):
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    refused(noa_lab("models", "get", file), "broken.gguf")


def test_unknown_run(noa_lab):
    refused(noa_lab("runs", "show", "r-00000000"), "r-00000000")


def test_wrong_setting(noa_lab):
    refused(noa_lab("generate", "hello", "--temperature", "-1"), "temperature", "-1")


def test_usage_error_is_exit_code_2(noa_lab):
    assert noa_lab("generate").returncode == 2
    assert noa_lab("no-such-command").returncode == 2


def test_stopping_what_is_not_up(noa_lab):
    done = noa_lab("stop", "nothing")
    assert done.returncode == 1
    assert "Fix: " in done.stderr
