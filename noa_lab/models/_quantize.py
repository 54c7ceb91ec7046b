"""Making a smaller model of one that is here, with llama.cpp's `llama-quantize`."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from noa_lab.download import check_disk
from noa_lab.errors import BadInput, DiskFull, NoaLabError, SetupError, UnknownName
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.models._catalogue import catalogue
from noa_lab.models._fetch import installed
from noa_lab.models._file import ModelFile
from noa_lab.models._gguf import read_gguf
from noa_lab.models._place import placing
from noa_lab.models._record import hash_file, record_path, recorded, write_record
from noa_lab.models._reference import is_name
from noa_lab.models.stores import name_for
from noa_lab.paths import Home
from noa_lab.runtime import Finished, Runtime, exclusive, run_tool

__all__ = ["quantization_types", "quantize"]

STEP = "Quantise the model"
_TYPE_LINE = re.compile(r"^\s*(?:\d+\s+or\s+)?(?P<name>[A-Z][A-Z0-9_]+)\s*:")
_TENSOR = re.compile(r"^\[\s*(?P<done>\d+)/\s*(?P<total>\d+)\]\s*(?P<name>\S+)")
_REASON = re.compile(r"failed to quantize: (.+)")
_OLD_TYPE = re.compile(r"[-._](?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|B?F16|F32)$", re.IGNORECASE)
_SIZE = re.compile(r"quant size\s*=\s*(?P<mib>[\d.]+) MiB")
_FULL_PRECISION = frozenset({"F32", "F16", "BF16"})
_SPARE_BYTES = 100_000_000
_ASK_SECONDS = 60.0


def quantization_types(runtime: Runtime) -> tuple[str, ...]:
    """The types that this llama.cpp can quantise to, for example "Q4_K_M".

    Raises:
        UnknownName: When it has no `llama-quantize`.
    """
    lines: list[str] = []
    run_tool(runtime, "llama-quantize", ["--help"], seconds=_ASK_SECONDS, on_line=lines.append)
    start = next((number for number, line in enumerate(lines) if "allowed quantization types" in line.lower()), 0)
    found = [match["name"] for line in lines[start:] if (match := _TYPE_LINE.match(line)) is not None]
    return tuple(each for each in dict.fromkeys(found) if each != "COPY")


@dataclass(frozen=True, slots=True)
class _Job:
    """One quantisation."""

    runtime: Runtime
    parent: ModelFile
    type: str
    options: tuple[str, ...]
    threads: int
    work: Path

    def run(
        self,
        *first: str,
        on_line: Callable[[str], None],
        seconds: float | None = None,
        cancel: CancelToken | None = None,
    ) -> Finished:
        files = [str(self.parent.path), str(self.work / "out.gguf")]
        arguments = [*first, *self.options, *files, self.type, str(self.threads)]
        return run_tool(self.runtime, "llama-quantize", arguments, seconds=seconds, on_line=on_line, cancel=cancel)


def quantize(
    parent: ModelFile,
    to: str,
    home: Home,
    runtime: Runtime,
    *,
    name: str | None = None,
    allow_requantize: bool = False,
    threads: int | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> ModelFile:
    """Make another model of fewer bits, registered with its parent. One that was made before is returned at once.

    Args:
        parent: The model to make it of.
        to: Type of the new one, for example "Q4_K_M"; `quantization_types` lists them.
        home: Where it goes.
        runtime: Whose `llama-quantize`.
        name: What to call it; default: the parent's name and the type.
        allow_requantize: Also from a model that is quantised itself, which costs more quality than from F16, BF16 or F32.
        threads: CPU threads; default: as many as are fastest here.
        report: Told about each tensor.
        cancel: Ends it; nothing is left.

    Raises:
        UnknownName: When this llama.cpp has no such type.
        BadInput: When the parent is quantised and that is not allowed, or the name is taken or none.
        DiskFull: When the new file would not fit.
        SetupError: When `llama-quantize` failed, with its last words.
        Cancelled: When `cancel` was.
    """
    kind = _known_type(to, runtime)
    chosen = name or name_for(f"{_OLD_TYPE.sub('', parent.name)}-{kind.lower()}")
    if not is_name(chosen):
        fix = "Use letters, digits, dots, dashes and underscores, and no .gguf at the end."
        raise BadInput(f"{chosen!r} cannot be the name of a model.", fix=fix, field="name", value=chosen)
    target = home.models / f"{chosen}.gguf"
    work = home.models / ".incoming" / hashlib.sha256(chosen.encode()).hexdigest()[:16]
    work.parent.mkdir(exist_ok=True)
    with exclusive(work.with_suffix(".lock"), STEP, report=report, cancel=cancel):
        made = recorded(target)
        if made is not None and parent.sha256 and (made.parent, made.source) == (parent.sha256, _source(parent, kind)):
            report(Progress(STEP, f"it is here already: {made.name}", finished=True))
            return made
        _check_parent(parent, allow_requantize=allow_requantize)
        _check_name(chosen, target, home)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        options = ("--allow-requantize",) if allow_requantize else ()
        job = _Job(runtime, parent, kind, options, threads or runtime.threads, work)
        try:
            check_disk(work, _size_of_result(job, cancel) + _SPARE_BYTES)
            _run(job, report, cancel)
            return _register(job, chosen, target, home, report, cancel)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _known_type(to: str, runtime: Runtime) -> str:
    known = quantization_types(runtime)
    if to.upper() not in known:
        raise UnknownName.among("quantisation type", to, known, where=f"llama-quantize of {runtime.tag or runtime.id}")
    return to.upper()


def _check_parent(parent: ModelFile, *, allow_requantize: bool) -> None:
    now = parent.metadata.quantization
    if now not in _FULL_PRECISION and not allow_requantize:
        raise BadInput(
            f"{parent.name} is quantised itself ({now}): another quantisation of it loses more than one of the original.",
            fix="Take an F16, BF16 or F32 file, or say allow_requantize=True (`--allow-requantize`).",
            field="ref",
            value=parent.name,
        )


def _check_name(name: str, target: Path, home: Home) -> None:
    taken = name in catalogue() or any(model.name == name for model in installed(home))
    if taken or target.exists() or target.is_symlink():
        raise BadInput(
            f"There is a model named {name!r} already.",
            fix="Choose another name with name= (`--name`).",
            field="name",
            value=name,
        )


def _size_of_result(job: _Job, cancel: CancelToken | None) -> int:
    """What it would come to, by `llama-quantize --dry-run`; the parent's size where this build has no such option."""
    lines: list[str] = []
    done = job.run("--dry-run", on_line=lines.append, seconds=_ASK_SECONDS, cancel=cancel)
    sizes = [float(match["mib"]) for line in lines if (match := _SIZE.search(line)) is not None]
    return int(sizes[-1] * 2**20) if done.returncode == 0 and sizes else job.parent.size_bytes


def _run(job: _Job, report: Report, cancel: CancelToken | None) -> None:
    report(Progress(STEP, f"{job.parent.name} to {job.type}"))

    def told(line: str) -> None:
        match = _TENSOR.match(line)
        if match is not None:
            done, total = int(match["done"]) - 1, int(match["total"])
            report(Progress(STEP, match["name"], done=done, total=total, unit="tensors"))

    done = job.run(on_line=told, cancel=cancel)
    if done.returncode != 0 or not (job.work / "out.gguf").is_file():
        raise _failed(job, done)


def _failed(job: _Job, done: Finished) -> NoaLabError:
    reason = _reason(done.tail)
    if "iostream" in reason:
        # That is all it says when the disk is full.
        free = shutil.disk_usage(job.work).free
        return DiskFull(
            f"{job.parent.name} could not be quantised to {job.type}: the file could not be written; {free / 1e6:,.0f} MB are free.",
            fix="Free some disk space, or set NOA_LAB_HOME to a folder on another disk.",
            path=str(job.work),
            free_bytes=free,
        )
    return SetupError(
        f"{job.parent.name} could not be quantised to {job.type}: {reason}.",
        fix="Choose a type that needs no importance matrix, for example Q4_K_M."
        if "imatrix" in reason
        else "Choose another type, or check the model with `noa-lab models verify`.",
        type=job.type,
        exit_code=done.returncode,
        log_tail=list(done.tail)[-10:],
    )


def _reason(tail: Sequence[str]) -> str:
    told = [match[1] for line in tail if (match := _REASON.search(line)) is not None]
    return (told or list(tail) or ["it said nothing"])[-1].strip().rstrip(".!")[:300]


def _register(job: _Job, name: str, target: Path, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile:
    """Check what came out, and give it its name; the record is there first."""
    made = job.work / "out.gguf"
    digest = hash_file(made, step=STEP, report=report, cancel=cancel)
    model = ModelFile(
        name,
        target,
        digest,
        made.stat().st_size,
        _source(job.parent, job.type),
        verified=False,
        metadata=read_gguf(made),
        parent=job.parent.sha256,
    )
    with placing(home):
        _check_name(name, target, home)  # minutes have passed
        write_record(model, made, record_path(target))
        made.replace(target)
    report(Progress(STEP, name, finished=True))
    return model


def _source(parent: ModelFile, kind: str) -> str:
    return f"{parent.name}, quantised to {kind}"
