"""How much memory a model takes, from its header: by hand, and beside llama.cpp's own layout of published shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.errors import BadInput
from noa_lab.models import ModelFile
from noa_lab.models._gguf import read_header_of
from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models._gguf_types import bytes_of
from noa_lab.models.memory import CACHE_TYPES, MemoryParts, MemorySettings
from noa_lab.models.memory._compute import compute_bytes
from noa_lab.models.memory._estimate import estimate
from noa_lab.models.memory._fit_params import ask_fit_params, parse_rows, prediction_of
from noa_lab.models.memory._kv_cache import cache_of_layers
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._slots import checkpoint_bytes, slots_bytes
from noa_lab.runtime import Runtime
from noa_lab.server import ServerSettings
from noa_lab.testing import SHAPES, write_shape

MIB = 2**20


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GgufHeader]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: read_header_of(write_shape(folder / f"{name}.gguf", shape)) for name, shape in SHAPES.items()}


def test_the_usual_settings_are_those_of_a_server() -> None:
    mine, servers = MemorySettings(), ServerSettings()
    for name in MemorySettings.__dataclass_fields__:
        assert getattr(mine, name) == getattr(servers, name), name


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"context_size": 0}, "context_size"),
        ({"context_size": True}, "context_size"),
        ({"slots": 257}, "slots"),
        ({"slots": 1.5}, "slots"),
        ({"cache_type_k": "q9"}, None),
        ({"gpu_layers": -2}, "gpu_layers"),
        ({"flash_attention": "yes"}, "flash_attention"),
    ],
)
def test_settings_that_are_not_allowed(given: dict[str, object], field: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        MemorySettings(**given)  # type: ignore[arg-type]
    assert field is None or caught.value.fields["field"] == field
    assert caught.value.fix


@pytest.mark.parametrize(
    ("shape", "context", "slots", "kind", "mib"),
    [
        # As llama.cpp b11312 says: "KV buffer size" and "RS buffer size" of its log.
        ("smollm2-135m", 512, 1, "f16", 11.25),
        ("smollm2-135m", 1024, 2, "f16", 45.0),
        ("smollm2-135m", 1000, 2, "f16", 45.0),
        ("smollm2-135m", 4096, 2, "f32", 360.0),
        ("llama-3.1-8b", 4096, 2, "f16", 1024.0),
        ("llama-3.1-8b", 4096, 2, "q8_0", 544.0),
        ("codellama-7b", 4096, 2, "f16", 4096.0),
        ("gemma-3-270m", 4096, 2, "f16", 54.0),
        ("gemma-3-4b", 4096, 2, "f16", 508.0),
        ("phi-3.5-mini", 4096, 2, "f16", 3072.0),
        ("deepseek-v2-lite", 4096, 2, "f16", 243.0),
        ("mamba-130m", 4096, 2, "f16", 5.34),
        ("mamba-130m", 8192, 1, "f16", 2.67),
    ],
)
def test_caches(headers: dict[str, GgufHeader], shape: str, context: int, slots: int, kind: str, mib: float) -> None:
    found = sum(cache_of_layers(Layout.of(headers[shape]), MemorySettings(context, slots, kind, kind)))
    assert found / MIB == pytest.approx(mib, abs=0.01)


def test_sliding_windows_and_recurrent_layers_are_seen(headers: dict[str, GgufHeader]) -> None:
    gemma = Layout.of(headers["gemma-3-270m"]).layers
    assert [layer for layer, rule in enumerate(gemma) if not rule.windowed] == [5, 11, 17]
    assert all(rule.value == 0 and rule.key == 576 for rule in Layout.of(headers["deepseek-v2-lite"]).layers)
    assert all(rule.key == 0 and rule.state == 19 * 1536 for rule in Layout.of(headers["mamba-130m"]).layers)
    assert not any(rule.windowed for rule in Layout.of(headers["phi-3.5-mini"]).layers)


def test_a_header_may_say_which_layers_have_a_window(headers: dict[str, GgufHeader]) -> None:
    plain = headers["gemma-3-270m"]
    values = {**plain.values, "gemma3.attention.sliding_window_pattern": [True, False] * 9}
    assert [rule.windowed for rule in Layout.of(replace(plain, values=values)).layers] == [True, False] * 9
    values = {**plain.values, "gemma3.attention.sliding_window_pattern": 3}
    assert sum(rule.windowed for rule in Layout.of(replace(plain, values=values)).layers) == 12


def test_layers_without_key_value_heads_keep_a_state(headers: dict[str, GgufHeader]) -> None:
    """A hybrid: in each group of four layers one attends, the others are recurrent."""
    plain = headers["smollm2-135m"]
    values = {
        **plain.values,
        "llama.attention.head_count_kv": [3 if layer % 4 == 3 else 0 for layer in range(30)],
        "llama.ssm.inner_size": 1152,
        "llama.ssm.state_size": 16,
        "llama.ssm.conv_kernel": 4,
    }
    rules = Layout.of(replace(plain, values=values)).layers
    assert [bool(rule.key) for rule in rules] == [layer % 4 == 3 for layer in range(30)]
    assert [bool(rule.state) for rule in rules] == [layer % 4 != 3 for layer in range(30)]


@pytest.mark.parametrize(
    ("shape", "context", "slots", "flash", "mib"),
    [
        ("smollm2-135m", 512, 1, "auto", 14.01),
        ("smollm2-135m", 1024, 2, "auto", 14.51),
        ("llama-3.2-1b", 4096, 2, "auto", 68.01),
        ("llama-3.1-8b", 4096, 2, "auto", 120.01),
        ("qwen3-30b-a3b", 4096, 2, "auto", 92.01),
        ("codellama-7b", 4096, 2, "off", 320.01),
        ("smollm2-135m", 4096, 2, "off", 86.38),
    ],
)
def test_compute_buffers(
    headers: dict[str, GgufHeader], shape: str, context: int, slots: int, flash: str, mib: float
) -> None:
    """llama.cpp's own "compute buffer size", of a server or with a vocabulary that does not matter."""
    found = compute_bytes(Layout.of(headers[shape]), MemorySettings(context, slots, flash_attention=flash))
    assert found / MIB == pytest.approx(mib, rel=0.07)


def test_parts_of_the_whole(headers: dict[str, GgufHeader]) -> None:
    header = headers["smollm2-135m"]
    found = estimate(header, MemorySettings()).host
    assert found.weights == sum(tensor.size_bytes for tensor in header.tensors)
    assert found.output == 2 * 49152 * 4
    assert found.total == sum(found.as_dict().values())
    assert MemoryParts(1, 2, 3, 4, 5).total == 15


def test_what_slots_take_once_they_have_worked(headers: dict[str, GgufHeader]) -> None:
    gemma, mamba, llama = (Layout.of(headers[name]) for name in ("gemma-3-270m", "mamba-130m", "llama-3.2-1b"))
    one, two = MemorySettings(512, 1), MemorySettings(1024, 2)
    window = 15 * 2 * 256 * 2 * 512  # layers, keys and values, numbers of one head, bytes of f16, tokens
    assert checkpoint_bytes(gemma, one) == checkpoint_bytes(gemma, two) == window
    assert checkpoint_bytes(mamba, two) == 24 * 4 * (1536 * 16 + 3 * 1536)
    assert checkpoint_bytes(llama, two) == 0
    assert slots_bytes(gemma, one) == window
    assert slots_bytes(gemma, two) == 16 * gemma.vocabulary + 2 * 2 * window
    assert slots_bytes(llama, MemorySettings(512, 16)) == 15 * 16 * llama.vocabulary


def test_layers_on_the_gpu(headers: dict[str, GgufHeader]) -> None:
    header = headers["llama-3.2-3b"]
    none = estimate(header, MemorySettings())
    half = estimate(header, MemorySettings(gpu_layers=14))
    full = estimate(header, MemorySettings(gpu_layers=-1))
    assert none.devices == ()
    assert half.devices[0].parts.kv_cache == half.host.kv_cache == none.host.kv_cache // 2
    assert half.host.weights + half.devices[0].parts.weights == none.host.weights
    assert full.host.kv_cache == 0
    # The embedding is looked up here and multiplied with there: with tied weights it is in both places.
    embedding = bytes_of("Q8_0", 3072 * 128256)
    assert full.host.weights == embedding
    assert full.devices[0].parts.weights == none.host.weights
    assert full.host.total < half.host.total < none.host.total


@given(
    context=st.integers(16, 200_000),
    slots=st.integers(1, 16),
    kind=st.sampled_from(CACHE_TYPES),
    shape=st.sampled_from(sorted(SHAPES)),
)
@settings(max_examples=150)
def test_more_of_anything_never_takes_less(
    headers: dict[str, GgufHeader], context: int, slots: int, kind: str, shape: str
) -> None:
    header = headers[shape]
    here = estimate(header, MemorySettings(context, slots, kind, kind)).host.total
    assert estimate(header, MemorySettings(context + 256, slots, kind, kind)).host.total >= here
    assert estimate(header, MemorySettings(context, slots + 1, kind, kind)).host.total >= here


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_header_says_what_llama_cpp_says(runtime: Runtime, tmp_path: Path, name: str) -> None:
    """llama.cpp lays out every shape; its vocabulary is tiny, so that its compute buffer is a server's."""
    path = write_shape(tmp_path / "shape.gguf", replace(SHAPES[name], vocabulary=256))
    header = read_header_of(path)
    for chosen in (MemorySettings(), MemorySettings(1024, 3, "q8_0", "q8_0")):
        told = ask_fit_params(runtime, path, header, chosen)
        assert told is not None
        mine = estimate(header, chosen).host
        assert mine.kv_cache == pytest.approx(told.host.kv_cache, rel=0.01, abs=MIB)
        assert mine.compute == pytest.approx(told.host.compute, rel=0.15, abs=2 * MIB)
        assert mine.total == pytest.approx(told.host.total, rel=0.03)


@pytest.mark.real
def test_scores_that_a_server_does_not_ask_for_are_left_out(runtime: Runtime, model: ModelFile) -> None:
    header = read_header_of(model.path)
    told = ask_fit_params(runtime, model.path, header, MemorySettings(1024, 2))
    assert told is not None
    assert told.host.compute / MIB == pytest.approx(14.51, abs=1.0)
    assert told.host.weights == pytest.approx(92.1 * MIB, rel=0.001)


@pytest.mark.real
def test_what_llama_cpp_does_not_know_has_no_answer(runtime: Runtime, tmp_path: Path) -> None:
    path = write_shape(tmp_path / "shape.gguf", replace(SHAPES["smollm2-135m"], architecture="nobodys-model"))
    assert ask_fit_params(runtime, path, read_header_of(path), MemorySettings()) is None
    assert ask_fit_params(replace(runtime, tools=()), path, read_header_of(path), MemorySettings()) is None


REPORT = (
    '{"type":"fit_memory_breakdown","data":{"unit":"MiB","rows":['
    '{"kind":"device","name":"CUDA0","description":"RTX 4090","total":24077,"free":20000,"self":4000,"model":3000,"context":800,"compute":200},'
    '{"kind":"host","name":"Host","self":500,"model":400,"context":0,"compute":100},'
    '{"kind":"buffer_type","name":"CPU_REPACK","self":56,"model":56,"context":0,"compute":0}]}}'
)


def test_its_report_is_read_with_devices_and_rearranged_weights(headers: dict[str, GgufHeader]) -> None:
    rows = list(parse_rows(["noise", REPORT, "CUDA0 1 2 3 ", "Host 4 5 6 "]))
    assert [row["kind"] for row in rows] == ["device", "host", "buffer_type"]
    found = prediction_of(rows, headers["llama-3.1-8b"], MemorySettings(gpu_layers=20))
    assert found.devices[0].name == "CUDA0"
    assert found.devices[0].free_bytes == 20000 * MIB
    assert found.devices[0].parts.kv_cache == pytest.approx(800 * MIB, abs=MIB)
    assert found.host.weights == pytest.approx(456 * MIB, abs=2 * MIB)
    assert found.repacked == pytest.approx(56 * MIB, abs=MIB)


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (["CUDA0 3000 800 200 ", "Host 400 0 100 "], ["device", "host"]),
        (["Host 92 180 98 "], ["host"]),
        (['{"type":"fit_memory_breakdown","data":{"rows":[{"kind":"host"}]}}', "Host 1 2 3"], ["host"]),
        (['{"type":"fit_memory_breakdown"', "Host 1 2 x"], []),
        ([], []),
    ],
)
def test_older_and_broken_reports(lines: list[str], kinds: list[str]) -> None:
    assert [row["kind"] for row in parse_rows(lines)] == kinds
