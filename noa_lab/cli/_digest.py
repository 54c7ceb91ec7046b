"""`noa-lab digest`."""

from __future__ import annotations

from pathlib import Path

import click

from noa_lab.cli._terminal import TerminalReport, print_json, say
from noa_lab.errors import BadInput
from noa_lab.workbench import Lab


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", help="Catalogue name, reference or path (default: the default model).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def digest(path: Path, model: str | None, as_json: bool) -> None:
    """Describe the repository at PATH: facts found by code, purpose and parts in the model's words."""
    from noa_lab.agents import DigestAgent

    if not path.is_dir():
        raise BadInput(
            f"{path} is not a folder.", fix="Give the folder of a repository.", field="PATH", value=str(path)
        )
    report = TerminalReport()
    with Lab().serve(model, report=report) as server, server.engine() as engine:
        found = DigestAgent(engine).analyze_repository(path, report=report)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        say(found.as_markdown())


COMMANDS: tuple[click.Command, ...] = (digest,)
