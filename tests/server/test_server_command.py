"""The command line, the environment, the settings."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from noa_lab.errors import BadInput, ServerError, SetupError
from noa_lab.server import ServerSettings
from noa_lab.server._command import plan_launch, scrubbed_environment, server_name
from noa_lab.server._options import OPTIONS
from noa_lab.server.tuning._tuned import Tuned, read_tuned, tuned_path, write_tuned

FLAGS = """-m --model -a --alias --host --port --reuse-port -c --ctx-size -np --parallel -no-kvu --no-kv-unified -t --threads
    -tb --threads-batch -b --batch-size -ub --ubatch-size -ngl --gpu-layers -fa --flash-attn -ctk --cache-type-k -ctv --cache-type-v
    -lm --load-mode --embeddings --pooling -fit --fit --metrics --slots --no-ui --no-webui --cors-origins --offline
    --cache-reuse --context-shift --no-warmup"""
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


def test_every_setting_reaches_the_command_line(fake):
    settings = ServerSettings(
        threads_batch=5, cache_type_k="q8_0", cache_type_v="q4_0", load_mode="none", embeddings=True, port=4321,
        options={"cache-reuse": 256, "context_shift": True, "--warmup": False},
    )  # fmt: skip
    launch = plan_launch(replace(fake.runtime, server_flags=FLAGS), fake.model, settings)
    for flag, expected in (("-tb", "5"), ("-ctk", "q8_0"), ("-ctv", "q4_0"), ("-lm", "none"), ("--port", "4321"), ("--pooling", "mean"),
        ("-ub", "2048"), ("-b", "2048"), ("--cache-reuse", "256")):  # fmt: skip
        assert value(launch.argv, flag) == expected, flag
    assert {"--embeddings", "--context-shift", "--no-warmup"} <= set(launch.argv)
    assert launch.notes == ()
    assert launch.origins["port"] == "given"
    assert launch.origins["threads"] == "measured at install"
    assert launch.origins["slots"] == "default"
    assert launch.origins["ubatch_size"] == "as batch_size"


def test_on_the_cpu_a_batch_is_what_is_computed_at_once(fake):
    argv = plan_launch(fake.runtime, fake.model, ServerSettings()).argv
    assert (value(argv, "-b"), value(argv, "-ub")) == ("512", "512")
    argv = plan_launch(fake.runtime, fake.model, ServerSettings(batch_size=1024)).argv
    assert (value(argv, "-b"), value(argv, "-ub")) == ("1024", "512")
    argv = plan_launch(replace(fake.runtime, backend="cuda"), fake.model, ServerSettings(gpu_layers=-1)).argv
    assert (value(argv, "-b"), value(argv, "-ub")) == ("2048", "512")


def test_defaults_are_left_to_llama_server_where_old_builds_lack_the_option(fake):
    argv = plan_launch(fake.runtime, fake.model, ServerSettings()).argv
    assert not {"-ctk", "-ctv", "-lm", "--embeddings", "--pooling", "-lv"} & set(argv)


def test_a_model_that_says_how_to_pool_is_believed(fake):
    fake.model.path.write_bytes(b"GGUF....qwen3.pooling_type....")
    argv = plan_launch(fake.runtime, fake.model, ServerSettings(embeddings=True)).argv
    assert "--pooling" not in argv
    argv = plan_launch(fake.runtime, fake.model, ServerSettings(embeddings=True, pooling="last")).argv
    assert value(argv, "--pooling") == "last"


def test_what_a_build_lacks_is_said_for_everything_that_was_asked(fake):
    lacking = tuple(
        flag
        for flag in FLAGS
        if flag not in ("-ctk", "--cache-type-k", "--cache-reuse", "--reuse-port", "-fit", "--fit")
    )
    settings = ServerSettings(cache_type_k="q8_0", options={"cache-reuse": 1})
    notes = plan_launch(replace(fake.runtime, server_flags=lacking), fake.model, settings).notes
    assert len(notes) == 2
    assert "--cache-type-k" in notes[0]
    assert "--cache-reuse" in notes[1]


@pytest.mark.parametrize(
    ("mode", "flags"), [("none", ["--no-mmap"]), ("mlock", ["--mlock", "--no-mmap"]), ("mmap", [])]
)
def test_old_builds_have_other_names_for_load_modes(fake, mode, flags):
    old = (*(flag for flag in FLAGS if flag not in ("-lm", "--load-mode")), "--no-mmap", "--mlock")
    launch = plan_launch(replace(fake.runtime, server_flags=old), fake.model, ServerSettings(load_mode=mode))
    assert [flag for flag in launch.argv if flag in ("--no-mmap", "--mlock")] == flags
    assert launch.notes == ()


@pytest.mark.parametrize(
    ("build", "wish", "given"),
    [(4315, "auto", []), (4315, "on", ["-fa"]), (4315, "off", []), (11312, "off", ["-fa", "off"])],
)
def test_flash_attention_of_old_builds_takes_no_value(fake, build, wish, given):
    argv = plan_launch(replace(fake.runtime, build_number=build), fake.model, ServerSettings(flash_attention=wish)).argv
    found = argv[argv.index("-fa") : argv.index("-fa") + len(given)] if "-fa" in argv else ()
    assert list(found) == given


def test_what_a_build_without_a_number_says_of_its_options_counts(fake):
    runtime = replace(fake.runtime, build_number=0, server_switches=("-fa", "--flash-attn"))
    assert "-fa" not in plan_launch(runtime, fake.model, ServerSettings()).argv
    argv = plan_launch(runtime, fake.model, ServerSettings(flash_attention="on", gpu_layers=-1)).argv
    assert argv[argv.index("-fa") + 1].startswith("-")
    assert int(argv[argv.index("-ngl") + 1]) > 1000


def test_remote_hosts_need_a_word_and_a_build_without_known_faults(fake):
    with pytest.raises(BadInput) as caught:
        ServerSettings(host="0.0.0.0")
    assert caught.value.fields["field"] == "host"
    assert "allow_remote" in caught.value.fix
    with pytest.raises(BadInput, match="not an IP address"):
        ServerSettings(host="example.org", allow_remote=True)
    settings = ServerSettings(host="0.0.0.0", allow_remote=True)
    with pytest.raises(SetupError, match="CVE-2026-107183"):
        plan_launch(replace(fake.runtime, build_number=11312), fake.model, settings)
    launch = plan_launch(replace(fake.runtime, build_number=99999), fake.model, settings)
    assert value(launch.argv, "--host") == "0.0.0.0"
    assert any("unencrypted" in note for note in launch.notes)


@pytest.mark.parametrize(
    "option",
    ["tools", "rpc", "api-key", "port", "log-file", "path", "media-path", "hf-repo", "slot-save-path", "agent"],
)
def test_options_that_open_files_ports_or_programs_are_refused(option):
    with pytest.raises(BadInput) as caught:
        ServerSettings(options={option: "x"})
    assert caught.value.fields["field"] == f"options.{option}"


def test_options_offer_the_nearest_name_and_check_files(tmp_path):
    with pytest.raises(BadInput, match="cannot be set here") as caught:
        ServerSettings(options={"cache-reuze": 1})
    assert "cache-reuse" in caught.value.fix
    with pytest.raises(BadInput, match="not there"):
        ServerSettings(options={"lora": str(tmp_path / "no.gguf")})
    (tmp_path / "yes.gguf").touch()
    assert ServerSettings(options={"lora": str(tmp_path / "yes.gguf")}).options["lora"] == str(tmp_path / "yes.gguf")
    with pytest.raises(BadInput, match="control characters"):
        ServerSettings(options={"chat-template": "a\x1bb"})


def test_a_quantised_value_cache_needs_flash_attention():
    with pytest.raises(BadInput, match="flash attention"):
        ServerSettings(cache_type_v="q8_0", flash_attention="off")
    assert ServerSettings(cache_type_k="q8_0", flash_attention="off").cache_type_k == "q8_0"


def test_tuned_values_stand_in_for_what_was_not_given(fake):
    tuned = Tuned("tiny", "fake", "here", 3, 4, 1024, 256, 8, "2026-11-25T00:00:00+00:00")
    launch = plan_launch(fake.runtime, fake.model, ServerSettings(slots=1), tuned=tuned)
    settings = launch.settings
    assert (settings.threads, settings.threads_batch, settings.batch_size, settings.ubatch_size, settings.slots) == (
        3,
        4,
        1024,
        256,
        1,
    )
    assert launch.origins["threads"] == "tuned for this model"
    assert launch.origins["slots"] == "given"


def test_what_was_tuned_without_a_gpu_is_not_for_servers_that_use_it(fake):
    tuned = Tuned("tiny", "fake", "here", 3, 4, 128, 128, 8, "now")
    with_gpu = replace(fake.runtime, backend="cuda")
    launch = plan_launch(with_gpu, fake.model, ServerSettings(gpu_layers=-1), tuned=tuned)
    assert (launch.settings.threads, launch.settings.batch_size) == (2, 2048)
    assert launch.origins["threads"] == "measured at install"
    assert any("measured with gpu_layers 0" in note for note in launch.notes)
    for runtime, settings in ((with_gpu, ServerSettings()), (fake.runtime, ServerSettings(gpu_layers=35))):
        launch = plan_launch(runtime, fake.model, settings, tuned=tuned)
        assert launch.origins["threads"] == "tuned for this model", "it has no layers on a GPU"


def test_tuned_values_belong_to_model_machine_and_build(fake, bare_home):
    found = Tuned("tiny", "fake", "here", 3, 4, 1024, 256, 8, "now")
    write_tuned(bare_home, fake.runtime, fake.model, "here", found)
    assert read_tuned(bare_home, fake.runtime, fake.model, "here") == found
    assert read_tuned(bare_home, fake.runtime, fake.model, "elsewhere") is None
    assert read_tuned(bare_home, replace(fake.runtime, id="other"), fake.model, "here") is None
    assert read_tuned(bare_home, fake.runtime, fake.make_model("second"), "here") is None
    write_tuned(bare_home, fake.runtime, fake.model, "here", replace(found, threads=0))
    assert read_tuned(bare_home, fake.runtime, fake.model, "here") is None
    tuned_path(bare_home, fake.runtime, fake.model, "here").write_text("{")
    assert read_tuned(bare_home, fake.runtime, fake.model, "here") is None


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
        "OMP_WAIT_POLICY": "passive",  # waiting threads soon sleep, unless the user says otherwise
        "GOMP_SPINCOUNT": "500",
    }
    for name, value in (("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")):
        chosen = scrubbed_environment({name: value}, api_key="new", empty_folder=tmp_path)
        assert {each: chosen[each] for each in chosen if each.startswith(("OMP", "GOMP"))} == {name: value}


def test_the_page_on_servers_lists_every_option():
    page = (Path(__file__).parents[2] / "docs/server.md").read_text().partition("### Further options")[2]
    listed = set(re.findall(r"`([\w-]+)`", page.partition("\n## ")[0])) - {"no-", "True", "False"}
    assert listed == OPTIONS
