"""`noa-lab serve | status | stop | logs | test-server`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from noa_lab import server
from noa_lab.cli._terminal import TerminalReport, duration, print_json, print_table, say, size
from noa_lab.errors import BadInput, ServerMissing
from noa_lab.server import ServerStatus
from noa_lab.workbench import Lab

POLL_SECONDS = 0.5


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path),
    help="Serve the models of this server.yaml behind one address.",
)
@click.option("--detach", is_flag=True, help="Return at once; the server stays until `noa-lab stop`.")
@click.option("--context", "context_size", type=int, help="Tokens one request may use (default: 4096).")
@click.option("--slots", type=int, help="Requests worked on at the same time (default: 2).")
@click.option("--threads", type=int, help="CPU threads (default: as measured at install).")
@click.option("--port", type=int, help="Port of the address (default: any for one model, server.yaml's for several).")
@click.option("--allow-oversize", is_flag=True, help="Start it even if it does not fit into memory.")
def serve(
    models: tuple[str, ...],
    config: Path | None,
    detach: bool,
    context_size: int | None,
    slots: int | None,
    threads: int | None,
    port: int | None,
    allow_oversize: bool,
) -> None:
    """Start llama-server with MODEL, or join one that is up; it ends with its last holder.

    With several MODELs, or with --config, one OpenAI-compatible address serves all of them; each is loaded on its first request.
    """
    lab = Lab()
    given: dict[str, Any] = {"context_size": context_size, "slots": slots, "threads": threads, "port": port}
    settings = {name: value for name, value in given.items() if value is not None} | {"report": TerminalReport()}
    if config is not None or len(models) > 1:
        starting: server.Server = lab.route(models, config=config, keep=detach, **settings)
    else:
        chosen = models[0] if models else None
        starting = lab.serve(chosen, keep=detach, allow_oversize=allow_oversize, **settings)
    with starting as running:
        click.echo(f"{running.name} is ready at {running.base_url} (pid {running.pid})")
        if detach:
            click.echo(f"It stays until: noa-lab stop {running.name}")
            return
        try:
            click.echo("Its key: noa-lab status --show-key. Ctrl-C lets go of it.")
            while running.status().state not in ("stopped", "crashed"):
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            click.echo(f"\nLet go of {running.name}")
            return
        status = running.status()
        click.echo(f"{running.name} ended: {status.reason or status.state}", err=True)
        sys.exit(0 if status.state == "stopped" else 1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--show-key", is_flag=True, help="Print the API keys too; in a terminal only.")
def status(as_json: bool, show_key: bool) -> None:
    """The servers that are up."""
    lab = Lab()
    found = lab.servers()
    if show_key:
        _show_keys(lab, found)
        return
    if as_json:
        print_json({"servers": [one.as_dict() for one in found]})
        return
    if not found:
        click.echo("No server is up. Start one: noa-lab serve")
        return
    print_table(
        "",
        ("server", "state", "pid", "address", "slots", "tokens/s", "memory", "up", "holders"),
        [_row(one) for one in found],
    )


def _row(one: ServerStatus) -> tuple[object, ...]:
    rate = f"{one.tokens_per_second:.0f}" if one.tokens_per_second else ""
    memory = size(one.memory_bytes) if one.memory_bytes else ""
    slots = f"{one.slots_busy}/{one.slots_total}" if one.slots_total else ""
    return (
        one.name,
        one.state,
        one.pid or "",
        one.base_url,
        slots,
        rate,
        memory,
        duration(one.uptime_seconds),
        one.holders,
    )


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


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop every server.")
def stop(name: str | None, everything: bool) -> None:
    """Stop server NAME, whoever holds it."""
    lab = Lab()
    names = [one.name for one in lab.servers()]
    if name is None and not names:
        click.echo("No server is up.")
        return
    if not everything and name is None and len(names) > 1:
        raise BadInput(
            f"Which server? {len(names)} are up: {', '.join(names)}.",
            fix="Name one, or say --all.",
            field="NAME",
            value=None,
        )
    if everything:
        # A router's servers end with it: that one is gone when its turn comes is no fault.
        stopped = server.stop_all(lab.home)
    else:
        stopped = [name or names[0]]
        lab.stop(stopped[0])
    for each in stopped:
        click.echo(f"{each} is stopped")


@click.command()
@click.argument("name", required=False)
@click.option("-n", "lines", default=50, show_default=True, help="Lines from the end.")
@click.option("-f", "follow", is_flag=True, help="Go on printing new lines until Ctrl-C.")
def logs(name: str | None, lines: int, follow: bool) -> None:
    """The log of server NAME (default: the only one)."""
    lab = Lab()
    names = [one.name for one in lab.servers()]
    chosen = name or (names[0] if len(names) == 1 else None)
    if chosen is None:
        kept = ", ".join(sorted(path.stem for path in lab.home.logs.glob("*.log"))) or "none"
        raise ServerMissing(f"Which log? {len(names)} servers are up.", fix=f"Name one; logs here: {kept}.", name=name)
    for line in server.read_log(lab.home, chosen, lines=lines, follow=follow):
        say(line)


@click.command("test-server")
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_server(url: str | None, as_json: bool) -> None:
    """Health and completion check of the server at URL (default: the one that is up); exit code 1 when either fails.

    The key is read from NOA_LAB_API_KEY for a URL, and known for noa_lab's own servers.
    """
    import os

    key = os.environ.get("NOA_LAB_API_KEY")
    if url is None:
        lab = Lab()
        ready = [one for one in lab.servers() if one.state in ("ready", "busy")]
        if not ready:
            raise ServerMissing(
                "No server of noa_lab is up.", fix="Start one with `noa-lab serve`, or give a URL.", name=None
            )
        record = server.find(lab.home, ready[0].name)
        url, key = ready[0].base_url, record.api_key if record else None
    results = server.test_server(url, key)
    if as_json:
        print_json({"url": url, "checks": [result.as_dict() for result in results]})
    else:
        for result in results:
            click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:12} {result.ms:7.0f} ms  {result.detail}")
    if not all(result.ok for result in results):
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (serve, status, stop, logs, test_server)
