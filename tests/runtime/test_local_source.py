"""Source that the user has: what it is, how old it is, and that compiling it is set up as it should be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from runtime_fakes import tiny_source

from noa_lab import runtime as room
from noa_lab.errors import BadInput, DownloadFailed
from noa_lab.events import silent
from noa_lab.paths import Home
from noa_lab.runtime import PIN, _local_source
from noa_lab.runtime._build import build
from noa_lab.runtime._local_source import open_source
from noa_lab.runtime._pins import BACKENDS, build_id, known_backend, recipe_for
from noa_lab.runtime._toolchain import find_toolchain, find_toolkit

COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


def llama_source(
    folder: Path, *, tools: str = "tools", programs: tuple[str, ...] = ("llama-server", "llama-cli")
) -> Path:
    """A folder that looks like llama.cpp's source, and compiles in a second."""
    tiny_source(folder)
    (folder / "include").mkdir()
    (folder / "include" / "llama.h").write_text("// llama\n")
    for name in programs:
        place = folder / tools / name.removeprefix("llama-")
        place.mkdir(parents=True)
        (place / "CMakeLists.txt").write_text(
            f"set(TARGET {name}-impl)\nset(TARGET {name})\nadd_executable(${{TARGET}} x.cpp)\n"
        )
    return folder


def look(path: Path, tmp_path: Path) -> _local_source.LocalSource:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return open_source(path, work, report=silent, cancel=None)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_folder_without_a_history(tmp_path: Path) -> None:
    found = look(llama_source(tmp_path / "llama.cpp"), tmp_path)
    assert (found.pin.tag, found.pin.commit) == ("b0", "unknown")
    assert found.programs == ("llama-server", "llama-cli")
    assert found.flags == ()


@pytest.mark.parametrize(
    ("name", "tag", "commit"),
    [
        ("llama.cpp-b4315", "b4315", "unknown"),
        (f"llama.cpp-{COMMIT}", "b0", COMMIT[:9]),
        ("llama.cpp-master", "b0", "unknown"),
    ],
)
def test_an_archive_by_its_name(tmp_path: Path, name: str, tag: str, commit: str) -> None:
    llama_source(tmp_path / "in" / name)
    for kind in ("gztar", "zip"):
        archive = Path(shutil.make_archive(str(tmp_path / kind / name), kind, tmp_path / "in", name))
        found = look(archive, tmp_path)
        assert (found.pin.tag, found.pin.commit) == (tag, commit)
        assert (found.folder / "CMakeLists.txt").is_file()
        assert found.folder.is_relative_to(tmp_path / "work")


def test_a_checkout_says_what_it_is(tmp_path: Path) -> None:
    folder = llama_source(tmp_path / "clone")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    git(folder, "commit", "-qm", "two", "--allow-empty")
    found = look(folder, tmp_path)
    assert (found.pin.tag, found.pin.commit) == ("b2", git(folder, "rev-parse", "--short=9", "HEAD"))
    git(folder, "tag", "b9999")
    assert look(folder, tmp_path).pin.tag == "b9999"
    shutil.copytree(folder, tmp_path / "outer" / "inner", ignore=shutil.ignore_patterns(".git"))
    git(tmp_path / "outer", "init", "-q")
    assert look(tmp_path / "outer" / "inner", tmp_path).pin.commit == "unknown"


def test_a_shallow_checkout_does_not_pretend_to_know_its_number(tmp_path: Path) -> None:
    folder = llama_source(tmp_path / "origin")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    for name in ("one", "two", "three"):
        git(folder, "commit", "-qm", name, "--allow-empty")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{folder}", tmp_path / "shallow"], check=True)
    found = look(tmp_path / "shallow", tmp_path)
    assert found.pin.tag == "b0"
    assert found.pin.commit != "unknown"


def test_a_checkouts_settings_start_no_program(tmp_path: Path) -> None:
    folder = llama_source(tmp_path / "clone")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(trap))
    git(folder, "config", "core.hooksPath", str(tmp_path))
    look(folder, tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_source_of_2024_has_its_programs_among_the_examples(tmp_path: Path) -> None:
    found = look(llama_source(tmp_path / "old", tools="examples"), tmp_path)
    assert found.flags == ("-DLLAMA_BUILD_EXAMPLES=ON",)
    assert found.programs == ("llama-server", "llama-cli")


def test_the_bindings_sdist_holds_it_too(tmp_path: Path) -> None:
    llama_source(tmp_path / "llama_cpp_python-1" / "vendor" / "llama.cpp")
    found = look(tmp_path / "llama_cpp_python-1", tmp_path)
    assert found.folder.name == "llama.cpp"


def test_changed_source_is_other_source(tmp_path: Path) -> None:
    folder = llama_source(tmp_path / "llama.cpp")
    first = look(folder, tmp_path).digest
    assert look(folder, tmp_path).digest == first
    (folder / "main.cpp").write_text("int main() { return 1; }\n")
    assert look(folder, tmp_path).digest != first


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no CMakeLists\.txt"):
        look(tmp_path / "empty", tmp_path)
    with pytest.raises(BadInput, match="no llama-server to build"):
        look(llama_source(tmp_path / "library", programs=("llama-cli",)), tmp_path)
    with pytest.raises(BadInput, match="There is no"):
        look(tmp_path / "none", tmp_path)
    (tmp_path / "text.tar.gz").write_text("not an archive")
    with pytest.raises(DownloadFailed):
        look(tmp_path / "text.tar.gz", tmp_path)
    assert list((tmp_path / "work").iterdir()) == []


# ---- recipes


def test_every_backend_has_its_recipe() -> None:
    assert "-DGGML_CUDA=ON" in recipe_for("cuda", system="linux", arch="x86_64").flags
    assert "-DCMAKE_CUDA_ARCHITECTURES=native" in recipe_for("cuda", native=True, system="linux", arch="x86_64").flags
    assert "-DGGML_VULKAN=ON" in recipe_for("vulkan", system="win32", arch="x86_64").flags
    rocm = recipe_for("rocm", gpu_targets=("gfx1100", "gfx90a"), system="linux", arch="x86_64").flags
    assert {"-DGGML_HIP=ON", "-DGPU_TARGETS=gfx1100;gfx90a"} <= set(rocm)
    assert "-DGGML_METAL=ON" in recipe_for("metal", system="darwin", arch="arm64").flags
    assert recipe_for("cpu", system="linux", arch="x86_64") == room._pins.recipes("linux", "x86_64")[0]
    assert "-DGGML_METAL=OFF" in recipe_for("cpu", system="darwin", arch="arm64").flags


def test_native_is_a_choice_and_nothing_else_changes() -> None:
    for backend in ("cpu", "cuda", "vulkan", "rocm"):
        portable, native = (
            recipe_for(backend, native=native, system="linux", arch="x86_64") for native in (False, True)
        )
        assert "-DGGML_NATIVE=OFF" in portable.flags
        assert "-DGGML_NATIVE=ON" in native.flags
        assert not {"-DGGML_NATIVE=ON"} & set(portable.flags)
        for recipe in (portable, native):
            assert len({flag.partition("=")[0] for flag in recipe.flags}) == len(recipe.flags)
            assert {"-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"} <= set(recipe.flags)
            assert build_id(PIN, recipe) == build_id(PIN, recipe)
        assert build_id(PIN, portable) != build_id(PIN, native)


@pytest.mark.parametrize(
    ("backend", "system"), [("metal", "linux"), ("metal", "win32"), ("cuda", "darwin"), ("sycl", "linux")]
)
def test_what_cannot_be_compiled_here_is_refused(backend: str, system: str) -> None:
    with pytest.raises(BadInput, match=backend) as caught:
        recipe_for(backend, system=system, arch="arm64")
    assert "--from release" in caught.value.fix


def test_backends_by_their_other_names() -> None:
    assert known_backend("HIP") == "rocm"
    assert [known_backend(name) for name in BACKENDS] == list(BACKENDS)


def test_a_toolkit_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvcc", "glslc", "hipcc"):
        program = tmp_path / "kit" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nonexistent")
    for variable in ("CUDA_HOME", "VULKAN_SDK", "ROCM_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / "kit"))
    assert find_toolkit("cuda") == {"CUDACXX": str(tmp_path / "kit" / "bin" / "nvcc")}
    assert find_toolkit("vulkan") == {}
    kit = str((tmp_path / "kit").resolve())
    assert find_toolkit("rocm") == {"HIP_PLATFORM": "amd", "HIP_PATH": kit}
    for name in ("clang-14", "clang-15", "clang-cpp-15"):
        (tmp_path / "kit" / "bin" / name).write_text("")
    assert find_toolkit("rocm")["HIPCXX"] == str(tmp_path / "kit" / "bin" / "clang-15")
    (tmp_path / "kit" / "llvm" / "bin").mkdir(parents=True)
    (tmp_path / "kit" / "llvm" / "bin" / "clang").write_text("")
    assert find_toolkit("rocm")["HIPCXX"] == f"{kit}/llvm/bin/clang"
    assert find_toolkit("cpu") == {}


# ---- compiling it


def test_local_source_is_compiled_with_its_own_programs(tmp_path: Path) -> None:
    source = look(llama_source(tmp_path / "llama.cpp-b4315"), tmp_path)
    recipe = recipe_for("cpu")
    home = Home(tmp_path / "home")
    out = build(
        source.folder,
        tmp_path / "build",
        recipe,
        source.pin,
        find_toolchain(),
        home,
        programs=source.programs,
        report=silent,
        cancel=None,
    )
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".exe") == ["llama-cli", "llama-server"]
    said = subprocess.run([out / "llama-server"], capture_output=True, text=True, check=True).stdout
    assert said == "4315 unknown\n"
