"""A GGUF file on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from noa_lab.errors import UnknownName

if TYPE_CHECKING:
    from noa_lab.models.memory import Fit

__all__ = ["ModelFile", "ModelMetadata", "ModelPart"]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a GGUF header says.

    Attributes:
        architecture: For example "llama".
        name: The author's name for the model; may be empty.
        parameters: Number of weights, counted from the tensors.
        context_length: Tokens it was trained for.
        layers: Transformer blocks.
        embedding_length: Width of the residual stream.
        heads: Attention heads.
        kv_heads: Key/value heads.
        vocabulary: Tokens in the vocabulary.
        quantization: Commonest tensor type by bytes, for example "Q4_1".
        chat_template: The Jinja text that renders conversations, or None.
        tensors: Number of tensors.
    """

    architecture: str
    name: str
    parameters: int
    context_length: int
    layers: int
    embedding_length: int
    heads: int
    kv_heads: int
    vocabulary: int
    quantization: str
    chat_template: str | None
    tensors: int


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One file of a model that is split into several.

    Attributes:
        path: Where it is.
        sha256: Its hash; "" where it was never computed.
        size_bytes: Its size.
    """

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A verified model: its bytes are on disk and its header was read.

    Attributes:
        name: Catalogue name, or the file's name without ".gguf".
        path: Where the bytes are; of a split model the first part, which is what llama.cpp is given.
        sha256: Hash of the whole file; "" where it was never computed. Of a split model: the hash of its parts' hashes, each as 64
            hexadecimal digits and a line feed, in order.
        size_bytes: Size of the file, or of all parts together.
        source: Where it came from, as a reference ("pypi://...", "hf://...", a path).
        verified: Whether `sha256` was compared with a known one.
        metadata: What its header says.
        parts: Every file of a split model in order; empty for a model in one file.
        parent: Hash of the model that it was quantised from; "" for any other.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    source: str
    verified: bool
    metadata: ModelMetadata
    parts: tuple[ModelPart, ...] = ()
    parent: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the model: its parts, or the one that it is."""
        return tuple(part.path for part in self.parts) or (self.path,)

    def fit(self, **settings: Any) -> Fit:
        """Whether a server with it would fit into the memory that is free now.

        Args:
            settings: As for `lab.models.fit`: context_size, slots, cache_type_k, ...

        Raises:
            BadInput: When a setting is not allowed.
            ModelFileBroken: When the file is gone.
        """
        from noa_lab.models.memory import MemorySettings, fit_of_file
        from noa_lab.paths import Home

        unknown = settings.keys() - {each.name for each in fields(MemorySettings)}
        if unknown:
            raise UnknownName.among("setting", min(unknown), [each.name for each in fields(MemorySettings)])
        return fit_of_file(self, Home.default(), MemorySettings(**settings))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; the chat template is left out for length."""
        data = self.to_record()
        data["metadata"]["chat_template"] = self.metadata.chat_template is not None
        return data

    def to_record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        data = asdict(self)
        data["path"] = str(self.path)
        for part in data["parts"]:
            part["path"] = str(part["path"])
        data["parts"] = list(data["parts"])
        return data

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """The model that `to_record` described; fields that are not known here are passed over.

        Raises:
            KeyError, TypeError: When it is no such description.
        """
        known = {each.name: data[each.name] for each in fields(cls) if each.name not in {"parts", "parent"}}
        header = {each.name: known["metadata"][each.name] for each in fields(ModelMetadata)}
        parts = (ModelPart(Path(part["path"]), part["sha256"], part["size_bytes"]) for part in data.get("parts", ()))
        known |= {"path": Path(known["path"]), "metadata": ModelMetadata(**header)}
        return cls(**known, parts=tuple(parts), parent=data.get("parent", ""))
