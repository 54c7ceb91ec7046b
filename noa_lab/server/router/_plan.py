"""What a router is to do: worked out by who starts it, written to a file in its folder, read by its process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from noa_lab.models import ModelFile
from noa_lab.runtime import Runtime
from noa_lab.server._log_settings import LogSettings
from noa_lab.server._settings import ServerSettings
from noa_lab.server.router._schedule import Policy

__all__ = ["PlannedModel", "RouterPlan"]


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model behind the router.

    Attributes:
        file: The model; `file.name` is what requests call it.
        settings: How its server is run.
        tags: Tasks that requests may ask for instead of its name.
        pinned: Whether it stays once it is loaded.
        predicted_bytes: Memory that it will take, before it was measured.
    """

    file: ModelFile
    settings: ServerSettings
    tags: tuple[str, ...] = ()
    pinned: bool = False
    predicted_bytes: int = 0

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.file.name


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """Everything that the router's process needs; no secret is in it.

    Attributes:
        home: The home, where the models' servers are.
        runtime: The llama.cpp that serves them.
        models: The models, in server.yaml's order.
        default: Name of the model for requests that name none.
        policy: How they share the machine.
        sampling: Values for requests that leave them out, by the names of `InferenceConfig`.
        host: Address of the endpoint.
        port: Its port; 0: one that the system chooses.
        allow_remote: Whether other machines may reach it.
        logging: What is written down of the router and of the models' servers, and where.
    """

    home: str
    runtime: Runtime
    models: tuple[PlannedModel, ...]
    default: str
    policy: Policy
    sampling: Mapping[str, Any]
    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    logging: LogSettings = field(default_factory=LogSettings)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(one.name for one in self.models)

    def resolve(self, wanted: str) -> str | None:
        """The model that a name or a task tag means: a name first, else the first model with the tag; None: neither."""
        if wanted in self.names:
            return wanted
        return next((one.name for one in self.models if wanted in one.tags), None)

    @property
    def fingerprint(self) -> str:
        """Equal for two plans that one router can serve."""
        same = {name: value for name, value in self.as_dict().items() if name != "home"}
        same["runtime"] = self.runtime.id
        for one in same["models"]:
            del one["predicted_bytes"]  # it changes with every load that is remembered
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `from_dict` makes the same plan of it."""
        models = [
            {
                "file": one.file.to_record(),
                "settings": one.settings.model_dump(mode="json", exclude_unset=True),
                "tags": list(one.tags),
                "pinned": one.pinned,
                "predicted_bytes": one.predicted_bytes,
            }
            for one in self.models
        ]
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        made = {"runtime": self.runtime.as_dict(), "models": models, "policy": asdict(self.policy)}
        return plain | made | {"logging": self.logging.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RouterPlan:
        """The plan of which `as_dict` gave `data`."""
        runtime = dict(data["runtime"])
        for each in fields(Runtime):
            if isinstance(runtime.get(each.name), list):
                runtime[each.name] = tuple(runtime[each.name])
        models = tuple(
            PlannedModel(
                file=ModelFile.from_record(one["file"]),
                settings=ServerSettings(**one["settings"]),
                tags=tuple(one["tags"]),
                pinned=one["pinned"],
                predicted_bytes=one["predicted_bytes"],
            )
            for one in data["models"]
        )
        made = {"runtime": Runtime(**runtime | {"folder": Path(runtime["folder"])}), "models": models}
        bounds = {"policy": Policy(**data["policy"]), "logging": LogSettings(**data["logging"])}
        return cls(**{**data, **made, **bounds})
