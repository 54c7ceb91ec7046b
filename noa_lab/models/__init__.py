"""Models: the catalogue, getting them, reading GGUF headers.

A model is one verified file on disk, whatever it came from.
"""

from noa_lab.models._catalogue import Catalogue, CatalogueEntry, catalogue
from noa_lab.models._fetch import fetch, find, installed
from noa_lab.models._file import ModelFile, ModelMetadata, ModelPart
from noa_lab.models._gguf import read_gguf
from noa_lab.models._library import Models
from noa_lab.models._listing import ModelListing
from noa_lab.models._unfinished import Unfinished, discard_unfinished, unfinished
from noa_lab.models.memory import Fit

__all__ = [
    "Catalogue",
    "CatalogueEntry",
    "Fit",
    "ModelFile",
    "ModelListing",
    "ModelMetadata",
    "ModelPart",
    "Models",
    "Unfinished",
    "catalogue",
    "discard_unfinished",
    "fetch",
    "find",
    "fit",
    "get",
    "installed",
    "list",
    "read_gguf",
    "show",
    "unfinished",
    "verify",
]

_default = Models()
get = _default.get
list = _default.list  # noqa: A001 - `lab.models.list()` is what users call it by
fit = _default.fit
show = _default.show
verify = _default.verify
