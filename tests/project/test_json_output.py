"""`--json` prints valid JSON, with exactly the fields that docs/json.md names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"(?m)^## ", (ROOT / "docs" / "json.md").read_text())[1:]
DOCUMENTED = {
    section.splitlines()[0]: set(
        re.findall(r"(?m)`([\w\[\].]+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*)\|", section)))
    )
    for section in SECTIONS
}


def fields(data: Any, prefix: str = "") -> set[str]:
    """Names of an object's fields; those of the objects in its lists, too."""
    found = set()
    for key, value in data.items():
        name = prefix + key
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found |= {f"{name}[]"} | fields(value[0], f"{name}[].")
        else:
            found.add(name)
    return found


def noa_lab(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "noa_lab.cli", *arguments], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
@pytest.mark.parametrize(
    "title",
    [
        *("noa-lab check --json", "noa-lab runtimes --json", "noa-lab config show --json"),
        *("noa-lab models list --json", "noa-lab models fit --json", "noa-lab models disk --json"),
    ],
)
def test_fields_are_those_documented(title, home):
    printed = json.loads(noa_lab(*title.split()[1:]))
    assert fields(printed) == DOCUMENTED[title]


def test_a_plan(home, monkeypatch):
    title = "noa-lab install --from system --dry-run --json"
    monkeypatch.setenv("PATH", "/nonexistent")
    plan = json.loads(noa_lab(*title.split()[1:]))["plan"]
    assert {"plan"} | fields(plan, "plan.") == DOCUMENTED[title]


@pytest.mark.real
def test_a_model(home):
    shown = json.loads(noa_lab("models", "show", "smollm2-135m", "--json"))
    assert fields(shown) == DOCUMENTED["noa-lab models show REF --json"]
    planned = json.loads(noa_lab("models", "remove", "smollm2-135m", "--json"))
    assert fields(planned) == DOCUMENTED["noa-lab models remove REF --json"]
    assert planned["removed"] is False


@pytest.mark.real
def test_stored_models(home, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--a--b"
    (cached / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (cached / "snapshots" / ("c" * 40) / "m.gguf").write_bytes(bytes(100))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    printed = json.loads(noa_lab("models", "import", "--json"))
    assert fields(printed) == DOCUMENTED["noa-lab models import --json"]


@pytest.mark.real
def test_status(home):
    noa_lab("serve", "--detach")
    try:
        checked = json.loads(noa_lab("test-server", "--json"))  # a request, so that there is a speed
        assert fields(checked) == DOCUMENTED["noa-lab test-server --json"]
        generated = json.loads(noa_lab("generate", "Once", "--max-tokens", "4", "--json"))
        assert fields(generated) == DOCUMENTED["noa-lab generate PROMPT --json"]
        printed = json.loads(noa_lab("status", "--json"))
        del printed["foreign"][:]  # who else runs one on this machine is not ours to say
        assert fields(printed) == DOCUMENTED["noa-lab status --json"]
        assert printed["servers"][0]["state"] == "ready"
    finally:
        noa_lab("stop", "--all")
    assert json.loads(noa_lab("status", "--json"))["servers"] == []


@pytest.mark.real
def test_runs(home, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nprompts: {a: 'Say {{ word }}.', b: 'Repeat: {{ word }}'}\ninputs: [{word: yes}, {word: no}]\n"
        "sampling: [{temperature: 0.0, max_tokens: 4}]\nscorers: [{contains: '{{ word }}'}]\n".replace(
            "yes", "'yes'"
        ).replace("no}", "'no'}")
    )
    compared = json.loads(noa_lab("compare", str(file), "--json"))
    listed = json.loads(noa_lab("runs", "list", "--json"))
    assert fields(listed) == DOCUMENTED["noa-lab runs list --json"]
    shown = json.loads(noa_lab("runs", "show", compared["run_id"], "--json"))
    top = {name.partition("[]")[0] for name in fields(shown) if "." not in name}
    assert top == {name.removesuffix("[]") for name in DOCUMENTED["noa-lab runs show RUN --json"]}
    assert {"prompt", "input_id", "answer", "status", "score.contains", "input.word", "cached", "seed"} <= set(
        shown["cells"][0]
    )
    assert len(shown["cells"]) == 4
    assert shown["verdicts"][0]["outcome"] == "not enough data"


def test_an_import(home, tmp_path):
    file = tmp_path / "promptfooconfig.yaml"
    file.write_text("prompts: ['Say {{w}}']\nproviders: [nobody]\ntests: [{vars: {w: yes}}]\n")
    printed = json.loads(noa_lab("import-promptfoo", str(file), "--json"))
    assert fields(printed) == DOCUMENTED["noa-lab import-promptfoo FILE --json"]
