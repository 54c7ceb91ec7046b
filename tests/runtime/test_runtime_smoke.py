"""The trial: every way to fail has its name, and the real one passes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest
from runtime_fakes import fake_programs, write_program

from noa_lab.errors import Cancelled, RuntimeRejected
from noa_lab.events import CancelToken
from noa_lab.models import ModelFile
from noa_lab.runtime import PIN, Runtime, _smoke, smoke_test
from noa_lab.runtime._threads import fastest_threads


@pytest.fixture
def any_model(tmp_path: Path) -> Path:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_a_good_one_passes(tmp_path: Path, any_model: Path) -> None:
    found = smoke_test(fake_programs(tmp_path / "bin"), any_model)
    assert (found.build_number, found.commit) == (PIN.build_number, PIN.commit)
    assert found.compiler == "GNU 12.2.0 for Linux x86_64"
    assert found.server_flags == ("--kv-unified", "--model", "--no-kv-unified", "-kvu", "-m", "-no-kvu")
    assert found.server_switches == ("--kv-unified", "--no-kv-unified", "-kvu", "-no-kvu")


def test_the_version_format_of_2024_is_understood(tmp_path: Path, any_model: Path) -> None:
    found = smoke_test(fake_programs(tmp_path / "bin", "old version"), any_model)
    assert (found.build_number, found.commit) == (4315, "abcdef01")


@pytest.mark.parametrize(
    ("fault", "kind", "signal_name", "words"),
    [
        ("illegal instruction", "died", "SIGILL", "lacks an instruction"),
        ("segfault", "died", "SIGSEGV", "when it was asked for 8 tokens"),
        ("hang", "hang", "", "not ready after 1 s"),
        ("silent", "hang", "", "no answer after 1 s"),
        ("empty", "wrong answer", "", "gave 0"),
        ("foreign version", "foreign version", "", "edition nine"),
        ("bad model", "model", "", "failed to load model"),
    ],
)
def test_each_failure_is_named(
    tmp_path: Path, any_model: Path, fault: str, kind: str, signal_name: str, words: str
) -> None:
    with pytest.raises(RuntimeRejected) as caught:
        smoke_test(
            fake_programs(tmp_path / "bin", fault),
            any_model,
            start_seconds=1.0 if fault == "hang" else 20,
            answer_seconds=1.0 if fault == "silent" else 20,
        )
    assert caught.value.fields["kind"] == kind
    assert caught.value.fields["signal"] == signal_name
    assert words in caught.value.message
    assert caught.value.fix


def test_a_folder_without_the_server(tmp_path: Path, any_model: Path) -> None:
    with pytest.raises(RuntimeRejected, match="there is no llama-server"):
        smoke_test(tmp_path, any_model)


def test_cancelling_ends_a_server_that_ignores_requests_to_end(tmp_path: Path, any_model: Path) -> None:
    folder = fake_programs(tmp_path / "bin", "lives on")
    token = CancelToken()

    def cancel_when_up() -> None:
        while not (folder / "pid").exists():
            time.sleep(0.02)
        token.cancel()

    threading.Thread(target=cancel_when_up, daemon=True).start()
    with pytest.raises(Cancelled):
        smoke_test(folder, any_model, cancel=token)
    assert not psutil.pid_exists(int((folder / "pid").read_text()))


def test_the_fastest_thread_count_wins_and_the_best_run_counts(tmp_path: Path, any_model: Path) -> None:
    # The fake is fastest with two threads, and takes very long in every second run.
    folder = fake_programs(tmp_path / "bin")
    assert [fastest_threads(folder, any_model, cores) for cores in (1, 2, 6)] == [1, 2, 2]


@pytest.mark.parametrize(
    "line", ["", "{", '{"n_threads": 1}', '{"n_threads": 64, "samples_ns": [1]}', '{"n_threads": 1, "samples_ns": 5}']
)
def test_a_bench_of_another_kind_is_named(tmp_path: Path, any_model: Path, line: str) -> None:
    write_program(tmp_path / "llama-bench", f"#!/bin/sh\necho '{line}'\n")
    with pytest.raises(RuntimeRejected, match="llama-bench printed"):
        fastest_threads(tmp_path, any_model, 2)


@pytest.mark.parametrize(
    ("line", "names", "is_switch"),
    [
        (
            "-fa,   --flash-attn                      enable Flash Attention (default: disabled)",
            {"-fa", "--flash-attn"},
            True,
        ),
        ("-fa,   --flash-attn [on|off|auto]       set Flash Attention use", {"-fa", "--flash-attn"}, False),
        ("-kvo,  --kv-offload, -nkvo, --no-kv-offload", {"-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"}, True),
        ("-ot,   --override-tensor <tensor name pattern>=<buffer type>,...", {"-ot", "--override-tensor"}, False),
        ("--metrics                               enable prometheus compatible metrics", {"--metrics"}, True),
        ("-m,    --model FNAME                    model path", {"-m", "--model"}, False),
        ("----- common params -----", set(), False),
        ("                                        'auto', or 'all' (default: auto)", set(), False),
    ],
)
def test_what_help_says_about_an_option(
    tmp_path: Path, line: str, names: set[str], is_switch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_smoke, "_ask", lambda *_: line)
    flags, switches = _smoke._flags(tmp_path, {}, None)
    assert set(flags) == names
    assert set(switches) == (names if is_switch else set())


@pytest.mark.real
def test_the_real_one_passes(runtime: Runtime, model: ModelFile) -> None:
    found = smoke_test(runtime.folder, model.path)
    assert (found.build_number, found.commit) == (runtime.build_number, runtime.commit)
    assert {"--model", "-m", "--no-kv-unified", "--offline", "--load-mode", "--port"} <= set(found.server_flags)
    assert {"--metrics", "--no-kv-unified", "--offline"} <= set(found.server_switches)
    assert not {"-m", "--port", "-fa", "--flash-attn", "--load-mode", "-ngl"} & set(found.server_switches)
    assert 1 <= runtime.threads <= (os.cpu_count() or 1)


@pytest.mark.real
def test_a_real_server_without_its_libraries_is_rejected_by_name(
    runtime: Runtime, model: ModelFile, tmp_path: Path
) -> None:
    shutil.copy2(runtime.tool("llama-server"), tmp_path / "llama-server")
    with pytest.raises(RuntimeRejected, match="error while loading shared libraries") as caught:
        smoke_test(tmp_path, model.path)
    assert caught.value.fields["kind"] == "died"


@pytest.mark.real
def test_a_real_server_with_a_broken_model_is_not_the_builds_fault(
    runtime: Runtime, model: ModelFile, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.path.read_bytes()[:1_000_000])
    with pytest.raises(RuntimeRejected) as caught:
        smoke_test(runtime.folder, broken)
    assert caught.value.fields["kind"] == "model"


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["llama-server", "llama-cli", "llama-completion", "llama-quantize", "llama-bench", "llama-fit-params"]
)
def test_every_program_starts(runtime: Runtime, name: str) -> None:
    from noa_lab.runtime._process import run

    done = run([runtime.tool(name), "--help"], seconds=20)
    assert "usage" in done.text.lower() or "--model" in done.text, done
    assert done.returncode >= 0
