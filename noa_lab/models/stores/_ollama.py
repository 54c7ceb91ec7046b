"""Ollama's store: manifests by name, and blobs by their sha256.

Nothing in a manifest becomes part of a path but a digest of 64 hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noa_lab.models.stores._stored import StoredModel

__all__ = ["models_of_ollama", "ollama_folders"]

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MODEL = "application/vnd.ollama.image.model"
_MOST_MANIFESTS = 2000
_MOST_MANIFEST_BYTES = 2**20
_DEFAULT_HOST, _DEFAULT_OWNER = "registry.ollama.ai", "library"


def ollama_folders(home: Path) -> list[Path]:
    """Where Ollama keeps its models: OLLAMA_MODELS, the user's folder, and that of its service on Linux.

    Args:
        home: The user's home folder.
    """
    named = os.environ.get("OLLAMA_MODELS")
    folders = [Path(named)] if named else []
    folders += [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    return [folder for folder in dict.fromkeys(folders) if (folder / "manifests").is_dir()]


def models_of_ollama(home: Path) -> list[StoredModel]:
    """The models of Ollama that are one GGUF file each."""
    found = [model for folder in ollama_folders(home) for model in _models_in(folder)]
    return sorted(found, key=lambda model: model.name)


def _models_in(folder: Path) -> Iterator[StoredModel]:
    manifests = folder / "manifests"
    for number, path in enumerate(sorted(manifests.glob("*/*/*/*"))):
        if number >= _MOST_MANIFESTS:
            return
        digest = _model_digest(path)
        blob = folder / "blobs" / f"sha256-{digest}"
        try:
            with blob.open("rb") as file:
                usable = bool(digest) and file.read(4) == b"GGUF"
            size = blob.stat().st_size
        except OSError:
            continue
        if usable:
            yield StoredModel("Ollama", _name(path.relative_to(manifests).parts), (blob,), size, digest)


def _model_digest(path: Path) -> str:
    """Digest of the one model layer of a manifest; "" where there is none, or more than one."""
    try:
        if path.stat().st_size > _MOST_MANIFEST_BYTES:
            return ""
        layers: Any = json.loads(path.read_text(encoding="utf-8"))["layers"]
        digests = [layer["digest"] for layer in layers if layer["mediaType"] == _MODEL]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    match = _DIGEST.fullmatch(digests[0]) if len(digests) == 1 and isinstance(digests[0], str) else None
    return match[1] if match is not None else ""


def _name(parts: tuple[str, ...]) -> str:
    """As Ollama shows it: what is usual is left out."""
    host, owner, model, tag = parts
    named = f"{model}:{tag}"
    if owner != _DEFAULT_OWNER or host != _DEFAULT_HOST:
        named = f"{owner}/{named}"
    return f"{host}/{named}" if host != _DEFAULT_HOST else named
