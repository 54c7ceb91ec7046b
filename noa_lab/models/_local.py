"""Models at a path: used where they are, hashed once, remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from noa_lab.errors import ModelFileBroken, UnknownModel
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._file import ModelFile, ModelPart
from noa_lab.models._place import sha256_of_parts
from noa_lab.models._record import hash_file, read_record, record_elsewhere, record_path, recorded, write_record
from noa_lab.models._split import part_names, read_parts, whole_name
from noa_lab.paths import Home

__all__ = ["CHECK", "hashed", "known_local", "local", "remember", "unrecorded"]

CHECK = "Check the model"


def local(path: Path, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile:
    """The model at a path, hashed. Of a split model any part may be named.

    Raises:
        UnknownModel: When there is no such file; the nearest one beside it is offered.
        ModelFileBroken: When it is no readable GGUF, or a part is missing.
        Cancelled: When `cancel` was.
    """
    if not path.is_file():
        folder = path.absolute().parent
        names = [each.name for each in folder.glob("*.gguf")] if folder.is_dir() else []
        raise UnknownModel.among("file", path.name, names, where=str(folder))
    known = known_local(path, home)
    if known.sha256:
        return known
    model = hashed(known, report=report, cancel=cancel)
    remember(model, home)
    report(Progress(CHECK, model.name, finished=True))
    return model


def remember(model: ModelFile, home: Home) -> None:
    """Write down what is known of a model that was not fetched: beside it in the models folder, in the home for one elsewhere."""
    inside = model.path.is_relative_to(home.models)
    record = record_path(model.path) if inside else record_elsewhere(model.path, home)
    record.parent.mkdir(exist_ok=True)
    write_record(model, model.path, record)


def known_local(path: Path, home: Home) -> ModelFile:
    """The model at a path with what is remembered of it; its hash is empty where none was computed.

    Raises:
        ModelFileBroken: When it is no readable GGUF, or a part is missing.
    """
    names = part_names(path.name)
    first = path.absolute().with_name(names[0]) if names else path.absolute()
    return recorded(first) or read_record(first, record_elsewhere(first, home)) or unrecorded(first)


def unrecorded(path: Path) -> ModelFile:
    """The model in a file, or in the parts beside a first part, that nothing is remembered of.

    Raises:
        ModelFileBroken: When it is no readable GGUF, or a part is missing.
    """
    files = [path.with_name(name) for name in part_names(path.name)] or [path]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise ModelFileBroken(
            f"{path.name} is one of {len(files)} parts, and {missing.name} is not beside it.",
            fix=f"Put all parts into {path.parent}, or get the model again.",
            path=str(missing),
            reason="a part is missing",
        )
    parts = tuple(ModelPart(file, "", file.stat().st_size) for file in files)
    return ModelFile(
        name=whole_name(path.name) if len(parts) > 1 else path.stem,
        path=path,
        sha256="",
        size_bytes=sum(part.size_bytes for part in parts),
        source=str(path),
        verified=False,
        metadata=read_parts(files),
        parts=parts if len(parts) > 1 else (),
    )


def hashed(model: ModelFile, *, report: Report, cancel: CancelToken | None) -> ModelFile:
    """The model with the hashes of its files as they are now.

    Raises:
        OSError: When one cannot be read.
        Cancelled: When `cancel` was.
    """
    if not model.parts:
        return replace(model, sha256=hash_file(model.path, step=CHECK, report=report, cancel=cancel))
    parts = tuple(
        replace(part, sha256=hash_file(part.path, step=CHECK, report=report, cancel=cancel)) for part in model.parts
    )
    return replace(model, sha256=sha256_of_parts(part.sha256 for part in parts), parts=parts)
