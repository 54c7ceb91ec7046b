"""`noa-lab serve | stop | logs | test-server`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from noa_lab import server
from noa_lab.cli._server_options import server_options, server_settings
from noa_lab.cli._terminal import TerminalReport, print_json, say
from noa_lab.errors import BadInput, ServerMissing
from noa_lab.tables import printable
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
@click.option("--detach", is_flag=True, help="Return when it is ready; the server stays until `noa-lab stop`.")
@click.option("--allow-oversize", is_flag=True, help="Start it even if it does not fit into memory.")
@server_options
def serve(models: tuple[str, ...], config: Path | None, detach: bool, allow_oversize: bool, **given: Any) -> None:
    """Start llama-server with MODEL (default: the default model), or share one that is running.

    It ends when the last program that uses it has ended.

    With several MODELs, or with --config, one OpenAI-compatible address serves all of them, and --host and --port are that address.
    Each model is loaded on its first request.
    """
    lab = Lab()
    settings = {**server_settings(given), "report": TerminalReport()}
    if config is not None or len(models) > 1:
        if allow_oversize:
            raise BadInput(
                "--allow-oversize is about one model; several share the memory_budget of server.yaml's section router.",
                fix="Raise the budget (NOA_LAB_ROUTER__MEMORY_BUDGET), or serve one model.",
                field="--allow-oversize",
                value=True,
            )
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
            while running.state not in ("stopped", "crashed"):
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            click.echo(f"\nLet go of {running.name}")
            return
        status = running.status()
        click.echo(printable(f"{running.name} ended: {status.reason or status.state}"), err=True)
        sys.exit(0 if status.state == "stopped" else 1)


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop every server.")
def stop(name: str | None, everything: bool) -> None:
    """Stop server NAME for everyone who uses it (default: the only one)."""
    lab = Lab()
    names = [one.name for one in lab.servers()]
    if name is None and not names:
        click.echo("No server is up.")
        return
    if not everything and name is None and len(names) > 1:
        raise BadInput(
            f"Which server? {len(names)} are up: {', '.join(names)}.",
            fix="Name one of them, or stop them all with --all.",
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
    """Print the log of server NAME (default: the only one)."""
    lab = Lab()
    names = [one.name for one in lab.servers()]
    chosen = name or (names[0] if len(names) == 1 else None)
    if chosen is None:
        up = f"{len(names)} servers are up" if names else "no server is up"
        kept = ", ".join(sorted(path.stem for path in lab.home.logs.glob("*.log")))
        fix = f"Name one; logs here: {kept}." if kept else "There is none yet: start a server with `noa-lab serve`."
        raise ServerMissing(f"Which log? {up.capitalize()}.", fix=fix, name=name)
    for line in server.read_log(lab.home, chosen, lines=lines, follow=follow):
        say(line)


@click.command("test-server")
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds it may take to answer.")
def test_server(url: str | None, as_json: bool, timeout: float) -> None:
    """Check that the server at URL is healthy and completes a prompt (default: the one that is up); exit code 1 if not.

    URL is an address, or the name of one of noa_lab's servers. For a server of others the key is read from NOA_LAB_API_KEY.
    """
    address, key = server.address_of(Lab().home, url)
    results = server.test_server(address, key, timeout=timeout)
    if as_json:
        print_json({"url": address, "checks": [result.as_dict() for result in results]})
    else:
        for result in results:
            say(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:12} {result.ms:7.0f} ms  {result.detail}")
    if not all(result.ok for result in results):
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (serve, stop, logs, test_server)
