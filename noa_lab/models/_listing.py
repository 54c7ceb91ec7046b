"""The list of models: what has a name and what is here, with whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import NoaLabError
from noa_lab.models._catalogue import CatalogueEntry, catalogue
from noa_lab.models._fetch import find, installed
from noa_lab.models._file import ModelFile
from noa_lab.models._gone import broken_links
from noa_lab.models._unfinished import unfinished
from noa_lab.models.memory import Fit, MemorySettings, find_fit, fit_of_file
from noa_lab.paths import Home
from noa_lab.runtime import FreeMemory, free_memory
from noa_lab.tables import TableList, size

__all__ = ["ModelList", "ModelListing", "list_models"]


@dataclass(frozen=True, slots=True)
class ModelListing:
    """One row of the list of models.

    Attributes:
        name: What to call it by.
        installed: Whether its bytes are on this machine.
        default: Whether it is used where no model is named.
        size_bytes: Size of the file; None where the catalogue does not know it.
        size: The same in words, "about" where it was not measured; "" where nothing is known.
        quantization: For example "Q4_K_M".
        context_length: Tokens it was trained for; None where unknown.
        licence: As the catalogue says.
        use_case: What it is good for.
        fits: Whether it would fit into memory now, with the usual settings: "fits", "tight", "does not fit", "" where that is not known.
        needs_bytes: Memory that it would take; None where that is not known.
        needs: The same in words, "about" where only the catalogue says so; "" where nothing is known.
        here_bytes: What is here of it of an interrupted download, in bytes; 0 for nothing.
        tags: Tasks and kinds, as the catalogue says.
        sources: Where it is got from, in this order; empty for what only this machine has.
        sha256: Hash of the file; None where it is not known before the hub is asked.
        note: What else the catalogue says.
        missing: Where the file of an imported model was, when it is gone; "" otherwise.
    """

    name: str
    installed: bool
    default: bool
    size_bytes: int | None
    size: str
    quantization: str
    context_length: int | None
    licence: str
    use_case: str
    fits: str = ""
    needs_bytes: int | None = None
    needs: str = ""
    here_bytes: int = 0
    tags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    sha256: str | None = None
    note: str = ""
    missing: str = ""


class ModelList(TableList[ModelListing]):
    """Rows of models; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = ("Model", "Here", "Size", "Quantisation", "Context", "Needs", "Fits", "For", "Tags", "Licence")
    _short = ("Model", "Here", "Size", "Fits", "For")
    _empty = "There are no models."

    def _cells(self, row: ModelListing) -> tuple[object, ...]:
        return (
            row.name + (" (default)" if row.default else ""),
            "yes" if row.installed else "gone" if row.missing else "no",
            row.size or "?",
            row.quantization,
            f"{row.context_length:,}" if row.context_length else "?",
            row.needs or "?",
            row.fits or "?",
            row.use_case,
            ", ".join(row.tags),
            row.licence,
        )


def list_models(home: Home) -> ModelList:
    """The catalogue's models, then those on disk that it does not name, then those whose file is gone.

    Asks no network and starts nothing.
    """
    known = catalogue()
    free = free_memory()
    half = {each.name: each.here_bytes for each in unfinished(home)}
    here = {entry.name: find(entry.name, home) for entry in known}
    rows = [
        _of_entry(entry, here[entry.name], home, free, half, default=entry.name == known.default.name)
        for entry in known
    ]
    named = {model.path for model in here.values() if model is not None}
    others = [model for model in installed(home) if model.name not in known and model.path not in named]
    files = {entry.file for entry in known}  # the catalogue's own are shown above, as not here
    gone = [_of_link(name, link) for name, link in broken_links(home).items() if link.name not in files]
    return ModelList([*rows, *(_of_file(model, home, free) for model in others), *gone])


def _of_entry(
    entry: CatalogueEntry,
    here: ModelFile | None,
    home: Home,
    free: FreeMemory,
    half: Mapping[str, int],
    *,
    default: bool,
) -> ModelListing:
    fit = _fit(entry.name if here is None else here, home, free)
    size_bytes = here.size_bytes if here is not None else entry.size_bytes
    return ModelListing(
        name=entry.name,
        installed=here is not None,
        default=default,
        size_bytes=size_bytes,
        size=size(size_bytes) if size_bytes else entry.size,
        quantization=entry.quantization,
        context_length=entry.context_length,
        licence=entry.licence,
        use_case=entry.use_case,
        fits=fit.verdict if fit is not None else "",
        needs_bytes=fit.bytes if fit is not None else None,
        needs=_needs(fit, entry.ram),
        here_bytes=half.get(entry.name, 0) if here is None else 0,
        tags=entry.tags,
        sources=entry.sources,
        sha256=here.sha256 if here is not None else entry.sha256,
        note=entry.note,
    )


def _of_file(model: ModelFile, home: Home, free: FreeMemory) -> ModelListing:
    fit = _fit(model, home, free)
    return ModelListing(
        name=model.name,
        installed=True,
        default=False,
        size_bytes=model.size_bytes,
        size=size(model.size_bytes),
        quantization=model.metadata.quantization,
        context_length=model.metadata.context_length,
        licence="",
        use_case=model.source,
        fits=fit.verdict if fit is not None else "",
        needs_bytes=fit.bytes if fit is not None else None,
        needs=_needs(fit),
        sha256=model.sha256,
    )


def _of_link(name: str, link: Path) -> ModelListing:
    target = str(link.readlink())
    return ModelListing(
        name=name,
        installed=False,
        default=False,
        size_bytes=None,
        size="",
        quantization="",
        context_length=None,
        licence="",
        use_case=f"nothing now: its file is gone ({target}); put it back, or run `noa-lab models remove {name}`",
        missing=target,
    )


def _fit(model: ModelFile | str, home: Home, free: FreeMemory) -> Fit | None:
    """A quick answer; None where nothing is known, which is no reason not to list the model."""
    try:
        if isinstance(model, str):
            return find_fit(model, home, MemorySettings(), quick=True, free=free)
        return fit_of_file(model, home, MemorySettings(), quick=True, free=free)
    except NoaLabError:
        return None


def _needs(fit: Fit | None, said: str = "") -> str:
    """In words: the catalogue's own (`said`), where nothing better is known."""
    if fit is None:
        return ""
    return (said or f"about {size(fit.bytes)}") if fit.how == "catalogue" else size(fit.bytes)
