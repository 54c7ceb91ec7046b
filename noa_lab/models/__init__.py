"""Models: the catalogue, getting them, reading GGUF headers.

A model is one verified file on disk, whatever it came from.
"""

from noa_lab.models._catalogue import Catalogue, CatalogueEntry, catalogue
from noa_lab.models._fetch import fetch, find, installed, verify
from noa_lab.models._file import ModelFile, ModelMetadata, ModelPart
from noa_lab.models._gguf import read_gguf
from noa_lab.models._library import ModelListing, Models

__all__ = [
    "Catalogue",
    "CatalogueEntry",
    "ModelFile",
    "ModelListing",
    "ModelMetadata",
    "ModelPart",
    "Models",
    "catalogue",
    "fetch",
    "find",
    "get",
    "installed",
    "list",
    "read_gguf",
    "show",
    "verify",
]

_default = Models()
get = _default.get
list = _default.list  # noqa: A001 - `lab.models.list()` is what users call it by
show = _default.show
