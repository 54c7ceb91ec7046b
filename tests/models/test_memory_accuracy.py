"""What was predicted beside the memory that a real llama-server takes: at most 10 % off before the download, 5 % after a first load."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from noa_lab.models import ModelFile
from noa_lab.models.memory import MemorySettings
from noa_lab.runtime import Runtime
from noa_lab.testing import SHAPES, write_shape

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The module that makes the table in benchmarks/fit.md."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("fit_benchmark", BENCHMARKS / "fit.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def check(rows: list[object], benchmark: ModuleType) -> None:
    for row in rows:
        words = f"{row.model} {row.settings}: took {row.peak}, said {row.before.bytes} and {row.after.bytes}"  # type: ignore[attr-defined]
        assert abs(row.error(row.before, row.peak)) <= 10, words  # type: ignore[attr-defined]
        assert abs(row.error(row.after, row.peak)) <= 5, words  # type: ignore[attr-defined]
        for fit in (row.before, row.after):  # type: ignore[attr-defined]
            assert fit.low_bytes <= row.peak <= fit.high_bytes, words  # type: ignore[attr-defined]


def test_the_embedded_model(benchmark: ModuleType, runtime: Runtime, model: ModelFile) -> None:
    check(benchmark.measure_model(runtime, model.path, (MemorySettings(256, 1), MemorySettings(256, 4))), benchmark)


@pytest.mark.full
@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_0", "Q2_K"])
def test_quantisations(
    benchmark: ModuleType, runtime: Runtime, model: ModelFile, tmp_path: Path, quantization: str
) -> None:
    path = benchmark.requantize(runtime, model, quantization, tmp_path)
    check(benchmark.measure_model(runtime, path, (MemorySettings(512, 1), MemorySettings(1024, 2))), benchmark)


@pytest.mark.full
@pytest.mark.parametrize("shape", ["qwen2.5-0.5b", "gemma-3-270m", "mamba-130m"])
def test_other_architectures(benchmark: ModuleType, runtime: Runtime, tmp_path: Path, shape: str) -> None:
    path = write_shape(tmp_path / f"{shape}.gguf", SHAPES[shape], "Q8_0", words=True)
    check(benchmark.measure_model(runtime, path, (MemorySettings(512, 1), MemorySettings(512, 2))), benchmark)
