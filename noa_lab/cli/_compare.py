"""`noa-lab compare` and `noa-lab runs`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table, say
from noa_lab.errors import BadInput, RunBusy, UnknownName
from noa_lab.events import Progress
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.experiments import Grid, Run

POLL_SECONDS = 0.2
ANSWER_WIDTH = 36
NAME_WIDTH = 24
NEWEST = "newest"
SHARES = ("cached_share", "share_ms")
"""Columns that say how the machine was shared, not how the prompts differ; the report explains them."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--resume", is_flag=False, flag_value=NEWEST, help="Continue this run (without an id: the newest of FILE)."
)
@click.option("--fresh", is_flag=True, help="Start another run; reuse no answer.")
@click.option(
    "--margin", type=float, help="Difference that counts as none in the verdict, for example 0.1 (default: the file's)."
)
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def compare(
    file: Path, resume: str | None, fresh: bool, margin: float | None, html: Path | None, as_json: bool
) -> None:
    """Run the comparison in FILE, print the answers and the verdict; the same file again continues its newest run."""
    from noa_lab import experiments

    if resume is not None and fresh:
        raise BadInput("--resume and --fresh exclude each other.", fix="Choose one.", field="--fresh", value=True)
    lab = Lab()
    comparison = experiments.load_comparison(file)
    try:
        if resume is not None:
            run = _resumed(lab, comparison.grid, file, resume)
        else:
            run = lab.compare(comparison.grid, comparison.scorers, fresh=fresh, name=comparison.name)
    except RunBusy as error:
        run_id = error.fields.get("run_id")
        fix = f"Look at it with `noa-lab runs show {run_id}`, or start another with --fresh."
        raise RunBusy(error.message, fix=fix, **error.fields) from None
    _follow(run, file)
    _show(run, comparison.margin if margin is None else margin, html, as_json=as_json)
    if run.progress().failed or run.status != "done":
        sys.exit(1)


def _resumed(lab: Lab, grid: Grid, file: Path, run_id: str) -> Run:
    """The run to continue, continued; it must be a run of this file's grid."""
    wanted = grid.with_default_model(lab.models.default).hash
    known = [summary.run_id for summary in lab.runs()]
    if run_id == NEWEST:
        found = next((run for run in map(lab.open_run, known) if run.grid.hash == wanted), None)
        if found is None:
            message = f"There is no run of {file} to continue."
            raise BadInput(message, fix="Start one without --resume.", field="--resume", value=None)
        run_id = found.run_id
    if run_id not in known:
        raise UnknownName.among("run", run_id, known)
    run = lab.open_run(run_id)
    if run.grid.hash != wanted:
        raise BadInput(
            f"{run_id} is not a run of {file} as it is now.",
            fix=f"Leave --resume out to run the file, or see that run with `noa-lab runs show {run_id}`.",
            field="--resume",
            value=run_id,
        )
    run.resume()
    return run


def _follow(run: Run, file: Path) -> None:
    """Wait for a run, drawing its progress; Ctrl-C pauses it, so that nothing finished is lost."""
    if not run.running and run.status == "done":
        click.echo(
            f"· {run.run_id} of {run.created} is complete: nothing is asked again (--fresh starts another)", err=True
        )
        return
    draw = TerminalReport()
    step = f"Comparison {run.run_id}"
    try:
        while run.running:
            now = run.progress()
            message = f"{now.failed} failed" if now.failed else ""
            if now.to_grade:
                draw(Progress(f"Grading {run.run_id}", message, done=now.graded, total=now.to_grade, unit="questions"))
            else:
                draw(Progress(step, message, done=now.done + now.failed, total=now.total, unit="cells"))
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        run.pause()
        click.echo(f"\nPaused. Continue with: noa-lab compare {file} --resume {run.run_id}", err=True)
        raise
    now = run.progress()
    draw(Progress(step, f"{now.done} of {now.total} cells done, {now.failed} failed", finished=True))
    run.result()


def _show(run: Run, margin: float, html: Path | None, *, as_json: bool) -> None:
    """Print a run, and write its report if asked to."""
    verdicts = run.verdicts(margin=margin)
    report = run.report(html, margin=margin).resolve() if html is not None else None
    if as_json:
        print_json({**run.as_dict(), "verdicts": verdicts.as_dicts(), "report": str(report) if report else None})
        return
    _print_answers(run)
    _print_means(run)
    for verdict in verdicts:
        say(f"Verdict: {verdict.sentence}")
    if any(verdict.comparisons > 1 for verdict in verdicts):
        say("The intervals of a scorer hold all at once: they are wider than that of a single comparison.")
    say(f"Run: {run.run_id}")
    if report is not None:
        say(f"Report: {report}")


def _print_answers(run: Run) -> None:
    cells = run.cells()
    by_input: dict[str, dict[str, Any]] = {item.id: {} for item in run.grid.inputs}
    for row in cells[cells["repeat"] == 0].to_dict("records"):
        by_input[str(row["input_id"])][str(row["prompt"])] = row
    rows = []
    for input_id, by_prompt in by_input.items():
        line = [_short(input_id, NAME_WIDTH)]
        for prompt in run.prompts:
            row = by_prompt.get(prompt, {})
            marks = "/".join(_number(row.get(f"score.{name}")) for name in run.scorers)
            line += [_short(str(row.get("answer") or row.get("error") or ""), ANSWER_WIDTH), marks]
        rows.append(line)
    heads = [head for prompt in run.prompts for head in (_short(prompt, NAME_WIDTH), "/".join(run.scorers))]
    print_table(
        f"{run.name or run.run_id}: {len(run.prompts)} prompts x {len(by_input)} inputs", ("input", *heads), rows
    )


def _print_means(run: Run) -> None:
    """One row for each prompt; counts that are zero for all of them are left out."""
    from noa_lab.experiments import summary_table

    summary = summary_table(run.cells())
    empty = [name for name in ("failed", "pending", "cached") if name in summary and not summary[name].any()]
    summary = summary.drop(columns=[*empty, *(name for name in SHARES if name in summary)])
    rows = [[_short(_number(value), NAME_WIDTH) for value in row] for row in summary.itertuples(index=False)]
    print_table("Means", [str(column).removeprefix("score.") for column in summary.columns], rows)


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return "" if value is None else str(value)


@click.group()
def runs() -> None:
    """The runs that are kept."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(as_json: bool) -> None:
    """All runs, newest first."""
    found = Lab().runs()
    if as_json:
        print_json({"runs": [summary.as_dict() for summary in found]})
        return
    rows = [
        (s.run_id, s.name, s.status, f"{s.done}/{s.total}", s.created, ", ".join(s.models), ", ".join(s.prompts))
        for s in found
    ]
    print_table("", ("run", "name", "status", "cells", "created", "models", "prompts"), rows)


@runs.command()
@click.argument("run_id")
@click.option("--margin", type=float, help="Difference that counts as none in the verdict, for example 0.1.")
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def show(run_id: str, margin: float | None, html: Path | None, as_json: bool) -> None:
    """The answers and verdicts of a run."""
    from noa_lab.experiments import DEFAULT_MARGIN

    _show(Lab().open_run(run_id), DEFAULT_MARGIN if margin is None else margin, html, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (compare, runs)
