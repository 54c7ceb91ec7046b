"""What a run says at one moment, and the blocks that show it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import NoaLabError
from noa_lab.widgets._job import seconds
from noa_lab.widgets._view import PAGE, Block, Kind, cell, clip, column, progress, section, table, text

if TYPE_CHECKING:
    import pandas as pd

    from noa_lab.experiments import Input, Run
    from noa_lab.inference import InferenceConfig

__all__ = ["RunFacts", "read_run", "run_blocks"]

_ANSWER = 300
_MOST_VERDICTS = 8
_VERDICT_KINDS: dict[str, Kind] = {"better": "ok", "worse": "warn", "same": "info"}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run at one moment, and one page of its answers.

    Attributes:
        run_id: Its id.
        name: What it is called; may be empty.
        status: "pending", "running", "pausing", "paused", "cancelled", "done" or "failed".
        done: Cells that have an answer.
        failed: Cells that failed.
        total: All cells.
        eta_seconds: Time left; None while that is not known.
        error: What ended the run; empty if nothing did.
        prompts: Names of its prompts, the first of which the others are compared with.
        table: The page of answers.
        means: Means by arm; None before the first answer.
        verdicts: Kind and sentence of each verdict.
        graded: Questions to grading models that are answered.
        to_grade: All of them.
        opening: What is done to have the next model answer; empty while nothing is.
    """

    run_id: str
    name: str
    status: str
    done: int
    failed: int
    total: int
    eta_seconds: float | None
    error: str
    prompts: tuple[str, ...]
    table: Block
    means: Block | None
    verdicts: tuple[tuple[Kind, str], ...]
    graded: int = 0
    to_grade: int = 0
    opening: str = ""

    def same_as(self, run: Run, offset: int) -> bool:
        """Whether nothing has changed since: then the answers need not be read again."""
        now = run.progress()
        known = (self.run_id, self.status, self.done, self.failed, self.graded, self.opening, self.table["offset"])
        return known == (run.run_id, now.status, now.done, now.failed, now.graded, now.opening, offset)

    @property
    def running(self) -> bool:
        """Whether it is being worked on."""
        return self.status in {"running", "pausing"}


def read_run(run: Run, offset: int) -> RunFacts:
    """Read a run; on a worker thread, since a long one takes a while."""
    now = run.progress()
    cells = run.cells()
    over = now.status in {"done", "failed"}
    return RunFacts(
        run.run_id,
        run.name,
        now.status,
        now.done,
        now.failed,
        now.total,
        now.eta_seconds,
        now.error,
        tuple(run.prompts),
        _answers(run, cells, offset),
        _means(run, cells) if now.done else None,
        tuple(_verdicts(run)) if over else (),
        now.graded,
        now.to_grade,
        now.opening,
    )


def run_blocks(facts: RunFacts) -> list[Block | None]:
    """Progress, verdicts, means and answers."""
    over = facts.done + facts.failed
    words = f"{over} of {facts.total} answers" + (f", {facts.failed} failed" if facts.failed else "")
    if facts.running and facts.eta_seconds is not None:
        words += f" · about {seconds(facts.eta_seconds)} left"
    if facts.running and facts.opening:
        words += f" · {facts.opening}"
    waiting = (
        text("verdict-wait", "The verdict comes when all answers are in.")
        if facts.running and len(facts.prompts) > 1
        else None
    )
    verdicts = [text(f"verdict{number}", sentence, kind=kind) for number, (kind, sentence) in enumerate(facts.verdicts)]
    grading = f"{facts.graded} of {facts.to_grade} questions to the graders"
    return [
        text("run-error", facts.error, kind="error") if facts.error else None,
        progress("run-progress", "Answers", over / facts.total if facts.total else None, words),
        progress("grading-progress", "Grades", facts.graded / facts.to_grade, grading) if facts.to_grade else None,
        section("verdicts", "Verdict", verdicts) if verdicts else waiting,
        section("means", "Means", [facts.means]) if facts.means else None,
        section("answers", "Answers", [facts.table]),
    ]


def _verdicts(run: Run) -> list[tuple[Kind, str]]:
    try:
        verdicts = run.verdicts()
    except NoaLabError as error:
        return [("info", f"{error.message} {error.fix}")]
    return [(_VERDICT_KINDS.get(each.outcome, "info"), each.sentence) for each in verdicts[:_MOST_VERDICTS]]


def _means(run: Run, cells: pd.DataFrame) -> Block:
    """Mean scores by arm: over the repeats of each input first, then over the inputs."""
    grid, scorers = run.grid, list(run.scorers)
    by = ["prompt", *(["model"] if len(grid.models) > 1 else []), *(["sampling"] if len(grid.sampling) > 1 else [])]
    done = cells[cells["status"] == "done"]
    rows: list[list[str]] = []
    arms: list[tuple[Any, pd.DataFrame]] = list(done.groupby(by, sort=False))
    order = list(grid.prompts)
    for arm, group in sorted(arms, key=lambda pair: order.index(pair[0][0])):
        scores = [group.groupby("input_id")[f"score.{name}"].mean().mean() for name in scorers]
        names = [
            _sampling(grid.sampling[part], grid.sampling) if head == "sampling" else str(part)
            for head, part in zip(by, arm, strict=True)
        ]
        rows.append([*names, str(group["input_id"].nunique()), str(len(group)), *(_number(score) for score in scores)])
    heads = [column(head.capitalize()) for head in by]
    columns = [*heads, *(column(head, align="end") for head in ("Inputs", "Answers", *scorers))]
    return table("means-table", "Means by prompt", columns, rows)


def _answers(run: Run, cells: pd.DataFrame, offset: int) -> Block:
    """One row an input (and model and sampling, where there are several), in the grid's order; one column a prompt."""
    grid, prompts, scorers = run.grid, list(run.prompts), list(run.scorers)
    keys = list(itertools.product(grid.inputs, grid.models, range(len(grid.sampling))))
    shown = keys[offset : offset + PAGE]
    page = cells[cells["input_id"].isin([found.id for found, _, _ in shown])]
    places: dict[Any, pd.DataFrame] = dict(iter(page.groupby(["input_id", "model", "sampling", "prompt"], sort=False)))
    several = (True, len(grid.models) > 1, len(grid.sampling) > 1)
    rows: list[list[str | Block]] = []
    for found, model, sampling in shown:
        names = (_input(found), model, _sampling(grid.sampling[sampling], grid.sampling))
        answers = [_answer(places.get((found.id, model, sampling, prompt)), scorers) for prompt in prompts]
        rows.append([*(clip(name, 160) for name, wanted in zip(names, several, strict=True) if wanted), *answers])
    heads = [head for head, wanted in zip(("Input", "Model", "Sampling"), several, strict=True) if wanted]
    columns = [column(head, wide=head == "Input") for head in heads] + [column(prompt, wide=True) for prompt in prompts]
    return table(
        "answers-table",
        "Answers by input and prompt",
        columns,
        rows,
        offset=offset,
        total=len(keys),
        empty="No answers yet.",
        export=False,  # long answers are cut here; the panel's button saves the whole ones
    )


def _input(found: Input) -> str:
    """An input's id, and the beginning of its first text, by which people know it."""
    first = next(
        (value for name, value in found.variables.items() if isinstance(value, str) and name != "expected"), ""
    )
    return f"{found.id}: {clip(' '.join(first.split()), 90)}" if first else found.id


def _sampling(config: InferenceConfig, every: Sequence[InferenceConfig]) -> str:
    """One of a run's samplings by the fields in which they differ; a run that was stored has all fields set."""
    differ = [
        name
        for name in type(config).model_fields
        if any(getattr(each, name) != getattr(config, name) for each in every)
    ]
    return ", ".join(f"{name} {getattr(config, name)}" for name in differ)


def _answer(cells: pd.DataFrame | None, scorers: Sequence[str]) -> str | Block:
    """The first answer of a place in the grid, with its scores averaged over the repeats."""
    if cells is None:
        return ""
    records = cells.sort_values("repeat").to_dict("records")
    first = next((one for one in records if one["status"] in {"done", "failed"}), records[0])
    if first["status"] not in {"done", "failed"}:
        return cell("", marks=[("busy", str(first["status"]))]) if first["status"] == "running" else ""
    marks: list[tuple[Kind, str]] = []
    if first["status"] == "failed":
        return cell(clip(str(first["error"]), _ANSWER), marks=[("error", "failed")])
    for scorer in scorers:
        values = [
            float(one[f"score.{scorer}"])
            for one in records
            if one["status"] == "done" and _is_number(one.get(f"score.{scorer}"))
        ]
        if values:
            marks.append(_mark(scorer, sum(values) / len(values), len(values)))
    if first["finish_reason"] == "length":
        marks.append(("info", "cut at its length"))
    return cell(clip(str(first["answer"]), _ANSWER), marks=marks)


def _mark(scorer: str, mean: float, repeats: int) -> tuple[Kind, str]:
    if repeats == 1 and mean in {0.0, 1.0}:
        return ("ok", f"{scorer}: yes") if mean else ("error", f"{scorer}: no")
    words = f"{scorer}: {mean:.3g}" + (f" over {repeats} repeats" if repeats > 1 else "")
    return ("ok" if mean == 1.0 else "info"), words


def _is_number(value: Any) -> bool:
    try:
        return value is not None and not math.isnan(float(value))
    except (TypeError, ValueError):
        return False


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
