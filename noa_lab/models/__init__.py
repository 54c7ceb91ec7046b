"""Models: the catalogue, getting them, whether they fit into memory, and looking after those that are here.

A model is one verified file on disk (or the parts of one), whatever it came from.
"""

from noa_lab.models._catalogue import Catalogue, CatalogueEntry, catalogue
from noa_lab.models._disk import DiskReport, DiskUse
from noa_lab.models._fetch import fetch, find, installed
from noa_lab.models._file import ModelFile, ModelMetadata, ModelPart
from noa_lab.models._gguf import read_gguf
from noa_lab.models._library import Models
from noa_lab.models._listing import ModelListing
from noa_lab.models._remove import Removal
from noa_lab.models._unfinished import Unfinished, discard_unfinished, unfinished
from noa_lab.models.memory import Fit
from noa_lab.models.stores import StoredModel

__all__ = [
    "Catalogue",
    "CatalogueEntry",
    "DiskReport",
    "DiskUse",
    "Fit",
    "ModelFile",
    "ModelListing",
    "ModelMetadata",
    "ModelPart",
    "Models",
    "Removal",
    "StoredModel",
    "Unfinished",
    "catalogue",
    "discard_unfinished",
    "disk",
    "fetch",
    "find",
    "fit",
    "get",
    "import_model",
    "installed",
    "list",
    "plan_removal",
    "quantization_types",
    "quantize",
    "read_gguf",
    "remove",
    "show",
    "stored",
    "unfinished",
    "verify",
]

_default = Models()
disk = _default.disk
fit = _default.fit
get = _default.get
import_model = _default.import_model
list = _default.list  # noqa: A001 - `lab.models.list()` is what users call it by
plan_removal = _default.plan_removal
quantization_types = _default.quantization_types
quantize = _default.quantize
remove = _default.remove
show = _default.show
stored = _default.stored
verify = _default.verify
