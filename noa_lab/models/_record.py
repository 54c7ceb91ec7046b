"""What is remembered of a model file, beside it: where it came from, its hash, its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._file import ModelFile, ModelPart
from noa_lab.paths import Home, write_atomic

__all__ = ["hash_file", "read_record", "record_elsewhere", "record_path", "recorded", "records_of_home", "write_record"]

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Stamp:
    """How a file looked when its record was written; any change makes the record worthless."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def record_path(path: Path) -> Path:
    """The record of a file in the models folder."""
    return path.with_name(f"{path.name}.json")


def record_elsewhere(path: Path, home: Home) -> Path:
    """The record of a file that is used where it lies."""
    return home.models / ".elsewhere" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"


def write_record(model: ModelFile, bytes_at: Path, record: Path, *, locked: bool = False) -> None:
    """Remember a model.

    Args:
        model: The model, with its final path.
        bytes_at: Where its bytes are now; the other parts of a split model lie beside it, under their names.
        record: The record's file.
        locked: Whether a lock keeps other writers away; see `write_atomic`.
    """
    stamps = [asdict(_Stamp.of(bytes_at.with_name(part.path.name))) for part in model.parts]
    facts = model.to_record() | {"stamp": asdict(_Stamp.of(bytes_at)), "stamps": stamps}
    write_atomic(record, json.dumps(facts, indent=1, ensure_ascii=False) + "\n", locked=locked)


def read_record(path: Path, record: Path) -> ModelFile | None:
    """The model that a record describes, or None when a file is gone or was changed, or there is no readable record.

    Args:
        path: The model's file; the other parts of a split model lie beside it.
        record: The record's file.
    """
    try:
        data: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if _Stamp(**data["stamp"]) != _Stamp.of(path):
            return None
        model = ModelFile.from_record(data)
        parts = tuple(ModelPart(path.with_name(part.path.name), part.sha256, part.size_bytes) for part in model.parts)
        stamps = [_Stamp(**stamp) for stamp in data.get("stamps", [])]
        if stamps != [_Stamp.of(part.path) for part in parts]:
            return None
        return replace(model, path=path, parts=parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def recorded(path: Path) -> ModelFile | None:
    """The model at a path of the models folder, by its record."""
    return read_record(path, record_path(path))


def records_of_home(home: Home) -> Iterator[ModelFile]:
    """Every model of a home that has a valid record."""
    for record in sorted([*home.models.glob("*.gguf.json"), *home.models.glob("*/*.gguf.json")]):
        model = read_record(record.with_name(record.name.removesuffix(".json")), record)
        if model is not None:
            yield model


def hash_file(path: Path, *, step: str, report: Report, cancel: CancelToken | None) -> str:
    """sha256 of a file, reported and cancellable.

    Raises:
        Cancelled: When `cancel` was.
    """
    total = path.stat().st_size
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if cancel is not None:
                cancel.check(step)
            digest.update(chunk)
            done += len(chunk)
            if done % (64 * _CHUNK_BYTES) == 0:
                report(Progress(step, path.name, done=done, total=total, unit="bytes"))
    return digest.hexdigest()
