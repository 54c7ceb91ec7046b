"""`noa-lab runs`: the runs that are kept."""

from __future__ import annotations

from pathlib import Path

import click

from noa_lab.cli._run_output import show_run
from noa_lab.cli._terminal import print_json, print_table, say
from noa_lab.errors import BadInput
from noa_lab.workbench import Lab

__all__ = ["COMMANDS"]


@click.group()
def runs() -> None:
    """Look at the runs that are kept, and look after them."""


@runs.command("list")
@click.option("--tag", help="Only runs with this tag.")
@click.option("--deleted", is_flag=True, help="List the runs in the bin instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(tag: str | None, deleted: bool, as_json: bool) -> None:
    """List all runs, newest first."""
    found = Lab().runs(tag, deleted=deleted)
    if as_json:
        print_json({"runs": [summary.as_dict() for summary in found]})
        return
    rows = [
        (
            s.run_id,
            s.name,
            s.status,
            f"{s.done}/{s.total}",
            s.created,
            ", ".join(s.models),
            ", ".join(s.prompts),
            ", ".join(s.tags),
        )
        for s in found
    ]
    print_table("", ("run", "name", "status", "cells", "created", "models", "prompts", "tags"), rows)


@runs.command()
@click.argument("run_id")
@click.option("--margin", type=float, help="Smallest difference that matters to you, for example 0.1.")
@click.option("--html", "html", type=click.Path(path_type=Path), help="Write the HTML report to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole run as JSON.")
def show(run_id: str, margin: float | None, html: Path | None, as_json: bool) -> None:
    """Show the answers and verdicts of a run."""
    from noa_lab.experiments import DEFAULT_MARGIN

    show_run(Lab().open_run(run_id), DEFAULT_MARGIN if margin is None else margin, html, as_json=as_json)


@runs.command("export")
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path))
def export_run(run_id: str, file: Path) -> None:
    """Write a run, with every answer, into a zip file."""
    say(f"Written: {Lab().export_run(run_id, file).resolve()}")


@runs.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_run(file: Path) -> None:
    """Read a run from a zip file that `runs export` has written."""
    run = Lab().import_run(file)
    say(f"Run: {run.run_id} ({run.progress().done} of {run.progress().total} cells done)")


@runs.command()
@click.argument("run_id")
@click.argument("tags", nargs=-1)
@click.option("--remove", is_flag=True, help="Remove these tags.")
@click.option("--note", help="Write a note about the run.")
def tag(run_id: str, tags: tuple[str, ...], remove: bool, note: str | None) -> None:
    """Give a run tags, or a note."""
    if not tags and note is None:
        raise BadInput(
            "There is nothing to label it with.", fix="Give one or more tags, or --note TEXT.", field="tags", value=()
        )
    run = Lab().open_run(run_id)
    if remove:
        run.untag(*tags)
    elif tags:
        run.tag(*tags)
    if note is not None:
        run.note = note
    said = f": {run.note}" if run.note else ""
    say(f"{run_id} [{', '.join(run.tags)}]{said}")


@runs.command()
@click.argument("run_id")
@click.option("--for-good", is_flag=True, help="Remove a run that is in the bin already; this cannot be undone.")
def delete(run_id: str, for_good: bool) -> None:
    """Put a run into the bin; `restore` takes it out again."""
    lab = Lab()
    if for_good:
        from noa_lab import experiments

        experiments.purge(lab.store, run_id)
        say(f"{run_id} is gone.")
    else:
        lab.delete_run(run_id)
        say(f"{run_id} is in the bin: `noa-lab runs restore {run_id}` takes it out.")


@runs.command()
@click.argument("run_id")
def restore(run_id: str) -> None:
    """Take a run out of the bin."""
    Lab().restore_run(run_id)
    say(f"{run_id} is back.")


@runs.command()
@click.argument("run_id")
@click.option("--pause", is_flag=True, help="Finish the answers that are being written, then stop.")
def cancel(run_id: str, pause: bool) -> None:
    """Stop a run, whichever process executes it; what is finished is kept."""
    run = Lab().open_run(run_id)
    if not run.running:
        say(f"{run_id} is {run.status}: there is nothing to stop.")
        return
    if pause:
        run.pause()
    else:
        run.cancel()
    say(f"{run_id} has been asked to {'pause' if pause else 'stop'}.")


COMMANDS: tuple[click.Command, ...] = (runs,)
