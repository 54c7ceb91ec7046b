"""`noa-lab tune`."""

from __future__ import annotations

import click

from noa_lab.cli._terminal import TerminalReport, print_json, print_table
from noa_lab.errors import BadInput
from noa_lab.server import Tuned
from noa_lab.tables import duration
from noa_lab.workbench import Lab

__all__ = ["COMMANDS"]


@click.command()
@click.argument("model", required=False)
@click.option("--show", is_flag=True, help="Print what was measured before; measure nothing.")
@click.option("--forget", is_flag=True, help="Forget what was measured; servers start with the defaults again.")
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often everything is measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tune(model: str | None, show: bool, forget: bool, rounds: int, as_json: bool) -> None:
    """Measure which threads, batch size and slots are fastest for MODEL here; its servers then start with them.

    This takes about a minute for a small model. Let the machine do nothing else meanwhile.
    """
    lab = Lab()
    if forget:
        gone = lab.forget_tuned(model)
        click.echo("Forgotten." if gone else "Nothing was measured for this model with this build on this machine.")
        return
    found = lab.tuned(model) if show else lab.tune(model, rounds=rounds, report=TerminalReport())
    if found is None:
        raise BadInput(
            "Nothing was measured for this model with this build on this machine.",
            fix="Run `noa-lab tune` without --show.",
            field="MODEL",
            value=model,
        )
    if as_json:
        print_json({"tuned": found.as_dict()})
    else:
        _print(found)


def _print(found: Tuned) -> None:
    chosen = found.as_settings()
    rows = [
        (setting, value, f"{speed:.1f}", "chosen" if str(chosen[setting]) == value else "")
        for setting, speeds in found.speeds.items()
        for value, speed in speeds.items()
    ]
    title = f"{found.model} on {found.machine} with {found.runtime}, measured in {duration(found.seconds)}"
    print_table(title, ("setting", "value", "tokens/s", ""), rows)
    click.echo("Servers of this model start with these values, unless a call or server.yaml says otherwise.")


COMMANDS: tuple[click.Command, ...] = (tune,)
