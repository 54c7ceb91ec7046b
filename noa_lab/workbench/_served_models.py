"""What a model's name means: the entry of server.yaml, else the catalogue, a reference or a path."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from noa_lab.events import CancelToken, Progress, Report, silent

if TYPE_CHECKING:
    from noa_lab.models import ModelFile, Models
    from noa_lab.server.config import ServerConfig

__all__ = ["get_model", "resolve_model"]


def get_model(
    config: ServerConfig, ref: str, models: Models, *, report: Report = silent, cancel: CancelToken | None = None
) -> ModelFile:
    """The model, fetched first if it is not here yet; one of server.yaml is called as it is called there.

    Raises:
        ConfigInvalid: When server.yaml names a file that is not there, and the catalogue has no model of that name.
        NoaLabError: As `Models.get`.
    """
    from noa_lab.server.config import find_model

    entry = config.entry(ref)
    if entry is None:
        return models.get(ref, report=report, cancel=cancel)
    place = find_model(config, entry, models)
    if place.note:
        report(Progress("Find the model", place.note, finished=True))
    return replace(models.get(place.reference, report=report, cancel=cancel), name=entry.name)


def resolve_model(config: ServerConfig, ref: str, models: Models) -> str:
    """What `Models.get` takes for this name; nothing is fetched.

    Raises:
        ConfigInvalid: As `get_model`.
        UnknownModel: When it names nothing.
    """
    from noa_lab.server.config import find_model

    entry = config.entry(ref)
    if entry is not None:
        return find_model(config, entry, models).reference
    models.resolve(ref)
    return ref
