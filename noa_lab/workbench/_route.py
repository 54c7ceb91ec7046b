"""Several models behind one address: from server.yaml, or named, to a router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from noa_lab import runtime
from noa_lab.events import CancelToken, Report
from noa_lab.models import catalogue
from noa_lab.workbench._served_models import get_model

if TYPE_CHECKING:
    from noa_lab.models import ModelFile, Models
    from noa_lab.paths import Home
    from noa_lab.server import Router
    from noa_lab.server.config import ModelSection, ServerConfig

__all__ = ["route"]


def route(
    config: ServerConfig,
    names: Sequence[str],
    *,
    home: Home,
    models: Models,
    port: int | None,
    keep: bool,
    report: Report,
    cancel: CancelToken | None,
) -> Router:
    """See `Lab.route`."""
    from noa_lab.server import plan_router, start_router

    current = runtime.current(home)
    wanted = tuple(names) or tuple(one.name for one in config.models) or (models.default,)
    found = [_get(config, name, models, report, cancel) for name in wanted]
    plan = plan_router(
        config.with_models(tuple(entry for entry, _ in found)),
        home=home,
        runtime=current,
        files=[file for _, file in found],
        tags={entry.name: entry.tags for entry in catalogue(home)},
        memory_bytes=runtime.machine().memory_bytes,
        port=port,
    )
    return start_router(plan, home=home, keep=keep, report=report, cancel=cancel)


def _get(
    config: ServerConfig, name: str, models: Models, report: Report, cancel: CancelToken | None
) -> tuple[ModelSection, ModelFile]:
    """The entry of a model, made up where the file has none, and its file under the entry's name."""
    from noa_lab.server.config import ModelSection

    file = get_model(config, name, models, report=report, cancel=cancel)
    entry = config.entry(name)
    if entry is None:
        entry = ModelSection.named(file.name)
    return entry, replace(file, name=entry.name)
