"""`noa-lab check | install | rollback | runtimes | lab`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Unpack

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table, say
from noa_lab.errors import BadInput
from noa_lab.runtime import InstallOptions, Runtime
from noa_lab.workbench import Lab

START_NOTEBOOK = "00_start_here.ipynb"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool) -> None:
    """Show what this machine has and what is missing; exit code 1 if something will not work."""
    report = Lab().check()
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(str(report))
    if not report.ok:
        sys.exit(1)


@click.command()
@click.option(
    "--from",
    "source",
    default="auto",
    metavar="auto|release|source|system|PATH",
    help="Where from: prebuilt, compiled here, already on this machine, or an archive or folder of programs.  [default: auto]",
)
@click.option("--source", "source_path", metavar="PATH", help="llama.cpp's source: an archive, a checkout or a folder.")
@click.option("--tag", metavar="TAG", help="Release: bNNNN, latest-stable or latest-nightly.")
@click.option(
    "--backend",
    metavar="NAME",
    help="What it computes with: cpu, cuda, vulkan, rocm, metal, ... (default: what suits this machine).",
)
@click.option("--native", is_flag=True, help="Compile for exactly this CPU, which is faster.")
@click.option("--mirror", metavar="URL", help="Address of a copy of llama.cpp's releases.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def install(*, dry_run: bool, as_json: bool, **options: Unpack[InstallOptions]) -> None:
    """Get llama.cpp, try it with the default model, and put it in place.

    Without options it takes what suits this machine, and returns at once if a working llama.cpp is here.
    """
    lab = Lab()
    if dry_run:
        plan = lab.plan_install(**options)
        if as_json:
            print_json({"plan": plan.as_dict()})
        else:
            say(str(plan))
        return
    runtime = lab.install(report=TerminalReport(), **options)
    model = lab.models.get()
    for note in runtime.notes:
        click.echo(f"! {note}", err=True)
    if as_json:
        print_json({"runtime": runtime.as_dict(), "model": model.as_dict()})
        return
    click.echo(describe(runtime))
    click.echo(f"Model    {model.name}, sha256 {model.sha256}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(as_json: bool) -> None:
    """Go back to the llama.cpp that was used before; a second rollback undoes the first."""
    runtime = Lab().rollback()
    if as_json:
        print_json({"runtime": runtime.as_dict()})
        return
    click.echo(describe(runtime))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runtimes(as_json: bool) -> None:
    """List the llama.cpp builds on this machine, the current one first."""
    found = Lab().runtimes()
    if as_json:
        print_json({"runtimes": [runtime.as_dict() for runtime in found]})
        return
    rows = [(r.id, ", ".join(r.marks), r.tag, r.build_number, r.commit, r.backend, r.source, r.threads) for r in found]
    print_table("", ("id", "used as", "tag", "build", "commit", "backend", "source", "threads"), rows)


@click.command("lab")
@click.option("--no-browser", is_flag=True, help="Print the address instead of opening a browser.")
def jupyter_lab(no_browser: bool) -> None:
    """Open JupyterLab on the notebooks."""
    notebooks = next(
        (
            folder / "notebooks"
            for folder in (Path.cwd(), *Path.cwd().parents)
            if (folder / "notebooks" / START_NOTEBOOK).exists()
        ),
        None,
    )
    if notebooks is None:
        raise BadInput(
            f"There is no notebooks/{START_NOTEBOOK} in {Path.cwd()} or above it.",
            fix="Run this in a checkout of noa_lab, or start `jupyter lab` on your own notebooks.",
            field="folder",
            value=str(Path.cwd()),
        )
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={notebooks}",
        f"--LabApp.default_url=/lab/tree/{START_NOTEBOOK}",
    ]
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    if os.name == "nt":
        import subprocess

        sys.exit(subprocess.call(command))
    os.execv(sys.executable, command)  # noqa: S606 - JupyterLab takes this process's place, so that Ctrl-C reaches it alone


def describe(runtime: Runtime) -> str:
    """A runtime in two lines: what it is, and how it was built or where it came from."""
    flags = " ".join(runtime.flags) or runtime.url or "-"
    return (
        f"Runtime  llama.cpp {runtime.tag or runtime.source} (build {runtime.build_number}, commit {runtime.commit}, {runtime.backend}, "
        f"{runtime.threads} threads)\n         {runtime.compiler}; {flags}"
    )


COMMANDS: tuple[click.Command, ...] = (check, install, rollback, runtimes, jupyter_lab)
