"""Fetching the source and compiling it: with real pip, real CMake and a real compiler, on small things."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from runtime_fakes import file_member, link_member, tar_of, tiny_source, write_program

from noa_lab.download import check_disk
from noa_lab.errors import BuildFailed, Cancelled, ChecksumMismatch, DiskFull, DownloadFailed, ToolMissing
from noa_lab.events import CancelToken, Progress, silent
from noa_lab.paths import Home
from noa_lab.runtime import PIN, PROGRAMS, _local_source, _source, _toolchain
from noa_lab.runtime._build import build, compiler_excerpt, jobs_for
from noa_lab.runtime._libraries import is_library
from noa_lab.runtime._pins import Recipe, build_id, recipe_for, recipes
from noa_lab.runtime._toolchain import find_toolchain

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe("tiny", "a test", "cpu", ("-DCMAKE_BUILD_TYPE=Debug",))
TOP = f"llama_cpp_python-{PIN.version}/vendor/llama.cpp"


def test_the_pin_is_the_one_of_the_lock_file() -> None:
    locked = (ROOT / "configs" / "locks" / "bindings.txt").read_text().replace("\\\n", " ").split()
    assert PIN.requirement.split() == locked


def test_recipes_are_ever_safer_and_never_native() -> None:
    portable, baseline = recipes("linux", "x86_64")
    assert "-DGGML_NATIVE=OFF" in portable.flags
    assert {f"-DGGML_{name}=OFF" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2", "SSE42")} <= set(baseline.flags)
    assert "avx2" in portable.needs
    assert not baseline.needs
    for system in ("linux", "darwin", "win32"):
        for arch in ("x86_64", "arm64"):
            for recipe in recipes(system, arch):
                assert "-DGGML_NATIVE=OFF" in recipe.flags
                assert {"-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DBUILD_SHARED_LIBS=ON"} <= set(
                    recipe.flags
                )
                assert any("RPATH" in flag for flag in recipe.flags) == (system != "win32")


def test_a_build_id_changes_with_everything_that_decides() -> None:
    portable, baseline = recipes("linux", "x86_64")
    ids = {
        build_id(PIN, portable, "x86_64"),
        build_id(PIN, baseline, "x86_64"),
        build_id(PIN, portable, "arm64"),
        build_id(replace(PIN, tag="b1", commit="0"), portable, "x86_64"),
        build_id(PIN, replace(portable, flags=(*portable.flags, "-DX=1")), "x86_64"),
    }
    assert len(ids) == 5
    assert build_id(PIN, portable, "x86_64").startswith("b11312-0c1e57098-cpu-portable-")


@pytest.mark.parametrize(("cores", "memory", "jobs"), [(8, 64e9, 8), (8, 4e9, 3), (2, 1e9, 1), (1, 0, 1)])
def test_jobs_by_cores_and_memory(cores: int, memory: float, jobs: int) -> None:
    assert jobs_for(cores, int(memory)) == jobs


# ---- the source


def test_the_source_comes_out_of_the_sdist_and_nothing_else(tmp_path: Path) -> None:
    sdist = tar_of(
        tmp_path / "s.tar.gz",
        [
            file_member(f"llama_cpp_python-{PIN.version}/setup.py"),
            file_member(f"{TOP}/CMakeLists.txt", b"project(x)"),
            file_member(f"{TOP}/src/a.cpp"),
            link_member(f"{TOP}/src/b.cpp", "a.cpp"),
        ],
    )
    (tmp_path / "out").mkdir()
    _source._unpack(sdist, tmp_path / "out" / "src", silent, None)
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert found == ["src", "src/CMakeLists.txt", "src/src", "src/src/a.cpp", "src/src/b.cpp"]


HOSTILE = [
    file_member(f"{TOP}/../../../../escaped"),
    file_member(f"/{TOP}/escaped"),
    link_member(f"{TOP}/link", "/etc/passwd"),
    link_member(f"{TOP}/link", "../../../../../escaped"),
    link_member(f"{TOP}/hard", "../../../../escaped", tarfile.LNKTYPE),
    link_member(f"{TOP}/device", "", tarfile.CHRTYPE),
    link_member(f"{TOP}/pipe", "", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("member", HOSTILE, ids=lambda member: f"{member[0].name[-10:]}-{member[0].type!r}")
def test_a_hostile_sdist_writes_nothing_outside(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    place = tmp_path / "a" / "b" / "c" / "work"
    place.mkdir(parents=True)
    sdist = tar_of(tmp_path / "s.tar.gz", [file_member(f"{TOP}/CMakeLists.txt"), member])
    refused = False
    try:
        _source._unpack(sdist, place / "src", silent, None)
    except DownloadFailed:
        refused = True
    assert not refused or list(place.iterdir()) == []
    outside = [
        path for path in tmp_path.rglob("*") if not path.is_relative_to(place) and path.is_file() and path != sdist
    ]
    assert outside == []
    assert not Path("/escaped").exists()


def test_a_truncated_sdist_is_a_named_error(tmp_path: Path) -> None:
    sdist = tar_of(tmp_path / "s.tar.gz", [file_member(f"{TOP}/CMakeLists.txt", bytes(range(256)) * 4000)])
    sdist.write_bytes(sdist.read_bytes()[:-3000])
    with pytest.raises(DownloadFailed):
        _source._unpack(sdist, tmp_path / "src", silent, None)
    assert not (tmp_path / "src").exists()


def test_an_sdist_without_the_source_is_a_named_error(tmp_path: Path) -> None:
    sdist = tar_of(tmp_path / "s.tar.gz", [file_member("other-1.0/setup.py")])
    with pytest.raises(DownloadFailed, match="no usable"):
        _source._unpack(sdist, tmp_path / "src", silent, None)


def test_a_cancelled_unpacking_keeps_what_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist = tar_of(tmp_path / "s.tar.gz", [file_member(f"{TOP}/CMakeLists.txt")])
    monkeypatch.setattr(_source, "download_distribution", lambda *_, **options: sdist)
    work, token = tmp_path / "work", CancelToken()
    work.mkdir()
    token.cancel()
    with pytest.raises(Cancelled):
        _source.source_folder(PIN, work, report=silent, cancel=token)
    assert sdist.exists()
    assert list(work.iterdir()) == []
    assert (_source.source_folder(PIN, work, report=silent, cancel=None) / "CMakeLists.txt").is_file()
    assert not sdist.exists()


def test_pip_without_an_index_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "links"
    empty.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(DownloadFailed, match="llama-cpp-python"):
        _source.source_folder(PIN, work, report=silent, cancel=None)
    assert list(work.iterdir()) == []


def test_an_sdist_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = tmp_path / "links"
    links.mkdir()
    tar_of(links / f"llama_cpp_python-{PIN.version}.tar.gz", [file_member(f"{TOP}/CMakeLists.txt")])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(ChecksumMismatch) as caught:
        _source.source_folder(PIN, work, report=silent, cancel=None)
    assert caught.value.fields["expected"] == PIN.sha256
    assert list(work.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull) as caught:
        _source.source_folder(PIN, tmp_path, report=silent, cancel=None)
    assert caught.value.fields["needed_bytes"] == PIN.source_bytes
    assert caught.value.fields["free_bytes"] == 5_000_000
    assert "295 MB" in caught.value.fix
    check_disk(tmp_path, 4_000_000)


# ---- the tools


def test_without_a_compiler_the_one_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(_toolchain.sys, "platform", "linux")
    compilers = {"c++", "g++", "clang++"}
    monkeypatch.setattr(
        shutil, "which", lambda name, path=None: None if Path(name).name in compilers else real(name, path=path)
    )
    with pytest.raises(ToolMissing) as caught:
        find_toolchain()
    assert caught.value.fields["tool"] == "c++"
    assert "g++" in caught.value.fix
    assert caught.value.fix.count("`") == 2


def test_no_tool_is_taken_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("cmake", "ninja", "c++", "g++", "clang++", "nvcc", "bin/clang"):
        write_program(tmp_path / name, "#!/bin/sh\n")
    write_program(tmp_path / "git", "#!/bin/sh\ntouch it-ran\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join(("", ".", "./")))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(_toolchain.sys, "executable", str(tmp_path / "elsewhere" / "python"))
    monkeypatch.setattr(_toolchain.sysconfig, "get_path", lambda name: str(tmp_path / "elsewhere"))
    assert [_toolchain._program(name) for name in ("cmake", "ninja")] == [None, None]
    assert [_toolchain._compiler(), _toolchain._toolkit_program("nvcc", [], None)] == [None, None]
    assert _local_source._git(tmp_path, "status") == ""
    assert not (tmp_path / "it-ran").exists()
    monkeypatch.setenv("CXX", "./bin/clang")
    assert _toolchain._compiler() == Path("bin/clang"), "what the user names is the user's word"


def test_the_tools_beside_this_python_come_first() -> None:
    tools = find_toolchain()
    assert tools.cmake.name == "cmake"
    assert tools.ninja is not None
    assert subprocess.run([tools.cmake, "--version"], capture_output=True, check=True).stdout.startswith(
        b"cmake version"
    )


# ---- compiling


def test_a_build_reports_its_progress_and_leaves_a_log(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    seen: list[Progress] = []
    source = tiny_source(tmp_path / "src")
    out = build(source, tmp_path / "build-tiny", RECIPE, PIN, find_toolchain(), home, report=seen.append, cancel=None)
    assert subprocess.run([out / "llama-server"], capture_output=True, check=True).stdout == b"11312 0c1e57098\n"
    assert all((out / name).is_file() for name in PROGRAMS)
    counted = [report for report in seen if report.done]
    assert counted[-1].done == counted[-1].total == 2 * len(PROGRAMS)
    assert [report.step for report in seen if report.finished] == ["Configure llama.cpp", "Build llama.cpp"]
    assert "Linking" in (home.logs / "build-tiny.log").read_text()


def test_a_git_repository_around_the_source_has_no_say(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    source = tiny_source(tmp_path / "work" / "src")
    (source / "CMakeLists.txt").open("a").write(
        "execute_process(COMMAND git rev-parse --show-toplevel WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} RESULT_VARIABLE found)\n"
        'if(found EQUAL 0)\nmessage(FATAL_ERROR "a git repository was found")\nendif()\n'
    )
    build(
        source,
        tmp_path / "work" / "build",
        RECIPE,
        PIN,
        find_toolchain(),
        Home(tmp_path / "home"),
        report=silent,
        cancel=None,
    )


def test_a_failing_compiler_is_quoted(tmp_path: Path) -> None:
    source = tiny_source(tmp_path / "src", broken=True)
    with pytest.raises(BuildFailed) as caught:
        build(
            source,
            tmp_path / "build",
            RECIPE,
            PIN,
            find_toolchain(),
            Home(tmp_path / "home"),
            report=silent,
            cancel=None,
        )
    error = caught.value
    assert "undeclared_thing" in str(error.fields["excerpt"])
    assert "main.cpp:3" in error.message
    assert len(error.message) < 5000
    assert "undeclared_thing" in Path(str(error.fields["log"])).read_text()


def test_a_source_that_cmake_refuses_is_quoted(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "CMakeLists.txt").write_text('message(FATAL_ERROR "this will not do")\n')
    with pytest.raises(BuildFailed, match="this will not do"):
        build(
            source,
            tmp_path / "build",
            RECIPE,
            PIN,
            find_toolchain(),
            Home(tmp_path / "home"),
            report=silent,
            cancel=None,
        )


def processes_of(folder: Path) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def test_a_cancelled_build_ends_its_compilers_and_can_be_continued(tmp_path: Path) -> None:
    home, tools, token = Home(tmp_path / "home"), find_toolchain(), CancelToken()
    source = tiny_source(tmp_path / "src", slow=True)

    def watch(report: Progress) -> None:
        if report.done and report.done >= 10:
            token.cancel()

    with pytest.raises(Cancelled):
        build(source, tmp_path / "build", RECIPE, PIN, tools, home, report=watch, cancel=token)
    until = time.monotonic() + 6
    while ours := processes_of(tmp_path):
        assert time.monotonic() < until, ours
        time.sleep(0.05)
    text = (source / "CMakeLists.txt").read_text().replace("sleep 300", "true")
    (source / "CMakeLists.txt").write_text(text)
    counts: list[Progress] = []
    build(source, tmp_path / "build", RECIPE, PIN, tools, home, report=counts.append, cancel=None)
    assert max(report.total or 0 for report in counts) < 2 * len(PROGRAMS)


def test_libraries_that_are_compiled_in_other_folders_end_beside_the_programs(tmp_path: Path) -> None:
    source = tiny_source(tmp_path / "src")
    (source / "deep").mkdir()
    (source / "deep" / "part.cpp").write_text("int part() { return 7; }\n")
    (source / "deep" / "CMakeLists.txt").write_text("add_library(llama SHARED part.cpp)\n")
    lists = source / "CMakeLists.txt"
    lists.write_text(lists.read_text() + "add_subdirectory(deep)\ntarget_link_libraries(llama-server llama)\n")
    recipe = replace(RECIPE, flags=recipe_for("cpu").flags)
    where = (source, tmp_path / "build", recipe, PIN, find_toolchain(), Home(tmp_path / "home"))
    out = build(*where, report=silent, cancel=None)
    assert [path.name for path in out.iterdir() if is_library(path)] == [
        {"Linux": "libllama.so", "Darwin": "libllama.dylib"}.get(platform.system(), "llama.dll")
    ]
    shutil.move(out, tmp_path / "moved")
    shutil.rmtree(tmp_path / "build")
    server = next((tmp_path / "moved").glob("llama-server*"))
    assert subprocess.run([server], capture_output=True, text=True, check=True).stdout.startswith("11312 ")


def test_what_cmake_found_for_another_toolkit_does_not_stay(tmp_path: Path) -> None:
    source = tiny_source(tmp_path / "src")
    lists = source / "CMakeLists.txt"
    remembers = 'set(SEEN "$ENV{TOOLKIT}" CACHE STRING "")\nif(NOT SEEN STREQUAL "good")\nmessage(FATAL_ERROR "bad: ${SEEN}")\nendif()\n'
    # Before the compiler is looked at, which takes a second each time.
    lists.write_text(lists.read_text().replace("project(", f"{remembers}project(", 1))

    def attempt(toolkit: str) -> list[Progress]:
        seen: list[Progress] = []
        build(
            *(source, tmp_path / "build", RECIPE, PIN, find_toolchain(), Home(tmp_path / "home")),
            variables={"TOOLKIT": toolkit},
            report=seen.append,
            cancel=None,
        )
        return seen

    for toolkit in ("broken", "older"):
        with pytest.raises(BuildFailed, match=f"bad: {toolkit}"):
            attempt(toolkit)
    assert any(report.total for report in attempt("good"))
    assert not any(report.total for report in attempt("good"))
    with pytest.raises(BuildFailed, match="bad: older"):
        attempt("older")


def test_the_excerpt_begins_at_the_first_error_and_stays_short() -> None:
    lines = [
        "[1/9] Building CXX object a.o",
        "note: fine",
        "FAILED: b.o",
        "/usr/bin/c++ " + "-I/x " * 60 + " -o b.o -c b.cpp",
    ]
    lines += ["b.cpp:7:1: error: no such thing", "x" * 1000] + [f"b.cpp:{n}: note" for n in range(100)]
    excerpt = compiler_excerpt(tuple(lines)).splitlines()
    assert excerpt[0] == "FAILED: b.o"
    assert excerpt[1] == "b.cpp:7:1: error: no such thing"
    assert len(excerpt) == 40
    assert max(map(len, excerpt)) == 300


def test_the_excerpt_of_a_refused_configuration_is_the_refusal() -> None:
    lines = (
        "-- The CXX compiler identification is GNU 12.2.0",
        "fatal: not a git repository: /x/.git/modules/vendor/llama.cpp",
        "-- CUDA Toolkit found",
        "CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:178 (target_link_libraries):",
        '  Target "ggml-cuda" links to:',
        "    CUDA::cublas",
        "-- Generating done (1.1s)",
    )
    assert compiler_excerpt(lines).splitlines() == list(lines[3:6])
