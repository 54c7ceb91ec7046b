"""What is on record about a run, whether it is executed or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from noa_lab.experiments._run_findings import RunFindings
from noa_lab.experiments.execution._plan import Plan
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.store._labels import add_tags, remove_tags, set_note, tags_of
from noa_lab.experiments.store._store import Store

__all__ = ["RunRecord"]


class RunRecord(RunFindings):
    """A run as the store knows it: its grid, its plan, where its answers come from, and what people say about it.

    Args:
        store: Where it is.
        run_id: Its id.
        grid: What it runs, where that is at hand; else it is read when it is needed.

    Raises:
        UnknownName: When there is no such run.
    """

    def __init__(self, store: Store, run_id: str, grid: Grid | None = None) -> None:
        self.run_id = run_id
        self._store = store
        row = store.run(run_id)
        self.name: str = row["name"]
        self._created: float = row["created"]
        self._grid = grid

    @property
    def grid(self) -> Grid:
        """What it runs."""
        if self._grid is None:
            self._grid = self._store.grid(self.run_id)
        return self._grid

    @property
    def created(self) -> str:
        """When it was made: ISO 8601, UTC."""
        return datetime.fromtimestamp(self._created, UTC).isoformat(timespec="seconds")

    @property
    def prompts(self) -> list[str]:
        """Names of its prompts, in the grid's order."""
        return list(self.grid.prompts)

    @property
    def models(self) -> list[str]:
        """References of its models."""
        return list(self.grid.models)

    @property
    def scorers(self) -> list[str]:
        """Names of the scorers whose scores it holds."""
        return [str(spec["name"]) for spec in self.scorer_specs]

    @property
    def scorer_specs(self) -> list[dict[str, Any]]:
        """The specifications of these scorers."""
        return list(self._store.run(self.run_id)["scorers"])

    @property
    def provenance(self) -> dict[str, Any]:
        """What its answers depend on beside the grid: noa_lab's version and, by model, what served it."""
        return dict(self._store.run(self.run_id)["provenance"])

    @property
    def executor(self) -> str:
        """The executor that was asked for; "auto" where the choice was left open. `plan` says which it became."""
        return str(self._store.run(self.run_id)["executor"])

    @property
    def plan(self) -> list[Plan]:
        """How the answers are asked for and what the prompts share, model by model, as far as that is known yet."""
        kept = self.provenance
        chosen: Mapping[str, Mapping[str, Any]] = kept.get("executors", {})
        plans = kept.get("plans", {})
        return [
            Plan.from_dict(plans[model]) if model in plans else Plan(model, **chosen.get(model, {}))
            for model in self.models
        ]

    @property
    def tags(self) -> list[str]:
        """Its labels, sorted; see `tag` and `untag`."""
        return tags_of(self._store, self.run_id)

    def tag(self, *names: str) -> None:
        """Give it labels; one that it has already is fine."""
        add_tags(self._store, self.run_id, names)

    def untag(self, *names: str) -> None:
        """Take labels off it; one that it does not have is fine."""
        remove_tags(self._store, self.run_id, names)

    @property
    def note(self) -> str:
        """What there is to say about it; assign to it to put something down."""
        return str(self._store.run(self.run_id)["note"])

    @note.setter
    def note(self, text: str) -> None:
        set_note(self._store, self.run_id, text)
