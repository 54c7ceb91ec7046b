"""What a run's models are, known without a server: answers of one file are never shown as those of another under the same name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noa_lab.errors import ExperimentError

__all__ = ["IdentityFor", "changed_names", "changes", "identities_of", "recorded", "refuse_changes"]

IdentityFor = Callable[[str], Mapping[str, Any]]
"""From a model's reference to what it is: `model_sha256`, `runtime`; what is not known is left out.

Called whenever a run is started or resumed.
"""


def identities_of(models: Iterable[str], identity_for: IdentityFor | None) -> dict[str, Any]:
    """What each model is now, as JSON data; empty where nobody can tell."""
    if identity_for is None:
        return {}
    found: dict[str, Any] = json.loads(json.dumps({model: dict(identity_for(model)) for model in models}, default=str))
    return found


def recorded(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run has kept of each of its models; an engine's word for the file counts where nothing was known before it was opened."""
    found: dict[str, dict[str, Any]] = {
        model: {"model_sha256": engine["model_sha256"]}
        for model, engine in provenance.get("engines", {}).items()
        if engine.get("model_sha256")
    }
    for model, known in provenance.get("identities", {}).items():
        found[model] = {**found.get(model, {}), **known}
    return found


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of what differs, sorted."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[str]]:
    """By model, what of it changed. What one of the two does not know, such as the hash of a file not yet fetched, is no change."""
    found = {}
    for model in before.keys() & now.keys():
        then, today = before[model], now[model]
        changed = sorted(
            name for name in then if None not in (then[name], today.get(name)) and then[name] != today[name]
        )
        if changed:
            found[model] = changed
    return found


def refuse_changes(run_id: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that the models are those that a run began with.

    Raises:
        ExperimentError: When one is another by now.
    """
    for model, changed in changes(before, now).items():
        raise ExperimentError(
            f"The model {model!r} is not what it was when the run {run_id} began: {', '.join(changed)} changed.",
            fix="Start the comparison again: that begins a new run. One run does not mix answers of two models.",
            run_id=run_id,
            model=model,
            changed=changed,
        )
