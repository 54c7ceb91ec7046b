"""Programs in bin/ and their libraries in lib/: real ones, linked in every way, copied, and run after the original is gone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs

from noa_lab import runtime as room
from noa_lab.models import ModelFile
from noa_lab.runtime import Runtime, _libraries, smoke_test

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs are linked for Linux's loader")

PROGRAM = """
#include <unistd.h>
int llama_number(void);
int main(int count, char **words) { if (llama_number() != 7) return 9; (void)count; return execv(FAKE, words); }
"""


def compile_c(text: str, target: Path, *options: str | Path) -> None:
    source = target.with_suffix(".c")
    source.write_text(text)
    subprocess.run(["cc", source, "-o", target, *options], check=True)
    source.unlink()


def library(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    compile_c(
        f"int llama_number(void) {{ return {number}; }}",
        folder / "libllama.so.1.2",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libllama.so.1",
    )
    (folder / "libllama.so.1").symlink_to("libllama.so.1.2")
    (folder / "libllama.so").symlink_to("libllama.so.1")


def linked(prefix: Path, fake: Path, rpath: str, lib: str = "lib") -> Path:
    """A prefix with bin/llama-server, which needs lib/libllama.so and then becomes the fake server."""
    library(prefix / lib, 7)
    bin_ = prefix / "bin"
    bin_.mkdir(exist_ok=True)
    options = [f"-Wl,-rpath,{rpath}"] if rpath else []
    compile_c(PROGRAM.replace("FAKE", f'"{fake}"'), bin_ / "llama-server", f"-L{prefix / lib}", "-lllama", *options)
    shutil.copy2(fake.with_name("llama-bench"), bin_)
    return prefix


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return fake_programs(tmp_path / "fake", build=12000) / "llama-server"


def says(program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(
    ("rpath", "launched"),
    [("$ORIGIN/../lib", True), ("", True), ("/build/somewhere", True), ("$ORIGIN", False)],
    ids=["beside bin", "none", "where it was built", "own folder"],
)
def test_a_copy_runs_by_itself_however_it_was_linked(
    workshop: SimpleNamespace, tmp_path: Path, fake: Path, rpath: str, launched: bool, packed: bool
) -> None:
    room.install(workshop.home, model=workshop.model)
    prefix = linked(tmp_path / "prefix", fake, rpath)
    source = Path(shutil.make_archive(str(tmp_path / "mine"), "gztar", prefix)) if packed else prefix
    found = room.install(workshop.home, model=workshop.model, source=source)
    assert (found.source, found.build_number, found.notes) == ("path", 12000, ())
    shutil.rmtree(prefix)
    assert "build 12000" in says(found.tool("llama-server"))
    assert "llama-server.bin" not in found.tools
    assert ("llama-server.bin" in found.files) == launched
    assert (found.folder / "libllama.so").is_symlink()
    assert smoke_test(found.folder, workshop.model).build_number == 12000
    link = tmp_path / "a name with spaces"
    link.symlink_to(found.folder)
    assert "build 12000" in says(link / "llama-server")


def test_libraries_that_only_the_users_search_path_finds_come_along(
    workshop: SimpleNamespace, tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.install(workshop.home, model=workshop.model)
    prefix = linked(tmp_path / "prefix", fake, "")
    shutil.move(prefix / "lib", tmp_path / "far away")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "far away"))
    found = room.install(workshop.home, model=workshop.model, source=prefix / "bin")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    shutil.rmtree(tmp_path / "far away")
    assert found.build_number == 12000
    assert "build 12000" in says(found.tool("llama-server"))


def test_other_libraries_of_a_shared_prefix_stay_where_they_are(tmp_path: Path, fake: Path) -> None:
    prefix = linked(tmp_path / "prefix", fake, "$ORIGIN/../lib", "lib64")
    for name in ("libz.so", "libggml-cpu-haswell.so", "notes.txt"):
        (prefix / "lib64" / name).write_bytes(b"x")
    (prefix / "lib64" / "ggml" / "backends0").mkdir(parents=True)
    (prefix / "lib64" / "ggml" / "backends0" / "libggml-vulkan.so").write_bytes(b"x")
    (tmp_path / "beside").mkdir()
    _libraries.bring_libraries(prefix / "bin", tmp_path / "beside", every=False)
    names = {path.name for path in (tmp_path / "beside").iterdir()}
    assert names == {"libllama.so", "libllama.so.1", "libllama.so.1.2", "libggml-cpu-haswell.so", "libggml-vulkan.so"}


def test_a_search_path_of_the_users_does_not_mix_two_llama_cpps(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = linked(tmp_path / "prefix", fake, "$ORIGIN")
    for path in (prefix / "lib").iterdir():
        shutil.move(path, prefix / "bin" / path.name)
    library(tmp_path / "other", 8)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "other"))
    assert "exit code 9" in says(prefix / "bin" / "llama-server")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert smoke_test(prefix / "bin", tmp_path / "model.gguf").build_number == 12000


def test_the_search_path_is_touched_only_where_it_is_set(tmp_path: Path) -> None:
    assert _libraries.beside_first({"PATH": "/bin", "LD_LIBRARY_PATH": ""}, tmp_path) == {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "",
    }
    assert _libraries.beside_first({"LD_LIBRARY_PATH": "/a:/b"}, tmp_path) == {"LD_LIBRARY_PATH": f"{tmp_path}:/a:/b"}


def test_on_macos_the_loaders_complaint_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "libllama.0.dylib").write_bytes(b"x")
    for name, lacks in (("llama-server", "@rpath/libllama.0.dylib"), ("llama-cli", "@rpath/libother.dylib")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho 'dyld[1]: Library not loaded: {lacks}' >&2\nexit 134\n")
        program.chmod(0o755)
    assert _libraries.add_launchers(tmp_path, ("llama-server", "llama-cli")) == ("llama-server",)
    assert "DYLD_LIBRARY_PATH=" in (tmp_path / "llama-server").read_text()
    monkeypatch.setattr(sys, "platform", "win32")
    assert _libraries.add_launchers(tmp_path, ("llama-cli",)) == ()


@pytest.mark.real
@pytest.mark.usefixtures("known_threads")
def test_the_real_programs_in_bin_and_lib(
    workshop: SimpleNamespace, runtime: Runtime, model: ModelFile, tmp_path: Path
) -> None:
    room.install(workshop.home, model=workshop.model)
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    for path in runtime.folder.iterdir():
        if path.name != "manifest.json":
            _libraries.copy_linked(path, prefix / ("lib" if _libraries.is_library(path) else "bin") / path.name)
    assert "libllama" in says(prefix / "bin" / "llama-server")
    found = room.install(workshop.home, model=model.path, source=prefix)
    shutil.rmtree(prefix)
    assert (found.source, found.build_number, found.commit) == ("path", runtime.build_number, runtime.commit)
    assert set(found.tools) == set(runtime.tools)
    done = subprocess.run([found.tool("llama-quantize"), "--help"], capture_output=True, text=True, check=False)
    assert "usage" in (done.stdout + done.stderr).lower()
