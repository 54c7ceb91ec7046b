"""Which answers still have to be graded, and by which model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noa_lab.errors import UnknownName
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._judge import BASELINE_SCORE
from noa_lab.experiments.score._model import Case, ModelScorer
from noa_lab.experiments.score._specs import asks_model
from noa_lab.experiments.store._store import Store

__all__ = ["Task", "check_graders", "grader_models", "is_graded", "kept_grades", "open_tasks", "settled_grades"]

Row = Mapping[str, Any]
Scores = dict[str, dict[str, Any]]


@dataclass(slots=True, eq=False)
class Task:
    """One question to a grader.

    Attributes:
        scorer: Who asks.
        model: Reference of the model that is asked.
        case: What is asked about.
        cells: Ids of the cells that it is about: equal answers to one question are graded once.
        tries: How often the model went away under it.
    """

    scorer: ModelScorer
    model: str
    case: Case
    cells: list[str] = field(default_factory=list)
    tries: int = 0


def _graders(scorers: Iterable[Scorer]) -> list[ModelScorer]:
    return [scorer for scorer in scorers if isinstance(scorer, ModelScorer)]


def grader_models(scorers: Iterable[Scorer]) -> list[str]:
    """References of the models that scorers name."""
    return list(dict.fromkeys(scorer.model for scorer in _graders(scorers) if scorer.model))


def check_graders(grid: Grid, scorers: Iterable[Scorer]) -> None:
    """Make sure that judges compare with a prompt that there is.

    Raises:
        UnknownName: When one does not.
    """
    for scorer in _graders(scorers):
        over = getattr(scorer, "over", "")
        if over and over not in grid.prompts:
            raise UnknownName.among("prompt", over, grid.prompts, where=f"over= of the scorer {scorer.name!r}")


def kept_grades(before: Sequence[Row], scorers: Iterable[Scorer], scores: Mapping[str, Row] | None) -> Scores:
    """The grades of an answer that stay when the scorers of a run change: those of graders that stay the same.

    Args:
        before: Specifications of the scorers so far.
        scorers: The scorers from now on.
        scores: The answer's scores so far.
    """
    same = [scorer.name for scorer in _graders(scorers) if scorer.spec() in before]
    return {name: dict(scores[name]) for name in same if scores and name in scores}


def is_graded(store: Store, run_id: str, specs: Iterable[Row]) -> bool:
    """Whether no answer of a run waits for a grade.

    Args:
        store: Where the run is.
        run_id: The run.
        specs: Specifications of its scorers.
    """
    names = [str(spec["name"]) for spec in specs if asks_model(spec)]
    if not names:
        return True
    rows = store.cells(run_id)
    return all(_has_grade(row, name) for row in rows if row["status"] == "done" for name in names)


def _has_grade(row: Row, name: str) -> bool:
    found = (row["scores"] or {}).get(name)
    return found is not None and not found.get("lost")


def open_tasks(
    grid: Grid, conversations: Conversations, scorers: Iterable[Scorer], rows: Sequence[Row]
) -> tuple[list[Task], dict[str, Scores]]:
    """What is left to be graded.

    Args:
        grid: The run's grid.
        conversations: Its conversations.
        scorers: Its scorers.
        rows: Its cells.

    Returns:
        The questions, those of one model after each other; and, by cell id, the grades that need no question.
    """
    done = {_place(row): row for row in rows if row["status"] == "done"}
    variables = {found.id: found.variables for found in grid.inputs}
    tasks: dict[tuple[Any, ...], Task] = {}
    settled: dict[str, Scores] = {}
    for scorer in _graders(scorers):
        over = getattr(scorer, "over", "") or next(iter(grid.prompts))
        for place, row in done.items():
            if _has_grade(row, scorer.name):
                continue
            prompt, *rest = place
            other = done.get((over, *rest)) if scorer.compares else None
            grade = settled_grades(scorer, prompt == over, other is not None)
            if grade is not None:
                settled.setdefault(row["cell_id"], {})[scorer.name] = grade
                continue
            model = scorer.model or row["model"]
            against = None if other is None else str(other["answer"])
            facts = {name: row[name] for name in ("finish_reason", "completion_tokens")}
            case = Case(
                str(row["answer"]),
                {**variables[row["input_id"]], **facts},
                conversations[prompt, row["input_id"]],
                against,
            )
            key = (scorer.name, model, prompt, row["input_id"], case.answer, against)
            tasks.setdefault(key, Task(scorer, model, case)).cells.append(row["cell_id"])
    order = {model: number for number, model in enumerate(dict.fromkeys(task.model for task in tasks.values()))}
    return sorted(tasks.values(), key=lambda task: order[task.model]), settled


def _place(row: Row) -> tuple[Any, ...]:
    return row["prompt"], row["input_id"], row["model"], row["sampling"], row["repeat"]


def settled_grades(scorer: ModelScorer, is_baseline: bool, has_other: bool) -> dict[str, Any] | None:
    """The grade of an answer for which no model has to be asked; None where one has to be."""
    if not scorer.compares:
        return None
    if is_baseline:
        return {"value": BASELINE_SCORE, "error": None}
    if not has_other:
        return {"value": None, "error": "The baseline has no answer to this input.", "lost": True}
    return None
