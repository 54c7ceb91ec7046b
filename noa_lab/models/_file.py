"""A GGUF file on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["ModelFile", "ModelMetadata"]


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
class ModelFile:
    """A verified model: its bytes are on disk and its header was read.

    Attributes:
        name: Catalogue name, or the file's name without ".gguf".
        path: Where the bytes are.
        sha256: Hash of the whole file; "" where it was never computed.
        size_bytes: Size of the file.
        source: Where it came from, as a reference ("pypi://...", "hf://...", a path).
        verified: Whether `sha256` was compared with a known one.
        metadata: What its header says.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    source: str
    verified: bool
    metadata: ModelMetadata

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; the chat template is left out for length."""
        data = asdict(self)
        data["path"] = str(self.path)
        data["metadata"]["chat_template"] = self.metadata.chat_template is not None
        return data
