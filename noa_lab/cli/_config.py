"""`noa-lab config show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa_lab import runtime
from noa_lab.cli._terminal import print_json, print_table, say
from noa_lab.errors import BadInput, RuntimeMissing
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.server.config import ModelPlace


@click.group()
def config() -> None:
    """Look at server.yaml."""


@config.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The file (default: NOA_LAB_CONFIG, else the nearest configs/server.yaml upward from here).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path | None, as_json: bool) -> None:
    """Show the settings in effect, where each comes from, and what this machine cannot do."""
    from noa_lab.server.config import machine_notes, model_places, values

    lab = Lab()
    found = lab.server_config(file)
    places = model_places(found, lab.models, lab.home, _runtime(lab))
    notes = machine_notes(found, runtime.machine().cores)
    if as_json:
        shown = {
            "file": None if found.file is None else str(found.file),
            "settings": [value.as_dict() for value in values(found)],
            "models": [place.as_dict() for place in places],
            "notes": notes,
        }
        print_json(shown)
    else:
        source = str(found.file) if found.file is not None else "no server.yaml found: these are the defaults"
        rows = [
            (value.key, _text(value.value), value.origin.removeprefix(f"{found.file}, ")) for value in values(found)
        ]
        print_table(source, ("setting", "value", "from"), rows)
        if places:
            print_table("", ("model", "here", "default", "tags", "what is served"), map(_row, places))
        for note in (*notes, *(f"{place.name}: {note}" for place in places for note in place.notes)):
            say(f"Note: {note}")
    _refuse(places)


def _runtime(lab: Lab) -> runtime.Runtime | None:
    try:
        return runtime.current(lab.home)
    except RuntimeMissing:
        sys.stderr.write("Note: llama.cpp is not installed, so what it can honour is not known.\n")
        return None


def _row(place: ModelPlace) -> tuple[object, ...]:
    here = "yes" if place.installed else "no"
    return (place.name, here, "yes" if place.default else "", ", ".join(place.tags), place.error or place.reference)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _refuse(places: list[ModelPlace]) -> None:
    """The first model that cannot be served ends the command, after everything was shown."""
    wrong = next((place for place in places if place.error), None)
    if wrong is not None:
        raise BadInput(
            wrong.error,
            fix="Correct its path in server.yaml, or take the model out.",
            field=f"models.{wrong.name}",
            value=wrong.reference,
        )


COMMANDS: tuple[click.Command, ...] = (config,)
