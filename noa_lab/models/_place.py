"""Giving a model that has arrived its place in the models folder: checked first, then visible all at once, with its record."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import ChecksumMismatch
from noa_lab.events import silent
from noa_lab.models._arrived import STEP, Arrived, ArrivedFile
from noa_lab.models._file import ModelFile, ModelPart
from noa_lab.models._first_seen import check_first_seen, note_first_seen
from noa_lab.models._record import record_path, recorded, write_record
from noa_lab.models._split import part_names, read_parts, whole_name
from noa_lab.paths import Home
from noa_lab.runtime import exclusive

__all__ = ["Wanted", "check_hash", "place", "placing", "sha256_of_parts"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reference other than a path comes down to.

    Attributes:
        name: What the model is called.
        sources: References to get it from, in order.
        file: Name for its file, of a split model for its first part.
        sha256: Hash that it must have; None where it is not known.
    """

    name: str
    sources: tuple[str, ...]
    file: str
    sha256: str | None = None


def sha256_of_parts(hashes: Iterable[str]) -> str:
    """The hash that stands for a split model: that of its parts' hashes, a line each."""
    return hashlib.sha256("".join(f"{each}\n" for each in hashes).encode()).hexdigest()


def check_hash(sha256: str, source: str, wanted: Wanted, home: Home) -> None:
    """See that a model, or what a source promises, has the hash that it must have, or had when it was first seen.

    Raises:
        ChecksumMismatch: When it has not.
    """
    if wanted.sha256 is None:
        check_first_seen(source, sha256, home)
    elif sha256 != wanted.sha256:
        raise ChecksumMismatch(
            f"What {source} gives is not {wanted.name}: its sha256 is {sha256}, not {wanted.sha256}.",
            fix="Start it again; if it stays so, the source has changed and should not be trusted.",
            source=source,
            expected=wanted.sha256,
            found=sha256,
            reason="wrong sha256",
        )


def placing(home: Home) -> AbstractContextManager[None]:
    """Hold the lock under which names are looked for and taken: two models may want the same one."""
    folder = home.models / ".incoming"
    folder.mkdir(exist_ok=True)
    return exclusive(folder / "placing.lock", STEP, report=silent, cancel=None)


def place(arrived: Arrived, source: str, wanted: Wanted, work: Path, home: Home) -> ModelFile:
    """Check the bytes, then let the model be seen.

    Args:
        arrived: Its files.
        source: Where they came from.
        wanted: What was asked for.
        work: A folder beside the models, for what is in the making.
        home: Where it goes.

    Raises:
        ChecksumMismatch: When it is not the model that it should be.
        ModelFileBroken: When it is no readable GGUF.
    """
    sha256 = arrived.files[0].sha256
    if len(arrived.files) > 1:
        sha256 = sha256_of_parts(file.sha256 for file in arrived.files)
    check_hash(sha256, source, wanted, home)
    metadata = read_parts([file.path for file in arrived.files])
    names = part_names(wanted.file) if len(arrived.files) > 1 else (wanted.file,)
    verified = wanted.sha256 is not None or arrived.promised
    with placing(home):
        parts = _parts(_folder(wanted, names, source, home), names, arrived)
        size = sum(part.size_bytes for part in parts)
        single = len(parts) == 1
        model = ModelFile(
            wanted.name, parts[0].path, sha256, size, source, verified, metadata, parts=() if single else parts
        )
        # Before the model can be seen: whoever finds it does not come here again.
        note_first_seen(source, sha256, size, arrived.version, home)
        if single:
            _place_file(model, arrived.files[0], arrived.shared, work)
        else:
            _place_folder(model, arrived, work)
    return model


def _parts(folder: Path, names: tuple[str, ...], arrived: Arrived) -> tuple[ModelPart, ...]:
    named = zip(names, arrived.files, strict=True)
    return tuple(ModelPart(folder / name, file.sha256, file.size_bytes) for name, file in named)


def _folder(wanted: Wanted, names: tuple[str, ...], source: str, home: Home) -> Path:
    """Where a model goes: under its own name, or in a folder of its own when that name is another model's."""
    plain = home.models / whole_name(names[0]) if len(names) > 1 else home.models
    first = plain / names[0]
    owner = recorded(first)
    if not first.exists() or (owner is not None and owner.source in wanted.sources):
        return plain
    return home.models / hashlib.sha256(source.encode()).hexdigest()[:8]


def _place_file(model: ModelFile, file: ArrivedFile, shared: bool, work: Path) -> None:
    """The record is there first, so that a crash leaves no nameless file."""
    model.path.parent.mkdir(exist_ok=True)
    write_record(model, file.path, record_path(model.path), locked=True)
    _take(file.path, work / "placing", shared=shared).replace(model.path)


def _place_folder(model: ModelFile, arrived: Arrived, work: Path) -> None:
    """All parts and the record in one step."""
    staging, old = work / "placing.folder", work / "old.folder"
    for folder in (staging, old):
        shutil.rmtree(folder, ignore_errors=True)
    staging.mkdir()
    for part, file in zip(model.parts, arrived.files, strict=True):
        _take(file.path, staging / part.path.name, shared=arrived.shared)
    write_record(model, staging / model.path.name, record_path(staging / model.path.name), locked=True)
    final = model.path.parent
    if final.exists():
        final.replace(old)
    staging.replace(final)
    shutil.rmtree(old, ignore_errors=True)


def _take(source: Path, target: Path, *, shared: bool) -> Path:
    """Move a file; one of another tool's cache is linked, or where links are not allowed gets a second name or a copy."""
    target.unlink(missing_ok=True)
    if not shared:
        return source.replace(target)
    try:
        target.symlink_to(source)
    except OSError:
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
    return target
