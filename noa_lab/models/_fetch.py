"""Getting a model onto this machine: found if it is here, else fetched, verified, and only then visible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from noa_lab.errors import ChecksumMismatch, DownloadFailed, ModelFileBroken, UnknownModel
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.models._arrived import STEP
from noa_lab.models._catalogue import CatalogueEntry, catalogue
from noa_lab.models._file import ModelFile
from noa_lab.models._from_pypi import from_pypi
from noa_lab.models._from_web import from_web, web_name
from noa_lab.models._gguf import read_gguf
from noa_lab.models._gone import broken_links
from noa_lab.models._hub import from_hub
from noa_lab.models._local import CHECK, hashed, known_local, local, unrecorded
from noa_lab.models._place import Wanted, check_hash, place
from noa_lab.models._record import hash_file, record_path, records_of_home, write_record
from noa_lab.models._reference import HubFile, HubQuant, LocalPath, Named, PypiFile, Reference, WebFile, parse_reference
from noa_lab.models._split import is_later_part, part_names, read_parts, whole_name
from noa_lab.models._unfinished import WorkFolder
from noa_lab.paths import Home
from noa_lab.runtime import exclusive

__all__ = ["fetch", "find", "installed", "verify"]


def fetch(
    ref: str | Path, home: Home | None = None, *, report: Report = silent, cancel: CancelToken | None = None
) -> ModelFile:
    """The model, on disk and verified. One that is here already takes milliseconds and no network.

    Args:
        ref: Catalogue name, `hf://owner/repo/file.gguf`, `owner/repo:QUANT` (both also with `@revision` after the repository),
            `pypi://dist==version/member.gguf`, `https://...`, or a path, which is used in place. Naming one part of a split model
            means all of it.
        home: Where models are kept; default: the default home.
        report: Told about the progress.
        cancel: Stops it, or pauses it; what has arrived stays for the next call.

    Raises:
        UnknownModel: When the reference names nothing; the nearest name is offered.
        BadInput: When it has none of the forms.
        DownloadFailed: When the bytes did not arrive.
        ChecksumMismatch: When they arrived wrong.
        ModelFileBroken: When the file is no readable GGUF.
        DiskFull: When it does not fit; what has arrived stays for the next call.
        Cancelled: When `cancel` was.
    """
    reference, home = _parse(ref), home or Home.default()
    if isinstance(reference, LocalPath):
        return local(reference.path, home, report, cancel)
    if isinstance(reference, Named) and reference.name not in catalogue():
        found = _find(reference, ref, home)  # made or put here: there is nothing to fetch it from
        if found is not None:
            return found
    wanted = _wanted(reference, str(ref), home)
    work = WorkFolder.of(wanted.sources[0], home)
    found = _find(reference, ref, home)
    if found is not None:
        work.sweep()
        return found
    work.path.parent.mkdir(exist_ok=True)
    with exclusive(work.lock, STEP, report=report, cancel=cancel):
        found = _find(reference, ref, home) or _adopt(wanted, home, report, cancel)
        return found or _get(wanted, work, home, report, cancel)


def find(ref: str | Path, home: Home | None = None) -> ModelFile | None:
    """The model if its bytes are on this machine already, else None; never asks the network.

    Args:
        ref: As for `fetch`.
        home: Where models are kept; default: the default home.

    Raises:
        BadInput: When the reference has none of the known forms.
        ModelFileBroken: When it is a path to something that is no GGUF.
    """
    reference, home = _parse(ref), home or Home.default()
    if isinstance(reference, LocalPath):
        return known_local(reference.path, home) if reference.path.is_file() else None
    return _find(reference, ref, home)


def installed(home: Home | None = None) -> list[ModelFile]:
    """Every model in the home's folder (default: the default home), by name; also GGUF files that were put there by hand."""
    home = home or Home.default()
    known = {model.path: model for model in records_of_home(home)}
    for path in home.models.glob("*.gguf"):
        if path not in known and path.is_file() and not is_later_part(path.name):
            try:
                known[path] = unrecorded(path)
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
    metadata = read_parts(model.files)
    found = hashed(model, report=report, cancel=cancel)
    if model.sha256 and found.sha256 != model.sha256:
        wrong = next((now.path for now, was in zip(found.parts, model.parts, strict=True) if now != was), model.path)
        raise ChecksumMismatch(
            f"The bytes of {wrong} have changed since it was recorded.",
            fix="Delete the file and get the model again.",
            source=str(wrong),
            expected=model.sha256,
            found=found.sha256,
        )
    report(Progress(CHECK, model.name, finished=True))
    return replace(found, metadata=metadata, size_bytes=sum(path.stat().st_size for path in model.files))


def _parse(ref: str | Path) -> Reference:
    return LocalPath(ref) if isinstance(ref, Path) else parse_reference(ref)


def _find(reference: Reference, ref: str | Path, home: Home) -> ModelFile | None:
    if not isinstance(reference, Named):
        return next((model for model in records_of_home(home) if model.source == str(ref)), None)
    known = catalogue()
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


def _wanted(reference: Reference, ref: str, home: Home) -> Wanted:
    match reference:
        case Named(name):
            known = catalogue()
            if name not in known:
                _check_there(name, home)
                choices = {*known.names(), *(model.name for model in installed(home))}
                raise UnknownModel.among("model", name, choices, where="the catalogue")
            entry = known.get(name)
            return Wanted(entry.name, entry.sources, entry.file, entry.sha256)
        case PypiFile(_, _, member):
            return _from_file_name(PurePosixPath(member).name, ref)
        case HubFile(_, file):
            return _from_file_name(PurePosixPath(file).name, ref)
        case WebFile():
            return _from_file_name(web_name(reference), ref)
        case _:
            # What the file is called, the hub will say.
            return Wanted(ref.replace("/", "-").replace(":", "-").replace("@", "-"), (ref,), "")


def _check_there(name: str, home: Home) -> None:
    """Say of an imported model whose file is gone where that was.

    Raises:
        UnknownModel: When it is gone.
    """
    link = broken_links(home).get(name)
    if link is not None:
        raise UnknownModel(
            f"The file of the model {name!r} is gone: {link.readlink()}.",
            fix=f"Put it back, or forget the model with `noa-lab models remove {name}`.",
            kind="model",
            name=name,
            nearest=None,
            known=[],
        )


def _from_file_name(file: str, ref: str) -> Wanted:
    names = part_names(file)
    first = names[0] if names else file
    safe = "".join(character if character.isalnum() or character in "._+-" else "_" for character in first).lstrip(".-")
    return Wanted(whole_name(safe), (ref,), safe)


def _adopt(wanted: Wanted, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile | None:
    """A file of the right name and hash that lies in the models folder without a valid record."""
    if not wanted.file or wanted.sha256 is None:
        return None
    path = home.models / wanted.file
    if not path.is_file() or hash_file(path, step=CHECK, report=report, cancel=cancel) != wanted.sha256:
        return None
    size = path.stat().st_size
    model = ModelFile(
        wanted.name, path, wanted.sha256, size, wanted.sources[0], verified=True, metadata=read_gguf(path)
    )
    write_record(model, path, record_path(path))
    return model


def _get(wanted: Wanted, work: WorkFolder, home: Home, report: Report, cancel: CancelToken | None) -> ModelFile:
    """Try the sources in order; one that cannot be reached, or has it no more, leads to the next."""
    failures: list[DownloadFailed | UnknownModel] = []
    reasons: list[str] = []
    tried: set[Reference] = set()
    for source in wanted.sources:
        reference = parse_reference(source)
        if reference in tried:
            continue
        tried.add(reference)
        try:
            with work:
                return _get_from(reference, source, wanted, work, home, report, cancel)
        except (DownloadFailed, UnknownModel) as error:
            failures.append(error)
            reason = error.fields.get("reason", error.message.rstrip("."))
            reasons.append(f"{error.fields.get('source', source)}: {reason}")
            report(Progress(STEP, error.message))
    if len(failures) == 1:
        raise failures[0]
    told = "; ".join(reasons)
    raise DownloadFailed(
        f"None of the {len(failures)} sources of {wanted.name} gave it: {told}.",
        fix=failures[0].fix,
        source=wanted.name,
        reason=told,
    )


def _get_from(
    reference: Reference,
    source: str,
    wanted: Wanted,
    work: WorkFolder,
    home: Home,
    report: Report,
    cancel: CancelToken | None,
) -> ModelFile:
    work.begin(wanted.name, source)
    match reference:
        case PypiFile():
            arrived = from_pypi(reference, work.path, report=report, cancel=cancel)
        case WebFile():
            arrived = from_web(reference, work.path, wanted.sha256, report=report, cancel=cancel)
        case HubFile() | HubQuant():
            arrived, first = from_hub(
                reference,
                wanted.sha256,
                expect=lambda sha256: check_hash(sha256, source, wanted, home),
                watch=work.watch,
                report=report,
                cancel=cancel,
            )
            wanted = wanted if wanted.file else _from_file_name(PurePosixPath(first).name, source)
        case _:
            raise UnknownModel.among("source", source, wanted.sources)
    model = place(arrived, source, wanted, work.path, home)
    work.done()
    return model
