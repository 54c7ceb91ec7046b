"""The command line, the environment, the settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from noa_lab.errors import BadInput, ServerError
from noa_lab.server import ServerSettings
from noa_lab.server._command import plan_launch, scrubbed_environment, server_name

FLAGS = """-m --model -a --alias --host --port -c --ctx-size -np --parallel -no-kvu --no-kv-unified -t --threads -b --batch-size
    -ub --ubatch-size -ngl --gpu-layers -fa --flash-attn --metrics --slots --no-ui --no-webui --cors-origins --offline"""
FLAGS = tuple(re.findall(r"\S+", FLAGS))


def value(argv, flag):
    return argv[argv.index(flag) + 1]


def test_context_is_per_slot(fake):
    launch = plan_launch(fake.runtime, fake.model, ServerSettings(context_size=2048, slots=3))
    assert value(launch.argv, "-c") == "6144"
    assert value(launch.argv, "-np") == "3"
    assert "-no-kvu" in launch.argv


def test_closed_by_default(fake):
    argv = plan_launch(fake.runtime, fake.model, ServerSettings()).argv
    assert value(argv, "--host") == "127.0.0.1"
    assert value(argv, "--port") == "0"
    assert value(argv, "--cors-origins") == "localhost"
    assert {"--no-ui", "--offline"} <= set(argv)
    assert not any("api-key" in argument or "tools" in argument for argument in argv)


def test_threads_come_from_the_runtime_unless_given(fake):
    assert value(plan_launch(fake.runtime, fake.model, ServerSettings()).argv, "-t") == "2"
    assert value(plan_launch(fake.runtime, fake.model, ServerSettings(threads=7)).argv, "-t") == "7"


def test_a_binary_that_knows_all_flags_gives_no_notes(fake):
    launch = plan_launch(replace(fake.runtime, server_flags=tuple(FLAGS)), fake.model, ServerSettings())
    assert launch.notes == ()


def test_the_long_name_stands_in_for_the_short_one(fake):
    flags = tuple(flag for flag in FLAGS if flag not in ("-no-kvu", "--no-ui"))
    argv = plan_launch(replace(fake.runtime, server_flags=flags), fake.model, ServerSettings()).argv
    assert "--no-kv-unified" in argv
    assert "--no-webui" in argv


def test_a_flag_the_binary_lacks_is_a_note(fake):
    flags = tuple(flag for flag in FLAGS if flag != "--cors-origins")
    launch = plan_launch(replace(fake.runtime, server_flags=flags), fake.model, ServerSettings())
    assert "--cors-origins" not in launch.argv
    assert any("--cors-origins" in note for note in launch.notes)


def test_a_flag_that_cannot_be_missed_is_an_error(fake):
    flags = tuple(flag for flag in FLAGS if flag != "--port")
    with pytest.raises(ServerError, match="--port") as caught:
        plan_launch(replace(fake.runtime, server_flags=flags), fake.model, ServerSettings())
    assert "noa-lab install" in caught.value.fix


def test_what_cannot_be_honoured_is_said(fake):
    launch = plan_launch(fake.runtime, fake.model, ServerSettings(context_size=100_000, gpu_layers=35))
    assert value(launch.argv, "-c") == str(8192 * 2)
    assert any("100000" in note and "8192" in note for note in launch.notes)
    assert any("35" in note and "CPU" in note for note in launch.notes)


def test_a_default_context_is_cut_in_silence(fake):
    small = replace(fake.model, metadata=replace(fake.model.metadata, context_length=2048))
    launch = plan_launch(fake.runtime, small, ServerSettings())
    assert value(launch.argv, "-c") == "4096"
    assert launch.notes == ()


def test_fingerprint_is_equal_exactly_for_equal_launches(fake):
    def fingerprint(model=fake.model, runtime=fake.runtime, **settings):
        return plan_launch(runtime, model, ServerSettings(**settings)).fingerprint

    assert fingerprint() == fingerprint(threads=2, slots=2)
    others = {
        fingerprint(slots=3),
        fingerprint(threads=3),
        fingerprint(runtime=replace(fake.runtime, id="other")),
        fingerprint(model=fake.make_model("second")),
        fingerprint(model=replace(fake.model, sha256="ab")),
    }
    assert len(others) == 5
    assert fingerprint() not in others


def test_a_path_that_could_forge_log_lines_is_refused(fake):
    model = replace(fake.model, path=Path("/tmp/a\nlistening on http://127.0.0.1:1.gguf"))
    with pytest.raises(BadInput) as caught:
        plan_launch(fake.runtime, model, ServerSettings())
    assert caught.value.fields["field"] == "path"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("a,b c/d", "a-b-c-d"),
        ("../..", "model"),
        (".hidden", "hidden"),
        ("", "model"),
    ],
)
def test_server_names_are_safe_folder_names(model, name):
    assert server_name(model) == name


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(BadInput) as caught:
        ServerSettings(context_sise=1)
    assert "context_size" in caught.value.fix
    with pytest.raises(BadInput):
        ServerSettings(slots=0)


def test_environment_holds_nothing_that_steers_and_nothing_secret(tmp_path):
    given = {"PATH": "/bin", "LLAMA_ARG_PORT": "1", "LLAMA_API_KEY": "old", "AIP_MODE": "PREDICTION", "HF_TOKEN": "t", "LD_PRELOAD": "x",
        "XDG_CONFIG_HOME": "/mine", "CUDA_VISIBLE_DEVICES": "1", "NOA_LAB_API_KEY": "n"}  # fmt: skip
    environment = scrubbed_environment(given, api_key="new", empty_folder=tmp_path)
    assert environment == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "LLAMA_API_KEY": "new",
        "XDG_CONFIG_HOME": str(tmp_path),
        "OMP_WAIT_POLICY": "passive",  # waiting threads sleep, unless the user says otherwise
    }
    chosen = scrubbed_environment({"OMP_WAIT_POLICY": "active"}, api_key="new", empty_folder=tmp_path)
    assert chosen["OMP_WAIT_POLICY"] == "active"
