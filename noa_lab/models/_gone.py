"""Models whose files are gone: links of the models folder that lead nowhere, and what is remembered of files elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from noa_lab.models._file import ModelFile, ModelMetadata, ModelPart
from noa_lab.models._record import record_elsewhere
from noa_lab.models._reference import LocalPath, parse_reference
from noa_lab.models._split import whole_name
from noa_lab.paths import Home

__all__ = ["broken_links", "gone_elsewhere", "gone_model"]


def broken_links(home: Home) -> dict[str, Path]:
    """Links of the models folder whose files are gone, by the name of the model; of a split model the first of them."""
    found: dict[str, Path] = {}
    for path in sorted([*home.models.glob("*.gguf"), *home.models.glob("*/*.gguf")]):
        if path.is_symlink() and not path.exists():
            found.setdefault(whole_name(path.name), path)
    return found


def gone_elsewhere(home: Home) -> Iterator[ModelFile]:
    """Models that were used where they lay, are remembered, and have a file that is there no more."""
    for record in sorted((home.models / ".elsewhere").glob("*.json")):
        try:
            model = ModelFile.from_record(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if record == record_elsewhere(model.path, home) and not all(file.exists() for file in model.files):
            yield model


def gone_model(ref: str, home: Home) -> ModelFile | None:
    """A model whose file is gone, by its name in the models folder or its path elsewhere; None where there is none."""
    place = broken_links(home).get(ref)
    if place is not None:
        return _of_links(ref, place, home)
    reference = parse_reference(ref)
    if not isinstance(reference, LocalPath):
        return None
    return next((model for model in gone_elsewhere(home) if reference.path.absolute() in model.files), None)


def _of_links(name: str, place: Path, home: Home) -> ModelFile:
    """What is left of a model that is nothing but links to files that are gone."""
    files = [place] if place.parent == home.models else sorted(place.parent.glob("*.gguf"))
    parts = tuple(ModelPart(file, "", 0) for file in files)
    nothing = ModelMetadata("", "", 0, 0, 0, 0, 0, 0, 0, "", None, 0)
    source = str(place.readlink())
    return ModelFile(name, files[0], "", 0, source, verified=False, metadata=nothing, parts=parts)
