"""Using a model that is on this machine already: a link to it, a name, its hash; never a copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from noa_lab.errors import BadInput, ChecksumMismatch, SetupError, UnknownName
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.models._catalogue import catalogue
from noa_lab.models._fetch import installed
from noa_lab.models._file import ModelFile, ModelPart
from noa_lab.models._place import placing, sha256_of_parts
from noa_lab.models._record import hash_file, record_path, records_of_home, write_record
from noa_lab.models._reference import is_name
from noa_lab.models._split import part_names, read_parts
from noa_lab.models.stores import StoredModel, models_in_folder, name_for, stored_models
from noa_lab.paths import Home

__all__ = ["find_stored", "import_model", "link_ways"]

STEP = "Import the model"


def find_stored(what: str | Path) -> StoredModel:
    """The model that a path, or a name of another tool, means.

    Args:
        what: A GGUF file (of a split model any part), a folder with one model in it, or the name under which Hugging Face's cache,
            Ollama or LM Studio has it ("llama3.2:3b").

    Raises:
        UnknownName: When there is no such model; the nearest one is offered.
        BadInput: When a folder has several models in it.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        return _only_one(path)
    if path.is_file():
        return _of_file(path)
    known = {model.name: model for model in stored_models()}
    if str(what) in known:
        return known[str(what)]
    raise UnknownName.among("file or stored model", str(what), known, where="other tools' stores")


def _only_one(folder: Path) -> StoredModel:
    found = models_in_folder(folder)
    if len(found) == 1:
        return found[0]
    names = ", ".join(model.name for model in found[:5]) + (", ..." if len(found) > 5 else "")
    raise BadInput(
        f"There are {len(found)} models in {folder}{': ' + names if found else ''}.",
        fix="Name one of the files." if found else "Give a folder with .gguf files in it, or one of them.",
        field="path",
        value=str(folder),
    )


def _of_file(path: Path) -> StoredModel:
    names = part_names(path.name) or (path.name,)
    files = tuple(path.with_name(name) for name in names)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BadInput(
            f"{len(missing)} of the {len(files)} parts of this model are missing: {', '.join(missing[:3])}.",
            fix="Put all parts into one folder.",
            field="path",
            value=str(path),
        )
    return StoredModel("folder", files[0].name, files, sum(file.stat().st_size for file in files))


def import_model(
    stored: StoredModel,
    home: Home,
    *,
    name: str | None = None,
    hard_link: bool = False,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> ModelFile:
    """Give a model that is on this machine a name here; its bytes stay where they are.

    Args:
        stored: From `find_stored` or `stored_models`.
        home: Where it is to be known.
        name: What to call it; default: after its file.
        hard_link: Make a second name for the same bytes, which stays when the other tool deletes its own; they must be on the same
            file system. Default: a link that leads to the file, and nowhere once that is deleted.
        report: Told about the hashing.
        cancel: Stops it.

    Returns:
        The model. One that is known here with the same bytes, under that name or any, is returned as it is.

    Raises:
        ModelFileBroken: When the file is no readable GGUF.
        ChecksumMismatch: When its bytes are not what the store says.
        BadInput: When the name is taken or none.
        SetupError: When this file system allows no such link.
        Cancelled: When `cancel` was.
    """
    files = tuple(path.resolve() for path in stored.files)
    metadata = read_parts(files)
    hashes = [hash_file(path, step=STEP, report=report, cancel=cancel) for path in files]
    digest = hashes[0] if len(hashes) == 1 else sha256_of_parts(hashes)
    _check_digest(stored, digest)
    with placing(home):
        alike = (model for model in records_of_home(home) if model.sha256 == digest and name in {None, model.name})
        known = next(alike, None)
        if known is not None:
            report(Progress(STEP, f"it is here already: {known.name}", finished=True))
            return known
        chosen = _free_name(name, stored, digest, home)
        sizes = [path.stat().st_size for path in files]
        parts = tuple(map(ModelPart, _places(chosen, len(files), home), hashes, sizes))
        model = ModelFile(
            name=chosen,
            path=parts[0].path,
            sha256=digest,
            size_bytes=sum(sizes),
            source=str(files[0]),
            verified=bool(stored.sha256),
            metadata=metadata,
            parts=parts if len(parts) > 1 else (),
        )
        _link_all(files, model.files, hard_link=hard_link)
        write_record(model, model.path, record_path(model.path))
    report(Progress(STEP, chosen, finished=True))
    return model


def _check_digest(stored: StoredModel, digest: str) -> None:
    if stored.sha256 and stored.sha256 != digest:
        raise ChecksumMismatch(
            f"The file of {stored.name} is damaged: its hash is not the one that {stored.tool} has recorded.",
            fix=f"Download it again with {stored.tool}.",
            source=str(stored.files[0]),
            expected=stored.sha256,
            found=digest,
        )


def _free_name(name: str | None, stored: StoredModel, digest: str, home: Home) -> str:
    """The name, if it can be had; without one, the first of NAME, NAME-2, ... that can."""
    taken = {model.name for model in installed(home)}
    taken |= {entry.name for entry in catalogue() if entry.sha256 != digest}
    if name is not None:
        if not is_name(name):
            fix = "Use letters, digits, dots, dashes and underscores, and no .gguf at the end."
            raise BadInput(f"{name!r} cannot be the name of a model.", fix=fix, field="name", value=name)
        if name in taken or any(path.exists() or path.is_symlink() for path in _places(name, len(stored.files), home)):
            raise BadInput(
                f"There is a model named {name!r} already.",
                fix="Choose another name with name= (`--name`).",
                field="name",
                value=name,
            )
        return name
    plain = name_for(stored.name)
    number, candidate = 1, plain
    while candidate in taken or any(os.path.lexists(path) for path in _places(candidate, len(stored.files), home)):
        number += 1
        candidate = f"{plain}-{number}"
    return candidate


def _places(name: str, count: int, home: Home) -> list[Path]:
    """Where the links go; the parts of a split model have a folder, and the names that llama.cpp looks for."""
    if count == 1:
        return [home.models / f"{name}.gguf"]
    return [home.models / name / f"{name}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _link_all(files: Sequence[Path], places: Sequence[Path], *, hard_link: bool) -> None:
    """Make all links, or none."""
    made: list[Path] = []
    try:
        places[0].parent.mkdir(exist_ok=True)
        for file, place in zip(files, places, strict=True):
            _link(file, place, hard_link=hard_link)
            made.append(place)
    except BaseException:
        for place in made:
            place.unlink(missing_ok=True)
        raise


def _link(file: Path, place: Path, *, hard_link: bool) -> None:
    failure = OSError()
    for way in link_ways(os.name, hard_link=hard_link):
        try:
            place.symlink_to(file) if way == "symbolic" else place.hardlink_to(file)
            return
        except OSError as error:
            failure = error
    elsewhere = failure.errno == errno.EXDEV
    why = "it is on another file system" if elsewhere else (failure.strerror or str(failure))
    fix = "Import it without --hard-link (hard_link=False)."
    if not hard_link:
        fix = "Allow links (developer mode of Windows)." if os.name == "nt" else "Check who may write there."
    raise SetupError(f"No link to {file} can be made: {why}.", fix=fix, path=str(file))


def link_ways(os_name: str, *, hard_link: bool) -> tuple[str, ...]:
    """The kinds of link to try, in order: on Windows a user may lack the right to make symbolic ones, and a second name does as well."""
    if hard_link:
        return ("hard",)
    return ("symbolic", "hard") if os_name == "nt" else ("symbolic",)
