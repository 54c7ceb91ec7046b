"""What is in effect, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from noa_lab.errors import NoaLabError
from noa_lab.server.config._model_places import find_model
from noa_lab.server.tuning._tuned import find_tuned

if TYPE_CHECKING:
    from noa_lab.models import Models
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime
    from noa_lab.server._settings import ServerSettings
    from noa_lab.server.config._config import ServerConfig
    from noa_lab.server.config._sections import ModelSection

__all__ = ["ModelPlace", "Value", "machine_notes", "model_places", "values"]

DEFAULT = "default"
_FIRST = ("name", "path", "host", "port")


@dataclass(frozen=True, slots=True)
class Value:
    """One value in effect.

    Attributes:
        key: Its place, for example "server.port".
        value: The value; None where it is measured on this machine later.
        origin: Where it comes from: "FILE, line N", an environment variable, or "default".
    """

    key: str
    value: Any
    origin: str

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """One model of the configuration on this machine.

    Attributes:
        name: Its name.
        reference: Its file, or by what it is got.
        installed: Whether its bytes are here.
        default: Whether it answers requests that name no model.
        pinned: Whether it stays once it is loaded.
        tags: Tasks that requests may ask for instead of its name.
        settings: How its server is run, with what is measured filled in where the model and llama.cpp are here.
        origins: Where each setting comes from.
        notes: In words, what this machine or llama.cpp cannot honour, and what else is to be said.
        error: Why it cannot be served; empty where it can.
    """

    name: str
    reference: str = ""
    installed: bool = False
    default: bool = False
    pinned: bool = False
    tags: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def values(config: ServerConfig) -> list[Value]:
    """Every value of the configuration in the file's order; of the models those that are written."""
    found: list[Value] = []
    for name in type(config.sections).model_fields:
        part = getattr(config.sections, name)
        if isinstance(part, BaseModel):
            found += _values_of(config, part, (name,), everything=True)
        for index, entry in enumerate(part if isinstance(part, tuple) else ()):
            found += _values_of(config, entry, (name, index), everything=False)
    return found


def _values_of(config: ServerConfig, part: BaseModel, path: tuple[str | int, ...], *, everything: bool) -> list[Value]:
    found = []
    for key in sorted(type(part).model_fields, key=lambda name: name not in _FIRST):
        given = key in part.model_fields_set
        if given or everything:
            origin = config.document.source((*path, key)) if given else DEFAULT
            found.append(Value(".".join(map(str, (*path, key))), getattr(part, key), origin))
    return found


def model_places(config: ServerConfig, models: Models, home: Home, runtime: Runtime | None) -> list[ModelPlace]:
    """Each model: where it is, and how it is run here.

    Args:
        config: The configuration.
        models: The models of this home.
        home: The home, for what `noa-lab tune` has found.
        runtime: llama.cpp; None where it is not installed.
    """
    return [_model_place(config, entry, models, home, runtime) for entry in config.models]


def _model_place(
    config: ServerConfig, entry: ModelSection, models: Models, home: Home, runtime: Runtime | None
) -> ModelPlace:
    chosen = config.settings(entry.name)
    facts: dict[str, Any] = {
        "name": entry.name,
        "default": entry is config.default,
        "pinned": entry.pinned,
        "tags": entry.tags or (),
        "settings": chosen.model_dump(mode="json"),
        "origins": _origins(config, entry, chosen),
    }
    try:
        place = find_model(config, entry, models)
        model = models.find(place.reference)
    except NoaLabError as error:
        return ModelPlace(**facts, error=error.message)
    notes: tuple[str, ...] = (place.note,) if place.note else ()
    if model is None and runtime is not None and runtime.backend == "cpu" and chosen.gpu_layers:
        notes += (f"gpu_layers {chosen.gpu_layers} has no effect: runtime {runtime.id} is built for the CPU alone.",)
    if model is not None and runtime is not None:
        resolved = chosen.resolved(runtime, model, find_tuned(home, runtime, model))
        facts["settings"] = resolved.settings.model_dump(mode="json")
        facts["origins"] |= {name: said for name, said in resolved.origins.items() if said not in ("given", DEFAULT)}
        notes += resolved.notes
    reference = place.reference if model is None else str(model.path)
    return ModelPlace(**facts, reference=reference, installed=model is not None, notes=notes)


def _origins(config: ServerConfig, entry: ModelSection, chosen: ServerSettings) -> dict[str, str]:
    index = config.models.index(entry)
    found = {}
    for name in type(chosen).model_fields:
        own = name in entry.model_fields_set
        path: tuple[str | int, ...] = ("models", index, name) if own else ("server", name)
        given = own or name in chosen.model_fields_set
        found[name] = config.document.source(path) if given else DEFAULT
    return found


def machine_notes(config: ServerConfig, cores: int) -> list[str]:
    """What is asked of this machine that it does not have, whatever the model.

    Args:
        config: The configuration.
        cores: Cores that this process may use.
    """
    sections = (("server", config.server), *((f"models.{one.name}", one) for one in config.models))
    return [
        f"{place}.threads {section.threads} is more than the {cores} cores of this machine, and slower."
        for place, section in sections
        if section.threads is not None and section.threads > cores
    ]
