"""What past loads took corrects the next prediction, whatever the record looks like."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from noa_lab.models.memory import Load, MemoryParts, MemorySettings, past_loads, prompt_cache_bytes, record_load
from noa_lab.models.memory._loads import corrected, correction_for
from noa_lab.models.memory._parts import Prediction
from noa_lab.models.memory._program import TOUCHED_AT_START, WORKING_BYTES
from noa_lab.paths import Home

MB = 10**6
PARTS = MemoryParts(weights=100 * MB, kv_cache=50 * MB, compute=40 * MB, output=MB, program=47 * MB)
USUAL = MemorySettings()
START = PARTS.total - WORKING_BYTES - int((1 - TOUCHED_AT_START) * PARTS.compute)
"""What a load takes that is exactly as predicted."""


def load(peak: int = START, **changes: object) -> Load:
    plain = Load("m", "a" * 64, "llama", "b11312-cpu", USUAL, "none", peak, PARTS)
    return replace(plain, **changes)  # type: ignore[arg-type]


def correct(loads: list[Load], **changes: object) -> tuple[int, str] | None:
    given = {"sha256": "a" * 64, "architecture": "llama", "runtime": "b11312-cpu", "settings": USUAL} | changes
    found = correction_for(loads, **given)  # type: ignore[arg-type]
    return (found.bytes, found.of) if found is not None else None


def test_a_load_as_predicted_changes_nothing() -> None:
    assert load().surprise == 0
    assert correct([load()]) == (0, "model")


def test_the_same_model_counts_most_then_its_architecture_then_the_llama_cpp() -> None:
    mine = load(START + 10 * MB)
    kin = load(START + 20 * MB, sha256="b" * 64)
    other = load(START + 30 * MB, sha256="c" * 64, architecture="gemma3")
    stranger = load(START + 40 * MB, runtime="other")
    everything = [mine, kin, other, stranger]
    assert correct(everything) == (10 * MB, "model")
    assert correct(everything, sha256="d" * 64) == (15 * MB, "architecture")
    assert correct(everything, sha256="d" * 64, architecture="qwen3") == (20 * MB, "llama.cpp")
    assert correct(everything, runtime="a third") is None
    assert correct([]) is None


def test_loads_with_and_without_a_gpu_say_nothing_about_each_other() -> None:
    assert correct([load(settings=replace(USUAL, gpu_layers=10))]) is None
    assert correct([load(settings=replace(USUAL, context_size=512))]) == (0, "model")


def test_a_mapped_file_is_there_twice_where_it_was_rearranged() -> None:
    """Measured with Q4_0: 57 MiB more at the start with mmap than without."""
    assert load(START + 57 * MB, repacked=57 * MB, load_mode="auto").surprise == 0
    assert load(START, repacked=57 * MB, load_mode="none").surprise == 0


def test_a_load_that_was_partly_put_out_of_memory_does_not_count() -> None:
    assert correct([load(START - 60 * MB)]) is None
    assert correct([load(START - 60 * MB), load(START + 2 * MB)]) == (2 * MB, "model")


def test_one_odd_load_among_many_changes_little() -> None:
    loads = [load(START + each * MB, settings=replace(USUAL, slots=each + 1)) for each in range(4)]
    found = correction_for(
        [*loads, load(START + 500 * MB)], sha256="a" * 64, architecture="", runtime="b11312-cpu", settings=USUAL
    )
    assert found is not None
    assert found.bytes == 2 * MB
    assert found.spread == 498 * MB, "and the doubt shows it"


def test_the_program_takes_the_correction() -> None:
    found = correction_for(
        [load(START + 9 * MB)], sha256="a" * 64, architecture="", runtime="b11312-cpu", settings=USUAL
    )
    assert corrected(Prediction(PARTS), found).host == replace(PARTS, program=56 * MB)
    assert corrected(Prediction(PARTS), None).host == PARTS
    far = replace(found, bytes=-(10**9))  # type: ignore[type-var]
    assert corrected(Prediction(PARTS), far).host.program == 0


def test_the_record_keeps_one_load_of_a_kind_and_not_too_many(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert past_loads(home) == []
    record_load(home, load(1))
    record_load(home, load(2))
    assert [each.peak_bytes for each in past_loads(home)] == [2]
    for number in range(20):
        record_load(home, load(3, settings=replace(USUAL, context_size=512 + number)))
    assert len(past_loads(home)) == 21
    assert past_loads(home)[-1] == load(3, settings=replace(USUAL, context_size=531), at=past_loads(home)[-1].at)


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: record_load(home, load(1, model=f"m{number}", sha256="")), range(40)))
    assert len(past_loads(home)) == 40


@pytest.mark.parametrize(
    "content", ["", "{}", '{"loads": [{}]}', '{"loads": 7}', "\x00", '{"loads": [{"settings": {"slots": 0}}]}']
)
def test_a_broken_record_is_none_and_is_written_anew(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path)
    (tmp_path / "loads.json").write_text(content)
    assert past_loads(home) == []
    record_load(home, load())
    assert len(past_loads(home)) == 1


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_load(home, load())
    text = (tmp_path / "loads.json").read_text()
    (tmp_path / "loads.json").write_text(text.replace('"model": "m"', '"model": "m", "mood": "good"'))
    assert past_loads(home)[0].model == "m"


@pytest.mark.parametrize(
    ("total", "mib"),
    [(8 * 2**30, 1024), (16 * 2**30, 2048), (128 * 2**30, 8192), (512 * 2**20, 128), (25_275_000_000, 3008)],
)
def test_earlier_prompts_get_an_eighth_of_the_machine(total: int, mib: int) -> None:
    assert prompt_cache_bytes(total) == mib * 2**20
