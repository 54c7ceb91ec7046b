"""From a reference to an answer, by the best way there is: the file here, its beginning elsewhere, or the catalogue's words."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from noa_lab.errors import BadInput, DownloadFailed, NoaLabError, RuntimeMissing
from noa_lab.events import CancelToken, Report, silent
from noa_lab.models._catalogue import CatalogueEntry, catalogue
from noa_lab.models._fetch import find
from noa_lab.models._file import ModelFile
from noa_lab.models._gguf import read_header_of
from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models._reference import LocalPath, Named, parse_reference
from noa_lab.models.memory._estimate import estimate
from noa_lab.models.memory._fit import Fit
from noa_lab.models.memory._fit_params import ask_fit_params
from noa_lab.models.memory._heads import Head, header_of_heads, recall_heads, remember_heads
from noa_lab.models.memory._judge import Subject, judge
from noa_lab.models.memory._loads import Load, past_loads, record_load
from noa_lab.models.memory._parts import MemoryParts, Prediction
from noa_lab.models.memory._remote import read_heads
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.models.memory._stand_in import stand_in
from noa_lab.paths import Home
from noa_lab.runtime import FreeMemory, Runtime, current, free_memory

__all__ = ["find_fit", "fit_of_file", "header_elsewhere", "remember_load"]

_WORDS = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|MB)", re.IGNORECASE)
_WORDS_DOUBT = 0.4
_ENOUGH_LOADS = 6
"""Loads of one model on one llama.cpp that are measured; each takes a look of a few tenths of a second."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How much trouble to take, and whom to tell."""

    quick: bool
    report: Report
    cancel: CancelToken | None


def find_fit(
    ref: str | Path,
    home: Home,
    settings: MemorySettings,
    *,
    quick: bool = False,
    free: FreeMemory | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> Fit:
    """Whether a model fits, before or after it was downloaded.

    Args:
        ref: The reference.
        home: The home.
        settings: How it would be run.
        quick: Start no program and ask no network: milliseconds, a little less exact.
        free: What is free; default: what is free now.
        report: Told about the bytes of a header that is read elsewhere.
        cancel: Stops it.

    Raises:
        UnknownModel: When the reference names nothing.
        DownloadFailed: When nothing is known here and the place of the file cannot be reached.
        ModelFileBroken: When the file is no readable GGUF.
        Cancelled: When `cancel` was.
    """
    way = _Way(quick, report, cancel)
    model = find(ref, home)
    if model is not None:
        return fit_of_file(model, home, settings, quick=quick, free=free, cancel=cancel)
    reference = LocalPath(ref) if isinstance(ref, Path) else parse_reference(ref)
    if isinstance(reference, LocalPath):
        read_header_of(reference.path)  # says what is wrong with it
    if isinstance(reference, Named):
        entry = catalogue().get(reference.name)
        return _fit_of_entry(entry, home, settings, way, free)
    heads = _heads(str(ref), home, way)
    return _fit_of_heads(str(ref), heads, home, settings, way, free)


def fit_of_file(
    model: ModelFile,
    home: Home,
    settings: MemorySettings,
    *,
    quick: bool = False,
    free: FreeMemory | None = None,
    cancel: CancelToken | None = None,
) -> Fit:
    """Whether a model that is here fits; see `find_fit`."""
    header = _header_of_files(model.files)
    runtime = _runtime(home)
    settings, notes = _possible(settings, header, runtime)
    told = None
    if not quick and runtime is not None:
        told = ask_fit_params(runtime, model.path, header, settings, cancel=cancel)
    subject = Subject(model.name, header, model.sha256, runtime.id if runtime is not None else "")
    return judge(subject, settings, free or free_memory(), loads=past_loads(home), told=told, notes=notes)


def remember_load(
    home: Home,
    model: ModelFile,
    runtime: Runtime,
    settings: MemorySettings,
    *,
    load_mode: str,
    peak_bytes: int,
    cancel: CancelToken | None = None,
) -> None:
    """Remember what a load really took, unless one with these settings or enough others of this model are remembered already.

    Args:
        home: The home.
        model: What was loaded.
        runtime: By which llama.cpp.
        settings: How.
        load_mode: How the file got into memory, as `ServerSettings` names it.
        peak_bytes: Most memory that the process had, right after it was ready; 0 where the system does not tell.
        cancel: Gives up.

    Raises:
        OSError: When the home cannot be written to.
        ModelFileBroken: When the file cannot be read any more.
        Cancelled: When `cancel` was.
    """
    known = (model.sha256 or model.name, runtime.id, settings, load_mode)
    alike = [load.identity for load in past_loads(home) if load.identity[:2] == known[:2]]
    if not peak_bytes or known in alike or len(alike) >= _ENOUGH_LOADS:
        return
    header = _header_of_files(model.files)
    told = ask_fit_params(runtime, model.path, header, settings, cancel=cancel) or estimate(header, settings)
    load = Load(
        model=model.name,
        sha256=model.sha256,
        architecture=header.architecture,
        runtime=runtime.id,
        settings=settings,
        load_mode=load_mode,
        peak_bytes=peak_bytes,
        host=told.host,
        repacked=told.repacked,
    )
    record_load(home, load)


def _header_of_files(files: Sequence[Path]) -> GgufHeader:
    first, *others = (_header_of_file(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return first.joined(others)


@functools.lru_cache(maxsize=64)
def _header_of_file(path: Path, size: int, changed: int) -> GgufHeader:
    """The header of a file as it is now; a large vocabulary takes a tenth of a second to go over."""
    del size, changed
    return read_header_of(path)


def _fit_of_entry(
    entry: CatalogueEntry, home: Home, settings: MemorySettings, way: _Way, free: FreeMemory | None
) -> Fit:
    failure: NoaLabError | None = None
    for source in entry.sources:
        try:
            heads = _heads(source, home, way)
            return _fit_of_heads(entry.name, heads, home, settings, way, free)
        except (DownloadFailed, BadInput) as error:
            failure = error
    words = _fit_from_words(entry, settings, free or free_memory())
    if words is None:
        raise failure or BadInput(
            f"Nothing is known about the memory of {entry.name}.",
            fix=f"Get it first: `noa-lab models get {entry.name}`.",
            field="model",
            value=entry.name,
        )
    reason = "" if failure is None or way.quick else failure.message
    return replace(words, notes=(*words.notes, *([reason] if reason else [])))


def header_elsewhere(
    ref: str, home: Home, *, quick: bool = False, report: Report = silent, cancel: CancelToken | None = None
) -> GgufHeader | None:
    """The header of a model that is on the hub or a web server, read there or remembered.

    Args:
        ref: The reference.
        home: Where headers are remembered.
        quick: Ask no network; None is returned for what is not remembered.
        report: Told about the bytes.
        cancel: Stops it.

    Raises:
        UnknownModel: When there is no such file.
        DownloadFailed: When it cannot be reached.
        ModelFileBroken: When it is no readable GGUF.
        Cancelled: When `cancel` was.
    """
    if quick:
        kept = recall_heads(home, ref)
        return header_of_heads(kept) if kept else None
    return header_of_heads(_heads(ref, home, _Way(quick, report, cancel)))


def _heads(ref: str, home: Home, way: _Way) -> list[Head]:
    kept = recall_heads(home, ref)
    if kept:
        return kept
    if way.quick:
        raise DownloadFailed(
            f"The header of {ref} was not read yet.",
            fix="Leave out quick=True (`--quick`), so that it can be read.",
            source=ref,
            reason="quick",
        )
    heads = read_heads(parse_reference(ref), report=way.report, cancel=way.cancel)
    remember_heads(home, ref, heads)
    return heads


def _fit_of_heads(
    name: str, heads: Sequence[Head], home: Home, settings: MemorySettings, way: _Way, free: FreeMemory | None
) -> Fit:
    header = header_of_heads(heads)
    runtime = _runtime(home)
    settings, notes = _possible(settings, header, runtime)
    told = None
    if not way.quick and runtime is not None:
        with stand_in([(head.content, head.size) for head in heads]) as path:
            told = ask_fit_params(runtime, path, header, settings, cancel=way.cancel) if path is not None else None
    subject = Subject(name, header, "", runtime.id if runtime is not None else "")
    return judge(subject, settings, free or free_memory(), loads=past_loads(home), told=told, notes=notes)


def _possible(
    settings: MemorySettings, header: GgufHeader, runtime: Runtime | None
) -> tuple[MemorySettings, list[str]]:
    """The settings as a server would take them, and what differs from what was asked for."""
    notes = []
    trained = header.of("context_length")
    if trained and settings.context_size > trained:
        notes.append(f"It was trained for {trained:,} tokens: more than that is never used.")
        settings = replace(settings, context_size=max(16, trained))
    if settings.gpu_layers and runtime is not None and runtime.backend == "cpu":
        notes.append("The llama.cpp in use is built for the CPU alone: gpu_layers has no effect.")
        settings = replace(settings, gpu_layers=0)
    return settings, notes


def _runtime(home: Home) -> Runtime | None:
    try:
        return current(home)
    except RuntimeMissing:
        return None


def _fit_from_words(entry: CatalogueEntry, settings: MemorySettings, free: FreeMemory) -> Fit | None:
    """What the catalogue's `ram`, else its `size`, comes to; for people who have no network yet."""
    ram, size = _bytes_in(entry.ram), entry.size_bytes or _bytes_in(entry.size)
    needed = ram or (int(1.3 * size) if size else 0)
    if not needed:
        return None
    weights = min(size or needed, needed)
    found = Prediction(MemoryParts(weights=weights, program=needed - weights))
    return Fit(
        model=entry.name,
        architecture="",
        settings=settings,
        host=found.host,
        devices=(),
        low_bytes=int(needed * (1 - _WORDS_DOUBT)),
        high_bytes=int(needed * (1 + _WORDS_DOUBT)),
        free_bytes=free.free_bytes,
        total_bytes=free.total_bytes,
        limited_by=free.limited_by,
        largest_context=None,
        trained_context=entry.context_length or 0,
        how="catalogue",
        notes=("Only the catalogue's rough number is known, whatever the context is.",),
    )


def _bytes_in(words: str) -> int:
    match = _WORDS.search(words)
    return int(float(match[1]) * {"GB": 1e9, "MB": 1e6}[match[2].upper()]) if match is not None else 0
