"""Reading GGUF headers: the same as the `gguf` package on good files, a named error on everything else."""

from __future__ import annotations

import contextlib
import io
import random
import re
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noa_lab.errors import ModelFileBroken
from noa_lab.models import ModelFile, ModelMetadata, read_gguf
from noa_lab.models._gguf import read_header
from noa_lab.models._gguf_types import TENSOR_TYPES
from noa_lab.models._gguf_window import OpenFile
from noa_lab.models.memory import MemorySettings
from noa_lab.models.memory._estimate import estimate


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key_value(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


NAMED = key_value("general.architecture", 8, text("llama"))


def header(
    keys: list[bytes],
    tensors: list[bytes],
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 4096,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, tensor_count, key_count)
        + b"".join(keys)
        + b"".join(tensors)
        + bytes(data)
    )


def read(tmp_path: Path, content: bytes) -> ModelMetadata:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_gguf(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A complete small model file, written by the `gguf` package."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A \x1b[31mred\x1b[0m name")
    writer.add_context_length(2048)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count([4, 8])
    writer.add_head_count_kv(2)
    writer.add_token_list([f"token {n}" for n in range(300)])
    writer.add_chat_template("{{ messages }}")
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_tensor("token_embd.weight", np.ones((300, 4), dtype=np.float16))
    writer.add_tensor("norm.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_the_tensor_types_are_those_of_the_gguf_package() -> None:
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {number: TENSOR_TYPES[number] for number in theirs} == theirs


@pytest.mark.real
def test_the_real_model_reads_as_the_gguf_package_reads_it(model: ModelFile) -> None:
    reader = gguf.GGUFReader(model.path)

    def field(name: str) -> object:
        found = reader.get_field(name)
        assert found is not None
        return found.contents()

    mine = read_gguf(model.path)
    assert mine == model.metadata
    assert mine.architecture == field("general.architecture") == "llama"
    assert mine.name == field("general.name")
    assert mine.context_length == field("llama.context_length") == 8192
    assert mine.layers == field("llama.block_count")
    assert mine.embedding_length == field("llama.embedding_length")
    assert mine.heads == field("llama.attention.head_count")
    assert mine.kv_heads == field("llama.attention.head_count_kv")
    assert mine.chat_template == field("tokenizer.chat_template")
    assert mine.vocabulary == len(field("tokenizer.ggml.tokens"))  # type: ignore[arg-type]
    assert mine.tensors == len(reader.tensors)
    assert mine.parameters == sum(int(each.n_elements) for each in reader.tensors)
    assert mine.quantization == "Q4_1"


@pytest.mark.real
def test_the_real_header_takes_milliseconds(model: ModelFile) -> None:
    started = time.thread_time()
    read_gguf(model.path)
    assert time.thread_time() - started < 0.5


def test_a_small_file(tmp_path: Path, small: bytes) -> None:
    assert read(tmp_path, small) == ModelMetadata(
        architecture="llama",
        name="A [31mred[0m name",
        parameters=300 * 4 + 64,
        context_length=2048,
        layers=2,
        embedding_length=64,
        heads=8,
        kv_heads=2,
        vocabulary=300,
        quantization="F16",
        chat_template="{{ messages }}",
        tensors=2,
    )


def test_the_least_that_is_a_model(tmp_path: Path) -> None:
    found = read(tmp_path, header([NAMED], [tensor("a", (4, 2))]))
    assert (found.parameters, found.kv_heads, found.chat_template, found.quantization) == (8, 0, None, "F32")
    assert read(tmp_path, header([NAMED], [], version=2)).tensors == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin"),
        (b"<!DOCTYPE html><html>a page instead of a model", "does not begin"),
        (header([NAMED], [], version=1), "version is 1"),
        (header([NAMED], [], version=3 << 24), "big-endian"),
        (header([], []), "no architecture"),
        (header([NAMED], [], counts=(2**63, 1)), "claims"),
        (header([NAMED], [], counts=(0, 2**40)), "claims"),
        (header([NAMED, NAMED], []), "twice"),
        (header([NAMED], [tensor("a", (4,)), tensor("a", (4,))]), "twice"),
        (header([key_value("k", 8, struct.pack("<Q", 2**62))], []), "bytes long"),
        (header([struct.pack("<Q", 2**40)], []), "name of a key"),
        (header([key_value("k", 99, b"")], []), "unknown type 99"),
        (header([key_value("k", 9, struct.pack("<IQ", 9, 1))], []), "elements of type 9"),
        (header([key_value("k", 9, struct.pack("<IQ", 8, 2**50))], []), "claims"),
        (header([key_value("k", 9, struct.pack("<IQ", 10, 2**60))], []), "ends at byte"),
        (header([key_value("general.alignment", 4, struct.pack("<I", 33)), NAMED], []), "alignment is 33"),
        (header([NAMED], [tensor("a" * 64, (4,))]), "name of a tensor"),
        (header([NAMED], [tensor("a", ())]), "0 dimensions"),
        (header([NAMED], [tensor("a", (1, 1, 1, 1, 1))]), "5 dimensions"),
        (header([NAMED], [tensor("a", (0, 4))]), "impossible shape"),
        (header([NAMED], [tensor("a", (2**32, 2**31))]), "impossible shape"),
        (header([NAMED], [tensor("a", (33,), kind=3)]), "impossible shape"),
        (header([NAMED], [tensor("a", (4,), kind=4)]), "unknown type 4"),
        (header([NAMED], [tensor("a", (4,), offset=7)]), "not aligned"),
        (header([NAMED], [tensor("a", (4,), offset=2**63)]), "beyond any file"),
        (header([NAMED], [tensor("a", (4,), offset=8192)]), "missing at the end"),
        (header([NAMED], [tensor("a", (4096,))], data=4096), "missing at the end"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFileBroken) as caught:
        read(tmp_path, content)
    assert words in caught.value.message
    assert caught.value.fix
    assert caught.value.exit_code == 2


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileBroken):
            read_gguf(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, small: bytes) -> None:
    path = tmp_path / "cut.gguf"
    for length in range(len(small) - 1, -1, -97):
        path.write_bytes(small[:length])
        with pytest.raises(ModelFileBroken):
            read_gguf(path)


def mutate(content: bytes, chance: random.Random, header_bytes: int) -> bytes:
    """A few bytes of the header changed, numbers made extreme, parts doubled or removed."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(header_bytes)
        match chance.randrange(5):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                extreme = chance.choice([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(content), 2**20])
                changed[at : at + 8] = struct.pack("<Q", extreme)
            case 2:
                del changed[at : at + chance.randint(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + chance.randint(1, 64)]
            case _:
                changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def check_mutations(content: bytes, count: int, seed: int) -> tuple[int, float]:
    chance = random.Random(seed)
    header_bytes = len(content) - 300 * 4 * 2 - 64 * 4
    refused, slowest = 0, 0.0
    for _ in range(count):
        mutated = mutate(content, chance, header_bytes)
        started = time.thread_time()
        try:
            found = read_header(OpenFile(io.BytesIO(mutated), len(mutated), "mutated.gguf"))
            assert found.metadata().name.isprintable()
            assert found.architecture or found.number("split.no")
            # Whatever a header claims, what memory it would take can be said.
            assert estimate(found, MemorySettings()).host.total > 0
        except ModelFileBroken:
            refused += 1
        slowest = max(slowest, time.thread_time() - started)
    return refused, slowest


def test_mutated_headers_give_named_errors_only(small: bytes) -> None:
    refused, slowest = check_mutations(small, 3000, seed=1)
    assert 300 < refused < 3000
    assert slowest < 1.0


def peak_memory() -> int:
    """Most bytes of memory that this process has had since it was last reset."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resets the peak by /proc/self/clear_refs")
def test_a_hundred_thousand_mutated_headers(small: bytes) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # what earlier tests took must not hide what these take
    before = peak_memory()
    refused, slowest = check_mutations(small, 100_000, seed=2)
    assert peak_memory() - before < 64 * 2**20
    assert refused > 10_000
    assert slowest < 1.0


@pytest.mark.parametrize("what", ["tensors", "keys", "texts", "numbers", "long texts"])
def test_the_most_that_is_accepted_takes_little(what: str) -> None:
    """Every limit reached: at most 64 MiB and 1 s of computing, the file itself not counted."""
    keys, tensors = [NAMED], []
    match what:
        case "tensors":
            tensors = [tensor(f"{number:063}", (1,), offset=32 * number) for number in range(32_768)]
        case "keys":
            keys += [key_value(f"{number:01024}", 4, bytes(4)) for number in range(8191)]
        case "texts":
            keys.append(key_value("t", 9, struct.pack("<IQ", 8, 2_000_000) + bytes(8 * 2_000_000)))
        case "numbers":
            keys += [key_value(f"{number}", 9, struct.pack("<IQ", 10, 1024) + bytes(8192)) for number in range(8191)]
        case _:
            for key in ("general.name", "tokenizer.chat_template"):
                keys.append(key_value(key, 8, text(b"x" * (8 * 2**20))))
    content = header(keys, tensors, data=32 * 32_768)
    source = OpenFile(io.BytesIO(content), len(content), "most.gguf")
    started = time.thread_time()
    read_header(source).metadata()
    assert time.thread_time() - started < 1.0
    if what == "texts":
        return  # none of them is kept, and tracing the loop over them takes a minute
    tracemalloc.start()
    try:
        read_header(source)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_after_the_magic(tmp_path: Path, tail: bytes) -> None:
    with contextlib.suppress(ModelFileBroken):
        assert read(tmp_path, b"GGUF" + struct.pack("<I", 3) + tail).architecture


def test_a_list_of_millions_of_texts_is_refused_before_it_is_read(tmp_path: Path) -> None:
    many = key_value("tokens", 9, struct.pack("<IQ", 8, 3_000_000)) + bytes(8 * 3_000_000)
    started = time.thread_time()
    with pytest.raises(ModelFileBroken, match="claims 3,000,000 texts"):
        read(tmp_path, header([NAMED, many], []))
    assert time.thread_time() - started < 1.0
