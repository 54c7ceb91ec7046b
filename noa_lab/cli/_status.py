"""`noa-lab status`."""

from __future__ import annotations

import sys

import click

from noa_lab import server
from noa_lab.cli._terminal import print_json, print_table, say
from noa_lab.errors import BadInput
from noa_lab.server import ServerStatus
from noa_lab.tables import duration, size
from noa_lab.workbench import Lab

__all__ = ["COMMANDS"]


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--show-key", is_flag=True, help="Print the API keys too; in a terminal only.")
def status(name: str | None, as_json: bool, show_key: bool) -> None:
    """List the servers that are up; with NAME, show all about one: slots, memory, where each setting comes from."""
    lab = Lab()
    found: list[ServerStatus] = lab.servers()
    if name is not None:
        found = [one for one in found if one.name == name]
        if not found:
            raise server.missing(lab.home, name)
    if show_key:
        _show_keys(lab, found)
        return
    foreign: list[ServerStatus] = [] if name is not None else server.foreign_servers(lab.home)
    if as_json:
        print_json({"servers": [one.as_dict() for one in found], "foreign": [one.as_dict() for one in foreign]})
        return
    if not found:
        click.echo("No server is up. Start one: noa-lab serve")
    if found or foreign:
        titles = ("server", "state", "pid", "address", "slots", "tokens/s", "memory", "up", "holders")
        print_table("", titles, [_row(one) for one in (*found, *foreign)])
    for one in found:
        _print_remarks(one)
    if name is not None:
        _print_all(found[0])


def _row(one: ServerStatus) -> tuple[object, ...]:
    state = one.state if one.loaded is None else f"{one.state} {one.loaded:.0%}"
    rate = one.tokens_per_second_now or one.tokens_per_second
    return (
        one.name,
        state,
        one.pid or "",
        one.base_url,
        f"{one.slots_busy}/{one.slots_total}" if one.slots_total else "",
        f"{rate:.0f}" if rate else "",
        size(one.memory_bytes) if one.memory_bytes else "",
        duration(one.uptime_seconds),
        one.holders if one.state != "foreign" else "",
    )


def _print_remarks(one: ServerStatus) -> None:
    if one.restarts:
        times = "once" if one.restarts == 1 else f"{one.restarts} times"
        say(f"{one.name} was started again {times}; the last time because {one.last_failure}")
    if one.reason:
        say(f"{one.name} ended: {one.reason}. Its log: noa-lab logs {one.name}")


def _print_all(one: ServerStatus) -> None:
    """All that is known of one server."""
    facts = [
        ("model", one.model),
        ("llama.cpp", one.runtime),
        ("memory now / peak", f"{size(one.memory_bytes)} / {size(one.memory_peak_bytes)}"),
        ("tokens/s now / average", f"{one.tokens_per_second_now:.0f} / {one.tokens_per_second or 0:.0f}"),
        ("held by", ", ".join(one.held_by) or "nobody"),
        ("stays", "until it is stopped" if one.keep else "as long as it is held"),
        ("restarts", one.restarts),
        ("log", one.log),
    ]
    print_table("", ("about", "value"), facts)
    if one.slots:
        slots = [
            (slot["id"], "busy" if slot["busy"] else "idle", slot["read"], slot["written"], slot["context_size"])
            for slot in one.slots
        ]
        print_table("", ("slot", "state", "prompt tokens read", "tokens written", "context"), slots)
    origins = one.origins or {}
    rows = [(field, _text(value), origins.get(field, "")) for field, value in (one.settings or {}).items()]
    print_table("", ("setting", "value", "from"), rows)
    for note in one.notes:
        say(f"Note: {note}")


def _text(value: object) -> str:
    return "-" if value is None or value == {} else str(value)


def _show_keys(lab: Lab, found: list[ServerStatus]) -> None:
    if not sys.stdout.isatty():
        raise BadInput(
            "The key is printed in a terminal only, not into a file or a pipe.",
            fix="Run `noa-lab status --show-key` in a terminal, then set NOA_LAB_API_KEY.",
            field="--show-key",
            value=True,
        )
    for one in found:
        record = server.find(lab.home, one.name)
        if record is not None:
            click.echo(f"{one.name}\t{record.api_key}")


COMMANDS: tuple[click.Command, ...] = (status,)
