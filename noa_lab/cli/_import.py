"""`noa-lab import-promptfoo`."""

from __future__ import annotations

from pathlib import Path

import click

from noa_lab.cli._terminal import print_json, print_table, say
from noa_lab.errors import BadInput
from noa_lab.workbench import Lab

WIDTH = 60


@click.command("import-promptfoo")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The comparison file to write (default: FILE's name, .noa.yaml)."
)
@click.option("--force", is_flag=True, help="Replace the comparison file if it exists.")
@click.option("--trust", is_flag=True, help="Read other files that FILE names, and use its Python assertions.")
@click.option(
    "--model", "models", multiple=True, help="Ask this model, in the place of FILE's providers (may be repeated)."
)
@click.option(
    "--run", "run_it", is_flag=True, help="Run the comparison at once, with the Python assertions of a trusted FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_promptfoo(
    file: Path, out: Path | None, force: bool, trust: bool, models: tuple[str, ...], run_it: bool, as_json: bool
) -> None:
    """Make a comparison file from a promptfoo configuration, and name what could not be carried over.

    Nothing of FILE is run, and no other file is read, without --trust; JavaScript and other programs never are.
    """
    from noa_lab import experiments

    target = out if out is not None else file.with_name(f"{file.stem}.noa.yaml")
    if target.exists() and not force:
        raise BadInput(
            f"{target} exists already.",
            fix="Name another with --out, or use --force.",
            field="--out",
            value=str(target),
        )
    lab = Lab()
    known = [entry.name for entry in lab.models.list()]
    found = experiments.import_promptfoo(file, trust=trust, models=models, known_models=known)
    written = found.write(target)
    grid = found.comparison.grid
    if as_json and not run_it:
        facts = {
            "prompts": list(grid.prompts),
            "inputs": len(grid.inputs),
            "scorers": [one.name for one in found.scorers],
        }
        print_json({"file": str(written), **facts, "notes": [note.as_dict() for note in found.notes]})
        return
    if not as_json:
        rows = [(note.kind, note.where, _short(note.what), note.why) for note in found.notes]
        print_table(
            "What could not be carried over as it was" if rows else "", ("", "where", "what", "why"), rows
        ) if rows else None
        say(f"{len(grid.prompts)} prompts, {len(grid.inputs)} inputs, {len(found.scorers)} scorers: {written}")
        if found.functions and not run_it:
            names = ", ".join(one.name for one in found.functions)
            say(f"Python assertions cannot be written to a file: {names}. Use them with --run.")
        if not run_it:
            say(f"Run it: noa-lab compare {target}")
    if run_it:
        from noa_lab.cli._compare import follow_and_show

        follow_and_show(lab.compare(grid, found.scorers, name=found.comparison.name), target, as_json=as_json)


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


COMMANDS: tuple[click.Command, ...] = (import_promptfoo,)
