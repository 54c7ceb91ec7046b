"""Starting, opening and listing runs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from noa_lab._version import __version__
from noa_lab.errors import BadInput, RunBusy, UnknownName
from noa_lab.experiments._run import Run
from noa_lab.experiments.execution._answers import check_scorers
from noa_lab.experiments.execution._budget import Budget
from noa_lab.experiments.execution._identity import IdentityFor, identities_of
from noa_lab.experiments.execution._runner import live_runner
from noa_lab.experiments.execution._wish import EXECUTORS, EngineFor, Hindrance, Requested
from noa_lab.experiments.grading import check_graders
from noa_lab.experiments.grid._cells import execution_order
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.store._store import Store
from noa_lab.tables import TableList

__all__ = ["RunList", "RunSummary", "list_runs", "open_run", "start"]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list.

    Attributes:
        run_id: Its id.
        name: What it was called; may be empty.
        status: See `RunProgress.status`.
        done: Cells with an answer.
        failed: Cells that ended in an error.
        total: All cells.
        created: ISO 8601, UTC.
        models: References of its models.
        prompts: Names of its prompts.
        executor: The executor that was asked for.
        tags: Its labels.
        note: What was put down about it.
    """

    run_id: str
    name: str
    status: str
    done: int
    failed: int
    total: int
    created: str
    models: tuple[str, ...]
    prompts: tuple[str, ...]
    executor: str = "auto"
    tags: tuple[str, ...] = ()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {name: list(getattr(self, name)) for name in ("models", "prompts", "tags")}


class RunList(TableList[RunSummary]):
    """Runs; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = (
        "Run",
        "Name",
        "Status",
        "Answers",
        "Failed",
        "Created (UTC)",
        "Models",
        "Prompts",
        "Executor",
        "Tags",
        "Note",
    )
    _short = ("Run", "Name", "Status", "Answers", "Created (UTC)", "Prompts")
    _empty = "No runs here: lab.compare(...) starts one."

    def _cells(self, row: RunSummary) -> tuple[object, ...]:
        return (
            row.run_id,
            row.name,
            row.status,
            f"{row.done} of {row.total}",
            row.failed or "",
            row.created[:16].replace("T", " "),
            ", ".join(row.models),
            ", ".join(row.prompts),
            row.executor,
            ", ".join(row.tags),
            row.note,
        )


def start(
    grid: Grid,
    scorers: Sequence[Scorer] = (),
    *,
    store: Store,
    engine_for: EngineFor,
    fresh: bool = False,
    name: str = "",
    identity_for: IdentityFor | None = None,
    executor: Requested = "auto",
    budget: Budget | None = None,
    hindrance: Hindrance | None = None,
) -> Run:
    """Run a grid, in the background.

    The same grid continues its newest run: only what is missing or failed is asked for, and other scorers are applied to the stored
    answers. An edited grid, or a model that has changed since, starts a new run, which takes over the answers to the very same
    questions (same conversation, sampling, seed, repeat and engine) and marks them as `cached`. Everything is checked before anything
    starts.

    Args:
        grid: What to run; it must name its models.
        scorers: How answers are scored.
        store: Where the run is kept.
        engine_for: Opens a model's engine; called model by model.
        fresh: Start another run in any case, and take over nothing.
        name: What to call a new run.
        identity_for: From a model's reference to what is known of it without a server (`model_sha256`, `runtime`). It is kept with a
            new run, which only continues while it stays the same; without it a changed model is noticed when its engine is opened.
        executor: How the cells are asked for, see `ExecutorName`; "auto" takes what is fastest.
        budget: What the run may use up; then it pauses.
        hindrance: Tells what stands against the executor "tree" for a model; without it "auto" never takes that.

    Returns:
        The run; it goes on after this returns.

    Raises:
        BadInput: When the grid names no model, or two scorers have one name.
        TemplateInvalid: When a template uses a variable that an input lacks.
        RunBusy: When another process executes the newest run of this grid.
    """
    if not grid.models:
        raise BadInput(
            "The grid names no model.", fix='Write Grid(..., models=["smollm2-135m"]).', field="models", value=()
        )
    if executor not in EXECUTORS:
        raise UnknownName.among("executor", str(executor), EXECUTORS)
    chosen = tuple(scorers)
    conversations = grid.render()
    check_scorers(chosen, set(grid.fields))
    check_graders(grid, chosen)
    specs = [scorer.spec() for scorer in chosen]
    provenance: dict[str, Any] = {"noa_lab": __version__, "python": platform.python_version(), "engines": {}}
    if identity_for is not None:
        provenance["identities"] = identities_of(grid.models, identity_for)
    run_id, is_new = store.add_run(
        grid,
        execution_order(grid.cells(), conversations),
        name=name,
        scorers=specs,
        provenance=provenance,
        executor=executor,
        fresh=fresh,
        budget=None if budget is None else budget.as_dict(),
    )
    run = Run(
        store,
        run_id,
        engine_for=engine_for,
        scorers=chosen,
        identity_for=identity_for,
        hindrance=hindrance,
        grid=grid,
        conversations=conversations,
    )
    if not is_new and run.scorer_specs != specs:
        _rescore(run, store, chosen)
    run.resume()
    return run


def _rescore(run: Run, store: Store, scorers: Sequence[Scorer]) -> None:
    """Score a run anew that is there already."""
    if live_runner(store, run.run_id) is not None:
        raise RunBusy(
            f"The run {run.run_id} is under way with other scorers.",
            fix="Wait for it or cancel it; its answers are then scored anew.",
            run_id=run.run_id,
            pid=None,
        )
    run.rescore(scorers)


def open_run(
    store: Store,
    run_id: str,
    engine_for: EngineFor | None = None,
    scorers: Sequence[Scorer] | None = None,
    identity_for: IdentityFor | None = None,
    hindrance: Hindrance | None = None,
) -> Run:
    """A run by its id.

    Args:
        store: Where it is.
        run_id: Its id.
        engine_for: Opens a model's engine; without it the run can be read but not resumed.
        scorers: How a resumed run scores; default: as it was started with.
        identity_for: What a model is now, see `start`; a run is not resumed on a model that has changed.
        hindrance: What stands against the executor "tree", see `start`.

    Raises:
        UnknownName: When there is no such run; the nearest id is offered.
    """
    return Run(store, run_id, engine_for=engine_for, scorers=scorers, identity_for=identity_for, hindrance=hindrance)


def list_runs(store: Store, *, tag: str | None = None, deleted: bool = False) -> RunList:
    """All runs, newest first.

    Args:
        store: Where they are.
        tag: Only those with this label.
        deleted: Those in the bin instead.
    """
    return RunList(
        RunSummary(
            run_id=row["run_id"],
            name=row["name"],
            status=row["status"],
            done=row["done"],
            failed=row["failed"],
            total=row["total"],
            created=datetime.fromtimestamp(row["created"], UTC).isoformat(timespec="seconds"),
            models=tuple(row["models"]),
            prompts=tuple(row["prompts"]),
            executor=row["executor"],
            tags=tuple(row["tags"]),
            note=row["note"],
        )
        for row in store.runs(deleted=deleted)
        if tag is None or tag in row["tags"]
    )
