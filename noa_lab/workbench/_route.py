"""Several models behind one address: from server.yaml, or named, to a router."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from noa_lab import runtime
from noa_lab.errors import BadInput
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
    keep: bool,
    settings: Mapping[str, Any],
    report: Report,
    cancel: CancelToken | None,
) -> Router:
    """See `Lab.route`."""
    from noa_lab.server import plan_router, start_router

    current = runtime.current(home)
    wanted = tuple(names) or tuple(one.name for one in config.models) or (models.default,)
    found: list[tuple[ModelSection, ModelFile]] = []
    for name in wanted:
        found.append(_apart(name, *_get(config, name, models, report, cancel), found))
    plan = plan_router(
        config.with_models(tuple(entry for entry, _ in found)),
        home=home,
        runtime=current,
        files=[file for _, file in found],
        tags={entry.name: entry.tags for entry in catalogue()},
        memory_bytes=runtime.free_memory().total_bytes,
        call=settings,
    )
    router = start_router(plan, home=home, keep=keep, report=report, cancel=cancel)
    router.sampling = config.inference
    return router


def _apart(
    given: str, entry: ModelSection, file: ModelFile, others: Sequence[tuple[ModelSection, ModelFile]]
) -> tuple[ModelSection, ModelFile]:
    """The model under a name that no other one has.

    Raises:
        BadInput: When it is there already.
    """
    taken = {other.name: known for other, known in others}
    known = taken.get(entry.name)
    if known is None:
        return entry, file
    if known.path.samefile(file.path):
        raise BadInput(
            f"{given!r} is the model {entry.name!r}, which is there already.",
            fix="Name each model once.",
            field="models",
            value=given,
        )
    name = next(free for number in itertools.count(2) if (free := f"{entry.name}-{number}") not in taken)
    return entry.model_copy(update={"name": name}), replace(file, name=name)


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
