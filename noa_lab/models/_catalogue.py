"""The models that have a name: noa_lab's own list, and the project's."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from noa_lab.config import StrictModel, YamlDocument, load_yaml, validate_yaml
from noa_lab.errors import BadInput, UnknownModel
from noa_lab.models._reference import parse_reference

__all__ = ["Catalogue", "CatalogueEntry", "catalogue"]

_BUILT_IN = Path(__file__).with_name("catalogue.yaml")
_PROJECT_FILE = Path("configs", "models.yaml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]*\.gguf")


class CatalogueEntry(StrictModel):
    """One model of the catalogue."""

    name: str = Field(max_length=100)
    """What users call it."""
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """References to get it from, tried in this order."""
    file: str = Field(max_length=200)
    """Name of its file in the models folder, of a split model of the first part."""
    quantization: str = ""
    """For example "Q4_K_M"."""
    size: str = ""
    """Its size in words, "about" where it was not measured."""
    size_bytes: int | None = Field(default=None, ge=24)
    """Its exact size; None where it is not known."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Hash of the file, or of a split model as `ModelFile.sha256` says; None where it is not known. A model with another hash is
    refused."""
    ram: str = ""
    """Memory that it needs, in words."""
    context_length: int | None = Field(default=None, ge=1)
    """Tokens that it was trained for."""
    licence: str = ""
    """Under what it may be used."""
    use_case: str = ""
    """What it is good for."""
    tags: tuple[str, ...] = ()
    """Tasks and kinds, for searching."""
    default: bool = False
    """Whether it is used where no model is named."""
    note: str = ""
    """What else is to be said."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a name has letters, digits, dots, dashes and underscores only")
        return value

    @field_validator("file")
    @classmethod
    def _check_file(cls, value: str) -> str:
        if not _FILE_NAME.fullmatch(value):
            raise ValueError("a plain file name that ends with .gguf is needed")
        return value

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for source in value:
            try:
                parse_reference(source)
            except BadInput as error:
                raise ValueError(f"{error.message} {error.fix}") from None
        return value


class _CatalogueFile(StrictModel):
    """A catalogue file."""

    kind_name: ClassVar[str] = "The catalogue"

    models: tuple[CatalogueEntry, ...] = ()


class Catalogue:
    """The models by name; iterating gives the entries in order.

    Args:
        entries: The entries.
        files: The files that they were read from.
    """

    def __init__(self, entries: Mapping[str, CatalogueEntry], files: tuple[Path, ...]) -> None:
        self._entries = dict(entries)
        self.files = files

    def __iter__(self) -> Iterator[CatalogueEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """Names of all entries."""
        return tuple(self._entries)

    def get(self, name: str) -> CatalogueEntry:
        """The entry of this name.

        Raises:
            UnknownModel: With the nearest name.
        """
        if name not in self._entries:
            raise UnknownModel.among("model", name, self._entries, where="the catalogue")
        return self._entries[name]

    @property
    def default(self) -> CatalogueEntry:
        """The model that is used where none is named."""
        return next(entry for entry in self if entry.default)


def catalogue(start: Path | None = None) -> Catalogue:
    """The built-in list, extended by the nearest `configs/models.yaml` upward from the working folder.

    Args:
        start: Where to begin looking for the project's file; default: the working folder.

    Raises:
        ConfigInvalid: With file, line and the nearest known key.
    """
    entries = dict(_built_in())
    project = _nearest_file((start or Path.cwd()).absolute())
    if project is None:
        return Catalogue(entries, (_BUILT_IN,))
    own = _read(load_yaml(project))
    if any(entry.default for entry in own.values()):
        entries = {name: entry.model_copy(update={"default": False}) for name, entry in entries.items()}
    entries |= own
    if not any(entry.default for entry in entries.values()):
        # The project replaced the default entry without saying which one is the default now.
        name = next(entry.name for entry in _built_in().values() if entry.default)
        entries[name] = entries[name].model_copy(update={"default": True})
    return Catalogue(entries, (_BUILT_IN, project))


@functools.cache
def _built_in() -> dict[str, CatalogueEntry]:
    return _read(load_yaml(_BUILT_IN))


def _nearest_file(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        file = folder / _PROJECT_FILE
        if file.is_file():
            return file
    return None


def _read(document: YamlDocument) -> dict[str, CatalogueEntry]:
    if document.data is None:
        return {}
    entries: dict[str, CatalogueEntry] = {}
    default: str | None = None
    for index, entry in enumerate(validate_yaml(_CatalogueFile, document).models):
        at = ("models", index, "name")
        if entry.name in entries:
            raise document.invalid(
                f"the model {entry.name!r} is listed twice.",
                fix="Give one of them another name.",
                at=at,
                value=entry.name,
            )
        if entry.default and default is not None:
            raise document.invalid(
                f"{entry.name!r} and {default!r} are both the default.",
                fix="Keep `default: true` on one of them only.",
                at=at,
                value=entry.name,
            )
        default = entry.name if entry.default else default
        entries[entry.name] = entry
    return entries
