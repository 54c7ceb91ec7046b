"""From a configuration to what a router has to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.server.config._sections import ADDRESS_FIELDS, SAMPLING
from noa_lab.server.router._memory import predicted_bytes
from noa_lab.server.router._plan import PlannedModel, RouterPlan
from noa_lab.server.router._schedule import Policy

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime
    from noa_lab.server.config import ServerConfig

__all__ = ["plan_router"]


def plan_router(
    config: ServerConfig,
    *,
    home: Home,
    runtime: Runtime,
    files: Sequence[ModelFile],
    tags: Mapping[str, Sequence[str]],
    memory_bytes: int,
    call: Mapping[str, Any] | None = None,
) -> RouterPlan:
    """What a router for this configuration has to do.

    Args:
        config: The configuration.
        home: Where the models' servers are.
        runtime: The llama.cpp that serves them.
        files: The configuration's models, in its order and under its names.
        tags: The catalogue's task tags by name of the model, for entries without tags of their own.
        memory_bytes: Memory of this machine.
        call: Fields of `ServerSettings` that stand above the configuration: of the endpoint's address, and of every model's server.

    Raises:
        BadInput: When there are no models, or the call's values are wrong.
        ModelFileBroken: When a model's file cannot be read.
    """
    default = config.default
    if not files or default is None:
        raise BadInput(
            "There are no models to serve.",
            fix="List some under `models` in server.yaml, or name them.",
            field="models",
            value=[],
        )
    call = call or {}
    config = config.with_address(**{name: value for name, value in call.items() if name in ADDRESS_FIELDS})
    shared = {name: value for name, value in call.items() if name not in ADDRESS_FIELDS}
    planned = []
    for file in files:
        entry, settings = config.entry(file.name), config.settings(file.name, **shared)
        own = entry.tags if entry is not None else None
        chosen = tuple(own if own is not None else tags.get(file.name, ()))
        pinned = entry is not None and entry.pinned
        planned.append(PlannedModel(file, settings, chosen, pinned, predicted_bytes(file, settings, home)))
    bounds = config.router
    return RouterPlan(
        home=str(home.root),
        runtime=runtime,
        models=tuple(planned),
        default=default.name,
        policy=Policy(
            budget_bytes=bounds.budget_bytes(memory_bytes),
            max_overtaken=bounds.max_overtaken,
            max_wait_seconds=bounds.max_wait_seconds,
            idle_seconds=bounds.idle_seconds,
            max_waiting=bounds.max_waiting,
        ),
        sampling=config.inference.model_dump(mode="json", include=set(SAMPLING)),
        host={"localhost": "127.0.0.1"}.get(config.server.host, config.server.host),
        port=config.server.port,
        allow_remote=config.server.allow_remote,
        logging=config.log_settings,
    )
