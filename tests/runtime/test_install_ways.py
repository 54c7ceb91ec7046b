"""The ways to a llama.cpp: source, system, path. What fails is rejected by name, and the old one keeps working."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import REJECTED, fake_programs

from noa_lab import runtime as room
from noa_lab.errors import (
    BadInput,
    RuntimeMissing,
    SetupError,
    ToolMissing,
    UnknownName,
)
from noa_lab.events import Progress
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import InstallPlan, Runtime, _install_source, _store, _system, machine
from noa_lab.runtime._wish import Wish, read_wish

X86 = pytest.mark.skipif(machine().architecture != "x86_64", reason="the ladder has two rungs on x86-64")


def install(shop: SimpleNamespace, **options: object) -> Runtime:
    return room.install(shop.home, model=shop.model, **options)


def plan(shop: SimpleNamespace, **options: object) -> InstallPlan:
    return room.plan_install(shop.home, **options)


def whole(runtime: Runtime) -> bool:
    return _store.hash_files(runtime.folder, runtime.files) == runtime.files


# ---- what is asked for


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Wish("auto")),
        ({"tag": "b4315"}, Wish("release", tag="b4315")),
        ({"tag": "latest-stable"}, Wish("release", tag="latest-stable")),
        ({"native": True}, Wish("source", native=True)),
        ({"backend": "CUDA"}, Wish("auto", backend="cuda")),
        ({"source": "source", "backend": "hip"}, Wish("source", backend="rocm")),
        ({"backend": "HIP"}, Wish("auto", backend="rocm")),
        ({"source": "release", "backend": "cuda-12.4"}, Wish("release", backend="cuda-12.4")),
        ({"mirror": "https://example.org/llama"}, Wish("release", mirror="https://example.org/llama")),
        ({"source": "system"}, Wish("system")),
    ],
)
def test_what_arguments_mean_together(arguments: dict[str, object], expected: Wish) -> None:
    assert read_wish(arguments) == read_wish({**room.DEFAULTS, **arguments}) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"tag": "4315"}, BadInput, "not a release tag"),
        ({"tag": "../../b1"}, BadInput, "not a release tag"),
        ({"source": "sorce"}, UnknownName, "sorce"),
        ({"source": "no/such/file.zip"}, BadInput, "no/such/file.zip"),
        ({"source": "system", "tag": "b4315"}, BadInput, "tag 'b4315' means nothing"),
        ({"source": "release", "native": True}, BadInput, "native True means nothing"),
        ({"source": "source", "mirror": "https://x.org"}, BadInput, "mirror"),
        ({"source": "source", "backend": "cudda"}, UnknownName, "cudda"),
        ({"source": "system", "backend": "cuda"}, BadInput, "backend"),
        ({"source_path": "/no/such/place"}, BadInput, "/no/such/place"),
        ({"source": "release", "source_path": "/tmp"}, BadInput, "source_path"),
        ({"source": "path"}, UnknownName, "way to install 'path'"),
        ({"tagg": "b1"}, UnknownName, "option 'tagg'"),
        ({"tag": 4315}, BadInput, "tag = 4315"),
        ({"native": "yes"}, BadInput, "native = 'yes'"),
        ({"mirror": ""}, BadInput, "mirror = ''"),
        ({"source": ""}, BadInput, "source = ''"),
        ({"source": 3}, BadInput, "source = 3"),
        ({"source_path": ""}, BadInput, "source_path = ''"),
        ({"source_path": 3}, BadInput, "source_path = 3"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_starts(
    workshop: SimpleNamespace, arguments: dict[str, object], error: type[BadInput], words: str
) -> None:
    for verb in (install, plan):
        with pytest.raises(error, match=words) as caught:
            verb(workshop, **arguments)
        assert caught.value.fix
    assert not (workshop.home.root / "runtimes").exists()


# ---- a folder or an archive of programs


def test_a_folder_of_programs_is_copied_and_used(workshop: SimpleNamespace, tmp_path: Path) -> None:
    pinned = install(workshop)
    theirs = fake_programs(tmp_path / "theirs" / "build" / "bin", build=12345, commit="abcdef012")
    (theirs / "unrelated.txt").write_text("a secret")
    found = install(workshop, source=str(tmp_path / "theirs"))
    assert (found.source, found.tag, found.build_number, found.commit) == ("path", "b12345", 12345, "abcdef012")
    assert found.backend == "cpu"
    assert found.folder.is_relative_to(workshop.home.runtimes)
    assert "unrelated.txt" not in found.files
    assert (found.folder / "libllama.so").is_symlink()
    assert whole(found)
    shutil.rmtree(tmp_path / "theirs")
    assert room.current(workshop.home) == found
    assert room.embedded(workshop.home) == pinned
    assert install(workshop) == found


def test_a_copy_is_the_users_to_keep_and_to_remove_whatever_the_original_was(
    workshop: SimpleNamespace, tmp_path: Path
) -> None:
    install(workshop)
    theirs = fake_programs(tmp_path / "theirs", build=12345)
    for path in theirs.iterdir():
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    found = install(workshop, source=theirs)
    assert found.build_number == 12345
    assert all((found.folder / name).stat().st_mode & 0o200 for name in found.files)


def test_an_archive_of_programs_is_unpacked(workshop: SimpleNamespace, tmp_path: Path) -> None:
    install(workshop)
    fake_programs(tmp_path / "llama-b12000", build=12000)
    archive = shutil.make_archive(str(tmp_path / "mine"), "gztar", tmp_path, "llama-b12000")
    found = install(workshop, source=Path(archive))
    assert found.build_number == 12000
    assert found.digests == {"mine.tar.gz": hashlib.sha256(Path(archive).read_bytes()).hexdigest()}
    assert found.verified is False
    assert list(workshop.home.downloads.iterdir()) == []


def test_programs_for_a_gpu_are_recognised(workshop: SimpleNamespace, tmp_path: Path) -> None:
    theirs = fake_programs(tmp_path / "theirs", build=12345, devices=("CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB)",))
    found = install(workshop, source=theirs)
    assert found.backend == "cuda"
    assert found.devices == ("CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB)",)


@pytest.mark.parametrize(
    ("said", "build", "commit"),
    [
        ("version: 4315 (abcdef01)", 4315, "abcdef01"),
        ("version: 0 (unknown)", 7777, "0123abcd9"),
        ("version: 5200 (Homebrew)", 7777, "0123abcd9"),
        ("version: 0.6.0", 7777, "0123abcd9"),
        ("version: 0.6.0-dev (build 1, commit unknown)", 7777, "0123abcd9"),
        ("llama-server v0.5.0-dev", 7777, "0123abcd9"),
        ("b6500-0a1b2c3d", 6500, "0a1b2c3d"),
    ],
)
def test_foreign_version_formats_are_understood(
    workshop: SimpleNamespace, tmp_path: Path, said: str, build: int, commit: str
) -> None:
    install(workshop)
    found = install(workshop, source=fake_programs(tmp_path / "theirs", f"says {said}"))
    assert (found.build_number, found.commit) == (build, commit)


@pytest.mark.parametrize("fault", REJECTED)
def test_programs_that_fail_are_rejected_by_name_and_the_old_ones_stay(
    workshop: SimpleNamespace, tmp_path: Path, fault: str, impatient: None
) -> None:
    old = install(workshop)
    seen: list[Progress] = []
    found = install(workshop, source=fake_programs(tmp_path / "theirs", fault), report=seen.append)
    assert found == old == room.current(workshop.home)
    assert REJECTED[fault] in found.notes[0]
    assert f"the one in use stays: {old.id}" in found.notes[0]
    assert any(REJECTED[fault] in report.message for report in seen)
    assert [path.name for path in workshop.home.runtimes.iterdir() if path.is_dir()] == [old.id]


def test_on_a_fresh_machine_the_ladder_ends_at_the_build(workshop: SimpleNamespace, tmp_path: Path) -> None:
    found = install(workshop, source=fake_programs(tmp_path / "theirs", "illegal instruction"))
    assert found.source == "sdist"
    assert "SIGILL" in found.notes[0]
    assert workshop.built == ["portable"]


def test_a_folder_without_programs_is_named(workshop: SimpleNamespace, tmp_path: Path) -> None:
    old = install(workshop)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="llama-server"):
        install(workshop, source=tmp_path / "empty")
    assert room.current(workshop.home) == old


# ---- the system's


def with_path(monkeypatch: pytest.MonkeyPatch, *folders: Path | str) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))


def test_the_systems_llama_cpp_is_used_where_it_is(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(workshop)
    theirs = fake_programs(tmp_path / "opt" / "bin", build=9100, commit="1234abcd")
    before = {path: path.lstat().st_mtime_ns for path in theirs.iterdir()}
    with_path(monkeypatch, tmp_path / "nothing", theirs)
    found = install(workshop, source="system")
    assert (found.folder, found.source, found.build_number) == (theirs, "system", 9100)
    assert found.tool("llama-quantize") == theirs / "llama-quantize"
    assert {path: path.lstat().st_mtime_ns for path in theirs.iterdir()} == before
    assert [path.name for path in (workshop.home.runtimes / found.id).iterdir()] == ["manifest.json"]
    assert room.current(workshop.home) == found
    assert install(workshop) == found


def test_when_the_systems_programs_change_they_count_as_untried(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = install(workshop)
    theirs = fake_programs(tmp_path / "bin", build=9100)
    with_path(monkeypatch, theirs)
    install(workshop, source="system")
    fake_programs(theirs, build=9200)
    with pytest.raises(RuntimeMissing, match="gone or changed"):
        room.current(workshop.home)
    assert install(workshop, source="system").build_number == 9200
    shutil.rmtree(theirs)
    assert install(workshop) == old


def test_the_current_folder_is_never_looked_into(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_programs(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(_system, "_BREW_FOLDERS", ())
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "here")
    for path in ("", os.pathsep, ".", "./", "../here", f"{os.pathsep}.{os.pathsep}", str(tmp_path / "here"), str(link)):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(RuntimeMissing, match="no llama-server on PATH"):
            _system.find_system(workshop.home)
    monkeypatch.chdir(tmp_path)
    assert _system.find_system(workshop.home).folder == link


def test_nor_are_our_own_runtimes_and_files_that_cannot_be_run(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_system, "_BREW_FOLDERS", ())
    ours = install(workshop)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "llama-server").write_text("not a program")
    with_path(monkeypatch, ours.folder, tmp_path / "text")
    with pytest.raises(RuntimeMissing):
        _system.find_system(workshop.home)


def test_conda_comes_before_path_and_homebrew_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: fake_programs(tmp_path / name / "bin") for name in ("conda", "path", "brew")}
    (tmp_path / "brew" / "Cellar").mkdir()
    monkeypatch.setattr(_system, "_BREW_FOLDERS", (str(places["brew"]),))
    home = Home(tmp_path / "home")
    environment = {"CONDA_PREFIX": str(tmp_path / "conda"), "PATH": str(places["path"])}
    assert _system.find_system(home, environment) == _system.Found(places["conda"], "conda")
    environment.pop("CONDA_PREFIX")
    assert _system.find_system(home, environment) == _system.Found(places["path"], "PATH")
    assert _system.find_system(home, {}) == _system.Found(places["brew"], "Homebrew")
    assert _system.find_conda({"CONDA_PREFIX": "conda"}) is None


# ---- auto


def test_in_a_conda_environment_its_own_llama_cpp_is_taken(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    theirs = fake_programs(tmp_path / "conda" / "bin", "says version: 0 (unknown)")
    found = install(workshop)
    assert (found.source, found.folder) == ("system", theirs)
    assert room.embedded(workshop.home).source == "sdist"
    assert install(workshop) == found


def test_with_condas_own_bindings_nothing_is_compiled(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    fake_programs(tmp_path / "conda" / "bin")
    workshop.package.mkdir()
    (workshop.package / "libllama.so").write_bytes(b"conda's")
    found = install(workshop)
    assert workshop.built == []
    monkeypatch.setattr(subprocess, "Popen", None)
    assert install(workshop) == found


def test_condas_llama_cpp_that_fails_is_passed_over_with_a_word(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    fake_programs(tmp_path / "conda" / "bin", "illegal instruction")
    found = install(workshop)
    assert found.source == "sdist"
    assert "conda" in found.notes[0]
    assert "SIGILL" in found.notes[0]


# ---- from source


@X86
def test_a_native_build_that_dies_ends_at_the_portable_one(workshop: SimpleNamespace) -> None:
    old = install(workshop)
    workshop.faults["native"] = "illegal instruction"
    found = install(workshop, native=True)
    assert workshop.built == ["portable", "native"]
    assert found == old
    assert "SIGILL" in found.notes[0]
    assert "this very CPU" in found.notes[0]


def test_a_native_build_that_works_is_used_and_the_embedded_one_stays(workshop: SimpleNamespace) -> None:
    old = install(workshop)
    found = install(workshop, native=True)
    assert "-DGGML_NATIVE=ON" in found.flags
    assert room.embedded(workshop.home) == old
    assert install(workshop, native=True) == found
    assert workshop.built == ["portable", "native"]


def test_source_knows_its_number_better_than_a_build_without_a_history(
    workshop: SimpleNamespace, tmp_path: Path
) -> None:
    from test_local_source import llama_source

    install(workshop)
    workshop.faults["portable"] = "says version: 1 (26a8406ba)"
    found = install(workshop, source_path=llama_source(tmp_path / "llama.cpp-b4315"))
    assert (found.source, found.build_number, found.tag, found.commit) == ("source", 4315, "b4315", "26a8406ba")


def test_a_toolkit_that_is_missing_is_named(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_install_source.find_toolkit.__globals__["shutil"], "which", lambda name, path=None: None)
    monkeypatch.setenv("PATH", "")
    for backend, tool in (("cuda", "nvcc"), ("vulkan", "glslc"), ("rocm", "hipcc")):
        if machine().system == "Darwin":
            break
        with pytest.raises(ToolMissing, match=tool) as caught:
            install(workshop, source="source", backend=backend)
        assert caught.value.fields["tool"] == tool
        assert "--from release" in caught.value.fix
    assert workshop.built == []


# ---- for real


@pytest.fixture
def real_workshop(workshop: SimpleNamespace, runtime: Runtime, model: ModelFile) -> SimpleNamespace:
    """A home with a copy of the real runtime as its embedded and current one."""
    shutil.copytree(runtime.folder, workshop.home.runtimes / runtime.id, symlinks=True)
    _store.point(workshop.home, runtime)
    _store.switch(workshop.home, runtime)
    workshop.model = model.path
    return workshop


@pytest.mark.real
def test_a_copy_of_the_real_programs(real_workshop: SimpleNamespace, runtime: Runtime, tmp_path: Path) -> None:
    shutil.copytree(runtime.folder, tmp_path / "copy", symlinks=True)
    found = install(real_workshop, source=tmp_path / "copy")
    assert (found.source, found.build_number, found.commit) == ("path", runtime.build_number, runtime.commit)
    assert set(found.tools) == set(runtime.tools)
    assert whole(found)
    started = time.thread_time()
    assert room.rollback(real_workshop.home).id == runtime.id
    assert time.thread_time() - started < 1
    for name in ("llama-server", "llama-cli", "quantize"):
        assert found.tool(name).is_file()


@pytest.mark.real
@pytest.mark.usefixtures("known_threads")
def test_the_real_programs_on_path(
    real_workshop: SimpleNamespace, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runtime.folder, tmp_path / "opt", symlinks=True)
    with_path(monkeypatch, tmp_path / "opt", os.environ["PATH"])
    found = install(real_workshop, source="system")
    assert (found.folder, found.build_number) == (tmp_path / "opt", runtime.build_number)


@pytest.mark.real
def test_the_real_programs_without_a_library_are_rejected_by_its_name(
    real_workshop: SimpleNamespace, runtime: Runtime, tmp_path: Path
) -> None:
    shutil.copytree(runtime.folder, tmp_path / "copy", symlinks=True)
    for library in (tmp_path / "copy").glob("libggml-cpu*"):
        library.unlink()
    found = install(real_workshop, source=tmp_path / "copy")
    assert found.id == runtime.id
    assert "libggml-cpu.so" in found.notes[0]
