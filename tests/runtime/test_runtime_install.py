"""Installing: the ladder, what is in place afterwards, and that nothing half-done ever is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs

from noa_lab import runtime as room
from noa_lab.errors import Cancelled, DownloadFailed, RuntimeMissing, RuntimeRejected, SetupError
from noa_lab.events import CancelToken, Progress, silent
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, _bindings, _install_source, _machine, _store, machine


def install(shop: SimpleNamespace, **options: object) -> Runtime:
    return room.install(shop.home, model=shop.model, **options)


def test_an_installation_is_complete_and_leaves_no_litter(workshop: SimpleNamespace) -> None:
    seen: list[Progress] = []
    runtime = install(workshop, report=seen.append)
    assert runtime == room.current(workshop.home) == room.embedded(workshop.home)
    assert room.runtimes(workshop.home) == [runtime]
    assert runtime.tool("llama-bench").is_file()
    assert (runtime.folder / "libllama.so").is_symlink()
    assert (workshop.package / "libllama.so").exists()
    assert json.loads((runtime.folder / "manifest.json").read_text())["tag"] == "b11312"
    names = sorted(path.name for path in workshop.home.runtimes.iterdir() if not path.name.endswith(".lock"))
    assert names == sorted([runtime.id, "current.json", "embedded.json"])
    assert list(workshop.home.downloads.iterdir()) == []
    assert workshop.built == ["portable"]


def test_a_second_call_starts_no_process_and_takes_no_time(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = install(workshop)
    monkeypatch.setattr(subprocess, "Popen", None)
    started = time.thread_time()
    assert install(workshop) == runtime
    assert time.thread_time() - started < 1, "of computing: another process may have the lock, or the processor"


@pytest.mark.skipif(machine().architecture != "x86_64", reason="the ladder has two rungs on x86-64")
def test_a_cpu_that_lies_gets_the_safer_build_and_is_told_so(workshop: SimpleNamespace) -> None:
    workshop.faults["portable"] = "illegal instruction"
    seen: list[Progress] = []
    runtime = install(workshop, report=seen.append)
    assert workshop.built == ["portable", "baseline"]
    assert "-DGGML_AVX2=OFF" in runtime.flags
    assert any("SIGILL" in report.message and "without AVX" in report.message for report in seen)
    assert [path.name for path in workshop.home.runtimes.iterdir() if path.is_dir()] == [runtime.id]


def test_when_nothing_works_nothing_is_in_place(workshop: SimpleNamespace) -> None:
    workshop.faults.update(portable="segfault", baseline="illegal instruction")
    with pytest.raises(RuntimeRejected, match="SIGILL" if machine().architecture == "x86_64" else "SIGSEGV"):
        install(workshop)
    with pytest.raises(RuntimeMissing):
        room.current(workshop.home)
    assert [path for path in workshop.home.runtimes.iterdir() if path.is_dir()] == []
    assert list(workshop.home.downloads.iterdir()) == []
    assert not workshop.package.exists()


def test_a_model_that_cannot_be_loaded_starts_no_second_build(workshop: SimpleNamespace) -> None:
    workshop.faults["portable"] = "bad model"
    with pytest.raises(RuntimeRejected):
        install(workshop)
    assert workshop.built == ["portable"]


def test_a_cpu_without_avx2_gets_the_baseline_at_once(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine().architecture != "x86_64":
        pytest.skip("the ladder has two rungs on x86-64")
    monkeypatch.setattr(_machine, "_cpu", lambda: ("An old one", ("sse42",)))
    seen: list[Progress] = []
    install(workshop, report=seen.append)
    assert workshop.built == ["baseline"]
    assert any("avx2" in report.message for report in seen)


def test_what_is_in_use_needs_no_network_to_stay(
    workshop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **options: object) -> None:
        raise DownloadFailed("PyPI cannot be reached.", fix="Check the network.", source="PyPI", reason="no route")

    theirs = install(workshop, source=fake_programs(tmp_path / "theirs", build=20000))
    shutil.rmtree(room.embedded(workshop.home).folder)
    monkeypatch.setattr(_install_source, "source_folder", unreachable)
    found = install(workshop)
    assert found == theirs
    assert "EmbeddedEngine does not work; servers do: PyPI cannot be reached" in found.notes[0]


def test_another_build_than_asked_for_is_refused(workshop: SimpleNamespace) -> None:
    workshop.faults.update(portable="old version", baseline="old version")
    with pytest.raises(RuntimeRejected, match="it calls itself build 4315"):
        install(workshop)


def test_a_cancelled_installation_leaves_nothing_and_can_be_started_again(workshop: SimpleNamespace) -> None:
    token = CancelToken()

    def cancel_at_the_trial(report: Progress) -> None:
        if report.step == "Test llama.cpp":
            token.cancel()

    with pytest.raises(Cancelled):
        install(workshop, report=cancel_at_the_trial, cancel=token)
    assert [path for path in workshop.home.runtimes.iterdir() if path.is_dir()] == []
    assert install(workshop).tag == "b11312"


def test_what_a_kill_left_behind_is_swept_away(workshop: SimpleNamespace) -> None:
    for leftover in (".staging-x", ".old-y"):
        (workshop.home.runtimes / leftover).mkdir()
        (workshop.home.runtimes / leftover / "file").write_text("x")
    runtime = install(workshop)
    assert [path.name for path in workshop.home.runtimes.iterdir() if path.is_dir()] == [runtime.id]


@pytest.mark.parametrize("damage", ["library", "program", "manifest", "pointer", "folder"])
def test_a_damaged_runtime_is_missing_and_is_put_back(workshop: SimpleNamespace, damage: str) -> None:
    runtime = install(workshop)
    if damage == "folder":
        shutil.rmtree(runtime.folder)
    elif damage == "pointer":
        (workshop.home.runtimes / "current.json").write_text('{"id": "../../elsewhere"}')
    else:
        name = {"library": "libllama.so.0.5.0", "program": "llama-server", "manifest": "manifest.json"}[damage]
        (runtime.folder / name).unlink()
    with pytest.raises(RuntimeMissing) as caught:
        room.current(workshop.home)
    assert "noa-lab install" in caught.value.fix
    assert install(workshop).id == runtime.id
    assert room.current(workshop.home) == runtime
    assert (workshop.package / "libllama.so").exists()


def test_a_replaced_current_runtime_leaves_the_embedded_one_alone(workshop: SimpleNamespace) -> None:
    runtime = install(workshop)
    other = workshop.home.runtimes / "b20000-abc-cpu"
    shutil.copytree(runtime.folder, other, symlinks=True)
    manifest = json.loads((other / "manifest.json").read_text()) | {"id": other.name, "tag": "b20000"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    loaded = _store.load(other)
    assert loaded is not None
    _store.switch(workshop.home, loaded)
    assert install(workshop).tag == "b20000"
    assert room.embedded(workshop.home) == runtime
    assert [each.tag for each in room.runtimes(workshop.home)] == ["b20000", "b11312"]


def test_two_installations_at_once_build_once(workshop: SimpleNamespace) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        found = {runtime.id for runtime in pool.map(lambda _: install(workshop), range(4))}
    assert len(found) == 1
    assert workshop.built == ["portable"]


def test_no_runtime_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissing, match=r"No llama\.cpp is installed yet"):
        room.current(Home(tmp_path))
    assert room.runtimes(Home(tmp_path)) == []


# ---- the bindings' libraries


def fake_runtime(tmp_path: Path) -> Runtime:
    folder = fake_programs(tmp_path / "runtime")
    return Runtime("x", folder, "sdist", "b1", 1, "c")


def test_links_that_dangle_are_repaired(tmp_path: Path, package: Path) -> None:
    runtime = fake_runtime(tmp_path)
    package.mkdir()
    (package / "libllama.so").symlink_to(tmp_path / "gone" / "libllama.so")
    (package / "libold.so").symlink_to(tmp_path / "gone" / "libold.so")
    assert not room.bindings_linked()
    room.link_bindings(runtime, tmp_path)
    assert room.bindings_linked()
    assert room.bindings_linked(runtime)
    assert sorted(path.name for path in package.iterdir() if path.is_symlink()) == [
        "libllama.so",
        "libllama.so.0",
        "libllama.so.0.5.0",
    ]


def test_libraries_that_fail_their_trial_are_taken_away(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(python: Path, model: Path, cancel: object) -> None:
        assert (package / "libllama.so").exists()
        raise RuntimeRejected("It died.", fix="No.", reason="SIGILL")

    monkeypatch.setattr(_bindings, "_try", die)
    with pytest.raises(RuntimeRejected):
        room.link_bindings(fake_runtime(tmp_path), tmp_path)
    assert list(package.iterdir()) == []
    assert not room.bindings_linked()


def test_libraries_that_were_never_tried_do_not_count(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = fake_runtime(tmp_path)
    room.link_bindings(runtime, tmp_path)
    stamp = package / "noa-lab-runtime.txt"
    stamp.write_text("not tried yet")
    assert not room.bindings_linked(runtime)
    tried: list[Path] = []
    monkeypatch.setattr(_bindings, "_try", lambda python, model, cancel: tried.append(python))
    room.link_bindings(runtime, tmp_path)
    assert tried == [Path(sys.executable)]


def test_bindings_with_libraries_of_their_own_are_left_alone(tmp_path: Path, package: Path) -> None:
    package.mkdir()
    (package / "libllama.so").write_bytes(b"theirs")
    with pytest.raises(SetupError, match="libraries of its own"):
        room.link_bindings(fake_runtime(tmp_path), tmp_path)
    assert (package / "libllama.so").read_bytes() == b"theirs"


def test_without_the_bindings_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bindings, "library_folder", lambda: None)
    with pytest.raises(SetupError, match="not installed") as caught:
        room.link_bindings(fake_runtime(tmp_path), tmp_path)
    assert "lab.py" in caught.value.fix


# ---- the real one


@pytest.mark.real
def test_the_real_installation_is_whole(runtime: Runtime, real_home: Home) -> None:
    assert _store.hash_files(runtime.folder) == runtime.files
    assert runtime.source == "sdist"
    assert (runtime.tag, runtime.commit) == ("b11312", "0c1e57098")
    assert "-DGGML_NATIVE=OFF" in runtime.flags
    assert room.embedded(real_home).tag == "b11312"


@pytest.mark.real
def test_installing_again_takes_no_time(runtime: Runtime, model: ModelFile, real_home: Home) -> None:
    room.install(real_home, model=model.path)
    started = time.thread_time()
    assert room.install(real_home, model=model.path) == runtime
    assert time.thread_time() - started < 1, "of computing: another process may have the lock, or the processor"


@pytest.mark.real
def test_the_bindings_import_bare_and_generate(runtime: Runtime, model: ModelFile) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    code = (
        "import sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], n_ctx=128, verbose=False, seed=1)\n"
        "print(model.create_completion('The capital of France is', max_tokens=4, temperature=0)['choices'][0]['text'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model.path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


@pytest.mark.real
def test_another_environment_is_linked_on_its_first_installation(
    runtime: Runtime, model: ModelFile, real_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = _bindings.library_folder()
    assert ours is not None
    package = tmp_path / "site" / "llama_cpp"
    shutil.copytree(ours.parent, package, ignore=shutil.ignore_patterns("lib", "__pycache__"))
    monkeypatch.setattr(_bindings, "library_folder", lambda: package / "lib")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    room.install(real_home, model=model.path, report=silent)
    assert (package / "lib" / "libllama.so").exists()
    assert room.bindings_linked(runtime)
