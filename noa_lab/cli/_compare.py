"""`noa-lab compare`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from noa_lab.cli._run_output import show_run
from noa_lab.cli._terminal import TerminalReport, print_json, say
from noa_lab.errors import BadInput, RunBusy, UnknownName
from noa_lab.events import Progress
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.experiments import Grid, Run

POLL_SECONDS = 0.2
NEWEST = "newest"
EXECUTORS = ("auto", "plain", "lanes", "tree", "strict", "latency")
"""As `noa_lab.experiments` has them; importing that would cost every command its time."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--resume", is_flag=False, flag_value=NEWEST, help="Continue this run (without an id: the newest of FILE)."
)
@click.option("--fresh", is_flag=True, help="Start another run that asks everything again.")
@click.option(
    "--margin", type=float, help="Smallest difference that matters to you, for example 0.1 (default: the file's)."
)
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option(
    "--executor", type=click.Choice(EXECUTORS), help="How answers are asked for (default: the file's, else auto)."
)
@click.option("--minutes", type=float, help="Pause after so many minutes.")
@click.option("--tokens", type=int, help="Pause after so many tokens.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Say what it will take, and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def compare(
    file: Path,
    resume: str | None,
    fresh: bool,
    margin: float | None,
    html: Path | None,
    executor: str | None,
    minutes: float | None,
    tokens: int | None,
    only_estimate: bool,
    as_json: bool,
) -> None:
    """Run the comparison in FILE, and print the answers and the verdict.

    The same FILE again continues its newest run: what is answered is not asked again. Ctrl-C pauses.
    """
    from noa_lab import experiments

    if resume is not None and fresh:
        raise BadInput(
            "--resume and --fresh cannot be used together.", fix="Leave one of them out.", field="--fresh", value=True
        )
    lab = Lab()
    comparison = experiments.load_comparison(file)
    expected = lab.estimate(comparison.grid)
    if only_estimate:
        print_json({"estimate": expected.as_dict()}) if as_json else say(str(expected))
        return
    budget = experiments.Budget(minutes, tokens) if minutes or tokens else comparison.budget
    how = cast("experiments.Requested", executor) if executor else comparison.executor
    try:
        if resume is not None:
            run = _resumed(lab, comparison.grid, file, resume)
        else:
            click.echo(f"· {expected}", err=True)
            run = lab.compare(
                comparison.grid, comparison.scorers, fresh=fresh, name=comparison.name, executor=how, budget=budget
            )
    except RunBusy as error:
        run_id = error.fields.get("run_id")
        fix = f"Look at it with `noa-lab runs show {run_id}`, or start another with --fresh."
        raise RunBusy(error.message, fix=fix, **error.fields) from None
    _follow(run, file)
    show_run(run, comparison.margin if margin is None else margin, html, as_json=as_json)
    if run.progress().failed or run.status != "done":
        sys.exit(1)


def follow_and_show(run: Run, file: Path, *, as_json: bool) -> None:
    """Wait for a run that another command has started, and print it."""
    from noa_lab.experiments import DEFAULT_MARGIN

    _follow(run, file)
    show_run(run, DEFAULT_MARGIN, None, as_json=as_json)


def _resumed(lab: Lab, grid: Grid, file: Path, run_id: str) -> Run:
    """The run to continue, continued; it must be a run of this file's grid."""
    wanted = grid.with_default_model(lab.models.default).hash
    known = [summary.run_id for summary in lab.runs()]
    if run_id == NEWEST:
        found = next((run for run in map(lab.open_run, known) if run.grid.hash == wanted), None)
        if found is None:
            message = f"There is no run of {file} to continue."
            raise BadInput(message, fix="Leave --resume out to start one.", field="--resume", value=None)
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
            message = now.opening or (f"{now.failed} failed" if now.failed else "")
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


COMMANDS: tuple[click.Command, ...] = (compare,)
