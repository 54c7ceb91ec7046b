"""Models: the catalogue, getting them, reading GGUF headers.

A model is one verified file on disk, whatever it came from.
"""

from noa_lab.models._file import ModelFile, ModelMetadata

__all__ = ["ModelFile", "ModelMetadata"]
