"""`noa-lab install | rollback | runtimes | check`: what the options become, and what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import noa_lab
from noa_lab import runtime as room
from noa_lab.cli._app import cli
from noa_lab.models import Models
from noa_lab.paths import Home
from noa_lab.runtime import Choice, Runtime, _store
from noa_lab.workbench import Lab, _check


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, and a model that is not really there."""
    monkeypatch.setenv("NOA_LAB_HOME", str(tmp_path / "home"))
    model = SimpleNamespace(name="small", path=tmp_path / "small.gguf", sha256="0" * 64)
    monkeypatch.setattr(Models, "get", lambda self, ref=None, **options: model)
    return Home(tmp_path / "home")


def placed(home: Home, name: str, **facts: object) -> Runtime:
    staging = home.runtimes / f".staging-{name}"
    staging.mkdir()
    (staging / "llama-server").write_text(name)
    draft = Runtime(name, staging, "release", "b11312", 11312, "0c1e57098", tools=("llama-server",))
    runtime = replace(draft, files=_store.hash_files(staging), **facts)
    return _store.switch(home, _store.place(staging, runtime, home))


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, arguments)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", {}),
        (
            "--from release --tag latest-stable --backend cuda-12.4",
            {"source": "release", "tag": "latest-stable", "backend": "cuda-12.4"},
        ),
        ("--native", {"native": True}),
        ("--source src.tar.gz", {"source_path": "src.tar.gz"}),
        ("--mirror https://example.org/m", {"mirror": "https://example.org/m"}),
        ("--from ./build/bin", {"source": "./build/bin"}),
    ],
)
def test_what_the_options_become(
    own_home: Home, monkeypatch: pytest.MonkeyPatch, words: str, changed: dict[str, object]
) -> None:
    usual = {"source": "auto", "tag": None, "backend": None, "native": False, "mirror": None, "source_path": None}
    seen: dict[str, object] = {}

    def install(home: Home, **options: object) -> Runtime:
        seen.update(options)
        return replace(placed(home, "a"), notes=("vulkan: it died with SIGILL. Next: cpu.",))

    monkeypatch.setattr(room, "install", install)
    code, printed = run("install", *words.split())
    assert code == 0
    assert {name: seen[name] for name in usual} == usual | changed
    assert "! vulkan: it died with SIGILL" in printed
    assert "llama.cpp b11312 (build 11312" in printed


@pytest.mark.parametrize("words", ["--tag 4315", "--from sorce", "--from system --native", "--source /no/such"])
def test_bad_input_ends_with_2(own_home: Home, words: str) -> None:
    code, printed = run("install", *words.split())
    assert code == 2
    assert "Fix: " in printed


def test_rollback_and_the_marks(own_home: Home) -> None:
    code, printed = run("rollback")
    assert code == 1
    assert "no earlier llama.cpp" in printed
    placed(own_home, "one")
    placed(own_home, "two")
    code, printed = run("rollback", "--json")
    assert (code, json.loads(printed)["runtime"]["id"]) == (0, "one")
    listed = json.loads(run("runtimes", "--json")[1])["runtimes"]
    assert [(each["id"], each["marks"]) for each in listed] == [("one", ["current"]), ("two", ["previous"])]
    assert "previous" in run("runtimes")[1]
    assert Lab(own_home).rollback().id == "two"
    assert noa_lab.rollback().id == "one"


def test_check_shows_known_faults_and_the_backend(own_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(own_home, "one")
    findings = {finding.name: finding for finding in _check.check(own_home, "smollm2-135m").findings}
    fault = findings["CVE-2026-107183"]
    assert fault.state == "warning"
    assert "b11393" in fault.fix
    monkeypatch.setattr(room, "choose_backend", lambda: Choice("cuda", "cuda: RTX 4090 (driver 580 runs CUDA 13)"))
    findings = {finding.name: finding for finding in _check.check(own_home, "smollm2-135m").findings}
    assert findings["Backend"].state == "warning"
    assert "noa-lab install --backend cuda" in findings["Backend"].fix
    placed(own_home, "two", backend="cuda", build_number=12000)
    findings = {finding.name: finding for finding in _check.check(own_home, "smollm2-135m").findings}
    assert findings["Backend"].state == "ok"
    assert "CVE-2026-107183" not in findings


def test_commands_are_where_the_group_looks_for_them_and_others_are_found_too() -> None:
    from noa_lab.cli import _app

    for module, names in _app.MODULES.items():
        assert set(names) <= {command.name for command in _app._load(module)}, f"MODULES in cli/_app.py, {module}"
    listed = cli.list_commands(None)
    assert len(listed) == len(set(listed)) >= 17
    for name in listed:
        assert cli.get_command(None, name).name == name
    assert cli.get_command(None, "no-such") is None
    code, printed = run("chek")
    assert code == 2
    assert "No such command 'chek'" in printed


def test_a_command_loads_no_more_than_its_own_module() -> None:
    code = (
        "import sys; from noa_lab.cli._app import cli; cli(['--version'], standalone_mode=False); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"noa_lab.workbench", "noa_lab.models", "pydantic", "rich", "pandas", "yaml", "httpx"} & set(loaded)
    code = "import sys, noa_lab as lab; lab.runtimes(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"noa_lab.models", "noa_lab.server", "pydantic", "yaml", "httpx"} & set(loaded)
    code = "import sys, noa_lab as lab; lab.plan_install(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "huggingface_hub", "httpx", "ipywidgets", "noa_lab.experiments", "noa_lab.inference"} & set(
        loaded
    )
