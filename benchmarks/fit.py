"""How near "will it fit?" comes to what llama-server really takes.

    python benchmarks/fit.py measure            real servers: quantisations x contexts x slots; writes benchmarks/fit.md
    python benchmarks/fit.py measure --quick    a tenth of them, prints only
    python benchmarks/fit.py shapes             the header's estimate beside llama-fit-params, for the shapes of published models
    python benchmarks/fit.py program            what llama-server takes beside its buffers, by vocabulary and layers

A server is measured while it works: every slot has read a prompt that fills its context, and written some tokens. The weights are
read with `--load-mode none`, so that the peak of resident memory (VmHWM) is what it needs; `--cache-ram 0`, because earlier prompts
are counted apart. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from fit_server import peak_of_server

from noa_lab import models
from noa_lab.models import ModelFile
from noa_lab.models._gguf import read_header_of
from noa_lab.models.memory import Fit, MemorySettings
from noa_lab.models.memory._estimate import estimate
from noa_lab.models.memory._fit_params import ask_fit_params
from noa_lab.models.memory._judge import Subject, judge
from noa_lab.models.memory._loads import Load
from noa_lab.models.memory._measured import MEASURED_FILE
from noa_lab.models.memory._stand_in import stand_in
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, current, free_memory
from noa_lab.runtime import run as run_program
from noa_lab.testing import SHAPES, Shape, write_shape

TABLE = Path(__file__).with_name("fit.md")
QUANTIZATIONS = ("Q8_0", "Q4_1", "Q4_K_M", "Q4_0", "Q2_K")
SETTINGS = tuple(MemorySettings(*each) for each in ((512, 1), (512, 4), (2048, 1), (2048, 2), (4096, 1)))
FURTHER = (MemorySettings(8192, 1), MemorySettings(2048, 2, "q8_0", "q8_0"), MemorySettings(512, 16))
"""With the embedded model only, and last, because long prompts take long."""
QUICK = (MemorySettings(512, 1), MemorySettings(1024, 4))
SMALL_SHAPES = ("llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma-3-270m", "mamba-130m")
"""Shapes whose servers are measured too, without weights: the memory is the same."""


@dataclass(frozen=True)
class Row:
    """One server: what was predicted at each stage, and what it took."""

    model: str
    settings: MemorySettings
    peak: int
    before: Fit
    """From the beginning of the file, as before a download."""
    after: Fit
    """With the file and one past load of the same model with other settings."""

    @staticmethod
    def error(fit: Fit, peak: int) -> float:
        return 100 * (fit.bytes / peak - 1)

    def cells(self) -> list[str]:
        cells = [self.model, f"{self.settings.context_size:,} x {self.settings.slots}", self.settings.cache_type_k]
        for fit in (self.before, self.after):
            inside = "yes" if fit.low_bytes <= self.peak <= fit.high_bytes else "**no**"
            cells += [f"{fit.bytes / 1e6:,.0f}", f"{self.error(fit, self.peak):+.1f} %", inside]
        return [*cells[:3], f"{self.peak / 1e6:,.0f}", *cells[3:]]


def predict_before(runtime: Runtime, path: Path, settings: MemorySettings) -> Fit:
    """As before a download: from the first bytes and the size, on a stand-in; nothing was loaded yet."""
    header = read_header_of(path)
    with path.open("rb") as file:
        head = file.read(header.data_offset)
    with stand_in([(head, path.stat().st_size)]) as stand:
        assert stand is not None
        told = ask_fit_params(runtime, stand, header, settings)
    return judge(Subject(path.stem, header, "", runtime.id), settings, free_memory(), told=told)


def predict_after(runtime: Runtime, path: Path, settings: MemorySettings, loads: list[Load]) -> Fit:
    header = read_header_of(path)
    told = ask_fit_params(runtime, path, header, settings)
    return judge(Subject(path.stem, header, str(path), runtime.id), settings, free_memory(), loads=loads, told=told)


def load_of(runtime: Runtime, path: Path, settings: MemorySettings, peak: int) -> Load:
    header = read_header_of(path)
    told = ask_fit_params(runtime, path, header, settings) or estimate(header, settings)
    name = header.architecture
    return Load(path.stem, str(path), name, runtime.id, settings, "none", peak, told.host, told.repacked)


def measure_model(runtime: Runtime, path: Path, every: tuple[MemorySettings, ...]) -> list[Row]:
    peaks = {}
    for settings in every:
        peaks[settings] = peak_of_server(runtime, path, settings)
        start, work = peaks[settings]
        print(
            f"  {path.stem} {settings.context_size} x {settings.slots}: {start / 1e6:.0f}, then {work / 1e6:.0f} MB",
            flush=True,
        )
    rows = []
    for settings in every:
        # What was learnt from another load of this model, never from the one that is predicted.
        other = next(each for each in every if each != settings)
        past = load_of(runtime, path, other, peaks[other][0])
        before, after = predict_before(runtime, path, settings), predict_after(runtime, path, settings, [past])
        rows.append(Row(path.stem, settings, peaks[settings][1], before, after))
    return rows


def requantize(runtime: Runtime, model: ModelFile, quantization: str, folder: Path) -> Path:
    path = folder / f"SmolLM2-135M.{quantization}.gguf"
    command = [runtime.tool("llama-quantize"), "--allow-requantize", model.path, path, quantization, "2"]
    done = run_program([str(each) for each in command], seconds=600)
    assert done.returncode == 0, done.text
    return path


def measure(*, quick: bool) -> int:
    home = Home.default()
    runtime, model = current(home), models.fetch("smollm2-135m", home)
    every = QUICK if quick else SETTINGS
    rows = []
    with tempfile.TemporaryDirectory(prefix="fit-benchmark-") as name:
        for quantization in ("Q8_0", "Q4_0") if quick else QUANTIZATIONS:
            path = requantize(runtime, model, quantization, Path(name))
            rows += measure_model(runtime, path, every)
            path.unlink()
            publish(runtime, rows, quick=quick)
        for shape in () if quick else SMALL_SHAPES:
            path = write_shape(Path(name, f"{shape}.gguf"), SHAPES[shape], "Q8_0", words=True)
            rows += measure_model(runtime, path, (MemorySettings(512, 1), MemorySettings(1024, 2)))
            path.unlink()
            publish(runtime, rows, quick=quick)
        if not quick:
            rows += measure_model(runtime, model.path, (SETTINGS[0], *FURTHER))
            publish(runtime, rows, quick=quick)
    print(table(runtime, rows))
    return 0 if worst(rows, "before") <= 10 and worst(rows, "after") <= 5 else 1


def publish(runtime: Runtime, rows: list[Row], *, quick: bool) -> None:
    """Write the table, and what was measured, after every model: a run that is interrupted keeps what it has."""
    if quick:
        return
    TABLE.write_text(table(runtime, rows), encoding="utf-8")
    names = sorted({row.before.architecture for row in rows})
    keep = [line for line in MEASURED_FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    MEASURED_FILE.write_text("\n".join([*keep, f"architectures: [{', '.join(names)}]", ""]), encoding="utf-8")


def worst(rows: list[Row], stage: str) -> float:
    return max(abs(row.error(getattr(row, stage), row.peak)) for row in rows)


def table(runtime: Runtime, rows: list[Row]) -> str:
    heads = [
        "model",
        "context x slots",
        "KV",
        "took, MB",
        "before, MB",
        "error",
        "in interval",
        "after, MB",
        "error",
        "in interval",
    ]
    lines = [
        "# Will it fit? Predicted beside measured",
        "",
        "`python benchmarks/fit.py measure` makes this table: peak memory (VmHWM) of the real llama-server with `--load-mode none`, all",
        "slots full, beside what `lab.models.fit` says before the download (from the first bytes of the file) and afterwards (with",
        "`llama-fit-params` and one past load of the same model with other settings). The models named after others have their shape",
        "and a made-up vocabulary, and no weights.",
        "",
        f"llama.cpp {runtime.tag} ({runtime.backend}), {len(rows)} servers. Worst error before: {worst(rows, 'before'):.1f} %; after:",
        f"{worst(rows, 'after'):.1f} %. The stated interval held the truth {inside(rows, 'before')} and {inside(rows, 'after')} times.",
        "",
        f"| {' | '.join(heads)} |",
        "|" + " --- |" * len(heads),
        *(f"| {' | '.join(row.cells())} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def inside(rows: list[Row], stage: str) -> int:
    return sum(fit.low_bytes <= row.peak <= fit.high_bytes for row in rows for fit in [getattr(row, stage)])


def shapes() -> int:
    """The header's estimate beside llama.cpp's own layout, for every shape, with its vocabulary and with a tiny one."""
    runtime = current(Home.default())
    worst_of = 0.0
    print("| shape | settings | header, MiB | llama-fit-params, MiB | difference |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="fit-benchmark-") as name:
        for title, shape in SHAPES.items():
            for vocabulary in (shape.vocabulary, 256):
                path = write_shape(Path(name, "shape.gguf"), replace(shape, vocabulary=vocabulary))
                header = read_header_of(path)
                for settings in (
                    MemorySettings(),
                    MemorySettings(1024, 4, "q8_0", "q8_0"),
                    MemorySettings(8192, 1, flash_attention="off"),
                ):
                    told = ask_fit_params(runtime, path, header, settings)
                    mine = estimate(header, settings).host
                    if told is None:
                        continue
                    off = 100 * (mine.total / told.host.total - 1)
                    worst_of = max(worst_of, abs(off))
                    words = f"{settings.context_size} x {settings.slots} {settings.cache_type_k}, flash {settings.flash_attention}"
                    sizes = f"{mine.total / 2**20:,.0f} | {told.host.total / 2**20:,.0f}"
                    print(f"| {title}, {vocabulary:,} tokens | {words} | {sizes} | {off:+.1f} % |")
    print(f"\nWorst: {worst_of:.1f} %")
    return 0 if worst_of < 5 else 1


def program() -> int:
    """What a server takes beside its buffers: its code, its vocabulary, its layers."""
    runtime = current(Home.default())
    print("| tokens | layers | at the start, MiB | at work, MiB | said, MiB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="fit-benchmark-") as name:
        for tokens, layers in ((1000, 2), (32_000, 2), (128_256, 2), (262_144, 2), (32_000, 80)):
            shape = Shape("llama", layers, 64, 128, 2, 2, 32, tokens, 8192)
            path = write_shape(Path(name, "program.gguf"), shape, "F16", words=True)
            settings = MemorySettings(512, 1)
            found = estimate(read_header_of(path), settings).host
            buffers = found.total - found.program
            start, work = peak_of_server(runtime, path, settings)
            taken = " | ".join(f"{(each - buffers) / 2**20:.1f}" for each in (start, work))
            print(f"| {tokens:,} | {layers} | {taken} | {found.program / 2**20:.1f} |", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "shapes", "program"))
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    if chosen.what == "measure":
        return measure(quick=chosen.quick)
    return shapes() if chosen.what == "shapes" else program()


if __name__ == "__main__":
    sys.exit(main())
