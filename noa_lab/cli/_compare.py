"""`noa-lab compare` and `noa-lab runs`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table
from noa_lab.errors import UnknownName
from noa_lab.events import Progress
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.experiments import Run

POLL_SECONDS = 0.2
ANSWER_WIDTH = 36
MARGIN = 0.05


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--resume", is_flag=False, flag_value="newest", help="Continue this run (without an id: the newest of this file)."
)
@click.option("--fresh", is_flag=True, help="Start another run; reuse no answer.")
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def compare(file: Path, resume: str | None, fresh: bool, html: Path | None, as_json: bool) -> None:
    """Run the comparison in FILE, print the answers and the verdict; the same file again continues its newest run."""
    from noa_lab import experiments

    lab = Lab()
    comparison = experiments.load_comparison(file)
    if resume is not None and resume != "newest" and resume not in {summary.run_id for summary in lab.runs()}:
        raise UnknownName.among("run", resume, [summary.run_id for summary in lab.runs()])
    if resume is not None and resume != "newest":
        run = lab.open_run(resume)
        run.resume()
    else:
        run = lab.compare(comparison.grid, comparison.scorers, fresh=fresh, name=comparison.name)
    _follow(run)
    report = run.report(html) if html is not None else None
    if as_json:
        print_json(_as_json(run, report))
    else:
        _print_run(run, report)
    if run.progress().failed or run.status != "done":
        sys.exit(1)


def _follow(run: Run) -> None:
    """Wait for a run, drawing its progress; Ctrl-C pauses it, so that nothing finished is lost."""
    draw = TerminalReport()
    step = f"Comparison {run.run_id}"
    try:
        while run.running:
            now = run.progress()
            message = f"{now.failed} failed" if now.failed else ""
            draw(Progress(step, message, done=now.done + now.failed, total=now.total, unit="cells"))
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        run.pause()
        click.echo(f"\nPaused. Continue with: noa-lab compare FILE --resume {run.run_id}", err=True)
        raise
    now = run.progress()
    draw(Progress(step, f"{now.done} of {now.total} cells done, {now.failed} failed", finished=True))
    run.result()


def _verdicts(run: Run) -> list[Any]:
    first, *others = run.prompts
    return [run.verdict(arm, over=first, on=scorer, margin=MARGIN) for scorer in run.scorers for arm in others]


def _as_json(run: Run, report: Path | None) -> dict[str, Any]:
    return {
        **run.as_dict(),
        "verdicts": [verdict.as_dict() for verdict in _verdicts(run)],
        "report": str(report.resolve()) if report else None,
    }


def _print_run(run: Run, report: Path | None) -> None:
    cells = run.cells()
    first_repeat = cells[cells["repeat"] == 0]
    by_input: dict[str, dict[str, Any]] = {item.id: {} for item in run.grid.inputs}
    for row in first_repeat.to_dict("records"):
        by_input[str(row["input_id"])][str(row["prompt"])] = row
    scorers = [f"score.{name}" for name in run.scorers]
    rows = []
    for input_id, by_prompt in by_input.items():
        line = [input_id]
        for prompt in run.prompts:
            row = by_prompt.get(prompt, {})
            text = " ".join(str(row.get("answer") or row.get("error") or "").split())
            marks = " ".join(f"{_number(row.get(score))}" for score in scorers)
            line += [text if len(text) <= ANSWER_WIDTH else text[: ANSWER_WIDTH - 1] + "…", marks]
        rows.append(line)
    heads = [head for prompt in run.prompts for head in (prompt, "/".join(run.scorers))]
    print_table(
        f"{run.name or run.run_id}: {len(run.prompts)} prompts x {len(by_input)} inputs", ("input", *heads), rows
    )
    from noa_lab.experiments import summary_table

    summary = summary_table(cells)
    print_table(
        "Means",
        [str(c) for c in summary.columns],
        [[_number(v) for v in row] for row in summary.itertuples(index=False)],
    )
    for verdict in _verdicts(run):
        click.echo(f"Verdict: {verdict.sentence}")
    click.echo(f"Run: {run.run_id}")
    if report is not None:
        click.echo(f"Report: {report.resolve()}")


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
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def show(run_id: str, html: Path | None, as_json: bool) -> None:
    """The answers and verdicts of a run."""
    run = Lab().open_run(run_id)
    report = run.report(html) if html is not None else None
    if as_json:
        print_json(_as_json(run, report))
    else:
        _print_run(run, report)


COMMANDS: tuple[click.Command, ...] = (compare, runs)
