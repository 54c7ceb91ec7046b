"""An installation whose source, compiler and GPU are replaced, for all tests of the runtime room."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs, tiny_source

from noa_lab.events import CancelToken
from noa_lab.paths import Home
from noa_lab.runtime import (
    _bindings,
    _install_release,
    _install_source,
    _install_ways,
    _plan_build,
    _plan_ways,
    _smoke,
    _trial,
    smoke_test,
)
from noa_lab.runtime._backends import Choice
from noa_lab.runtime._smoke import SmokeResult


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library folder that stands in for the bindings', and a trial of them that passes."""
    folder = tmp_path / "llama_cpp" / "lib"
    folder.parent.mkdir()
    monkeypatch.setattr(_bindings, "library_folder", lambda: folder)
    monkeypatch.setattr(_bindings, "_try", lambda python, model, cancel: None)
    return folder


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: Path) -> SimpleNamespace:
    """An installation whose source and compiler are replaced: each recipe makes programs with a chosen fault."""
    faults: dict[str, str] = {}
    built: list[str] = []
    devices: list[str] = []

    def build(source: Path, folder: Path, recipe: object, *args: object, **kwargs: object) -> Path:
        name = recipe.name if recipe.backend in {"cpu", "metal"} else recipe.backend  # type: ignore[attr-defined]
        built.append(name)
        return fake_programs(folder / "bin", faults.get(name, ""), devices=tuple(devices))

    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    for module in (_install_ways, _install_source, _install_release, _plan_ways):
        monkeypatch.setattr(module, "choose_backend", lambda: shop.choice)
    for module in (_install_source, _plan_build, _plan_ways):
        monkeypatch.setattr(module, "find_toolchain", lambda: None)
    monkeypatch.setattr(
        _install_source, "source_folder", lambda pin, work, report, cancel: tiny_source(work / f"source-{len(built)}")
    )
    monkeypatch.setattr(_install_source, "build", build)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    shop = SimpleNamespace(
        home=Home(tmp_path / "home"),
        model=model,
        faults=faults,
        built=built,
        devices=devices,
        package=package,
        choice=Choice("cpu", "cpu: a test"),
    )
    return shop


@pytest.fixture
def known_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest thread count is not searched for: with the real programs that takes longer than everything else."""
    monkeypatch.setattr(_trial, "fastest_threads", lambda *_, **options: 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that hang are given up at once; all others get the time that a busy machine takes."""

    def try_it(folder: Path, model: Path, *, cancel: CancelToken | None = None) -> SmokeResult:
        text = (folder / "llama-server").read_text()
        with monkeypatch.context() as patch:
            patch.setattr(_smoke, "_ASK_SECONDS", 1.5 if "fault, devices = 'version hangs'" in text else 60.0)
            start = 1.5 if "fault, devices = 'hang'" in text else 60.0
            return smoke_test(folder, model, cancel=cancel, start_seconds=start)

    monkeypatch.setattr(_trial, "smoke_test", try_it)
