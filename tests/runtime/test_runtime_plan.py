"""What an installation would do, said beforehand: held against what it then does."""

from __future__ import annotations

import inspect
import json
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs, tiny_source

from noa_lab import runtime as room
from noa_lab.errors import RuntimeMissing, ToolMissing
from noa_lab.paths import Home
from noa_lab.runtime import _install_source, _plan_build, _plan_ways, _system
from noa_lab.runtime._backends import Choice, Gpu
from noa_lab.workbench import Lab


def plan(shop: SimpleNamespace, **options: object) -> room.InstallPlan:
    return room.plan_install(shop.home, **options)


def install(shop: SimpleNamespace, **options: object) -> room.Runtime:
    return room.install(shop.home, model=shop.model, **options)


def files(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def raise_missing(*_: object) -> None:
    raise ToolMissing("There is no C++ compiler on this machine.", fix="Install g++.", tool="c++")


def test_a_fresh_machine_compiles_and_a_ready_one_does_nothing(workshop: SimpleNamespace) -> None:
    found = plan(workshop)
    assert [step.split()[0] for step in found.steps] == ["Download", "Compile", "Try", "Link", "Make"]
    assert (found.way, found.ready, found.obstacles) == ("auto", False, ())
    assert "without AVX" in found.otherwise[0]
    there = install(workshop)
    found = plan(workshop)
    assert found.ready
    assert there.id in found.steps[0]


def test_what_is_here_is_used_again(workshop: SimpleNamespace) -> None:
    pinned = install(workshop)
    native = install(workshop, native=True)
    for options, there in (
        ({"native": True}, native),
        ({"source": "source"}, pinned),
        ({"backend": "cpu"}, pinned),
    ):
        found = plan(workshop, **options)
        assert found.steps[0] == f"Use {there.id}, which is here already"
        assert found.otherwise == ()
        built = len(workshop.built)
        assert install(workshop, **options) == there
        assert len(workshop.built) == built
    assert plan(workshop, native=True).steps[1] == f"Switch servers to it; a rollback leads back to {pinned.id}"
    assert plan(workshop, backend="cpu").steps[1] == "Servers go on using it"


def test_the_ladder_is_the_one_that_is_followed(workshop: SimpleNamespace) -> None:
    workshop.faults.update(native="illegal instruction", portable="segfault")
    promised = plan(workshop, native=True)
    assert "this very CPU" in promised.steps[1]
    found = install(workshop, native=True)
    assert workshop.built == ["native", "portable", "baseline"]
    assert [said in note for said, note in zip(("AVX2", "without AVX"), found.notes, strict=True)] == [True, True]
    assert ["AVX2" in promised.otherwise[0], "without AVX" in promised.otherwise[1]] == [True, True]


def test_what_is_missing_is_said_with_its_fix(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plan_build, "find_toolchain", raise_missing)
    monkeypatch.setattr(_plan_build, "find_toolkit", room._toolchain.find_toolkit)
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDACXX", "VULKAN_SDK"):
        monkeypatch.delenv(name, raising=False)
    found = plan(workshop, source="source", backend="vulkan")
    assert [obstacle.message.split(",")[0] for obstacle in found.obstacles] == [
        "There is no C++ compiler on this machine.",
        "glslc",
    ]
    assert all(obstacle.fix for obstacle in found.obstacles)
    assert "→ Install g++." in str(found)


def test_without_a_compiler_a_fresh_machine_asks_for_the_release(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plan_ways, "find_toolchain", raise_missing)
    found = plan(workshop)
    assert found.steps[0].startswith("Ask api.github.com which files release b11312 has")
    assert [obstacle.fix for obstacle in found.obstacles] == ["Install g++."]


def test_with_a_gpu_the_release_for_it_is_looked_for(workshop: SimpleNamespace) -> None:
    workshop.choice = Choice(
        "cuda", "cuda: RTX 4090 (driver 580.65 runs CUDA 13)", (Gpu("cuda", "RTX 4090", "580.65"),)
    )
    assert "for cuda: RTX 4090" in plan(workshop).steps[-1]
    assert "choose cuda for" in plan(workshop, source="release").steps[0]
    assert "the release's build for the CPU" in plan(workshop, source="release").otherwise


def test_a_gpu_without_its_toolkit_is_not_compiled_for(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.choice = Choice("cuda", "cuda: RTX 4090", (Gpu("cuda", "RTX 4090", targets=("89",)),))
    monkeypatch.setattr(_install_source, "find_toolkit", raise_missing)
    found = plan(workshop, source="source")
    assert "Compile for the CPU alone" in found.steps[0]
    assert found.obstacles
    monkeypatch.setattr(_install_source, "find_toolkit", lambda backend: {})
    monkeypatch.setattr(_plan_build, "find_toolkit", lambda backend: {})
    assert "NVIDIA" in plan(workshop, source="source").steps[1]
    monkeypatch.setenv("CUDAARCHS", "75")
    assert "-DCMAKE_CUDA_ARCHITECTURES=89" in _install_source.asked_recipe(room._wish.Wish("source"), "cuda").flags


def test_without_a_gpu_its_kind_can_be_named(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDAARCHS", "75;86-real")
    monkeypatch.setenv("GPU_TARGETS", "gfx1100, gfx90a")
    assert (
        "-DCMAKE_CUDA_ARCHITECTURES=75;86-real" in _install_source.asked_recipe(room._wish.Wish("source"), "cuda").flags
    )
    found = _install_source.asked_recipe(room._wish.Wish("source"), "rocm")
    assert "-DGPU_TARGETS=gfx1100;gfx90a" in found.flags
    assert found.says == "AMD GPUs (HIP): gfx1100, gfx90a"


def test_conda_comes_first(workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    theirs = fake_programs(tmp_path / "conda" / "bin")
    assert str(theirs) in plan(workshop).steps[0]
    workshop.package.mkdir()
    (workshop.package / "libllama.so").write_bytes(b"conda's")
    assert not any("Compile" in step for step in plan(workshop).steps)
    assert install(workshop).folder == theirs
    assert workshop.built == []


def test_the_systems_and_the_users_own(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "_BREW_FOLDERS", ())
    old = install(workshop)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    found = plan(workshop, source="system")
    assert (found.steps, found.otherwise) == ((), ())
    with pytest.raises(RuntimeMissing) as caught:
        install(workshop, source="system")
    assert found.obstacles == (room.Obstacle(caught.value.message, caught.value.fix),)
    theirs = fake_programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(theirs))
    assert str(theirs) in plan(workshop, source="system").steps[0]
    assert plan(workshop, source=theirs).steps[0].startswith(f"Copy the programs in {theirs}")
    archive = shutil.make_archive(str(tmp_path / "mine"), "gztar", theirs)
    found = plan(workshop, source=archive)
    assert found.steps[0].startswith(f"Unpack {archive}")
    assert found.otherwise == (f"the one in use stays, {old.id}",)
    source = tiny_source(tmp_path / "source")
    assert plan(workshop, source_path=source).steps[0] == f"Look at the source in {source}"


def test_planning_changes_nothing_and_asks_nobody(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    install(workshop)
    before = files(workshop.home.root)
    monkeypatch.setattr(socket, "socket", None)
    for options in ({}, {"source": "release", "tag": "latest-nightly"}, {"native": True}, {"backend": "vulkan"}):
        started = time.thread_time()
        shown = plan(workshop, **options)
        assert time.thread_time() - started < 5
        assert json.loads(json.dumps(shown.as_dict()))["steps"] == list(shown.steps)
        assert str(shown).startswith("1. ")
    assert files(workshop.home.root) == before


def test_every_text_of_a_plan_is_escaped() -> None:
    evil = "<img src=x onerror=y>"
    shown = room.InstallPlan("path", (evil,), (evil,), (room.Obstacle(evil, evil),))._repr_html_()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 4
    named = room.InstallPlan("path", (), (), (room.Obstacle("There is none.", "Run `make <x>`."),))._repr_html_()
    assert "<code>make &lt;x&gt;</code>" in named


def test_all_verbs_spell_the_options_out() -> None:
    for verb in (room.install, room.plan_install, Lab.install, Lab.plan_install, Lab().install):
        named = inspect.signature(verb).parameters
        assert {name: named[name].default for name in room.DEFAULTS} == room.DEFAULTS
        assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in named.values())
    assert set(room.InstallOptions.__annotations__) == set(room.DEFAULTS)
    assert set().union(*room.OPTIONS_OF.values()) == set(room.DEFAULTS) - {"source"}
    assert set(room.WAYS) == set(room.OPTIONS_OF)


def test_the_lab_adds_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(Home(tmp_path / "home"))
    assert lab.plan_install(source="release").steps[0].startswith("Get the model smollm2-135m")
    monkeypatch.setattr(
        room, "plan_install", lambda home, **_: room.InstallPlan("auto", ("Nothing: it is here",), ready=True)
    )
    assert lab.plan_install() == room.InstallPlan(
        "auto", ("Get the model smollm2-135m, which llama.cpp is tried with",)
    )
