"""The command group, and how every command ends: 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from noa_lab._version import __version__
from noa_lab.cli._terminal import print_error
from noa_lab.errors import NoaLabError

__all__ = ["cli", "main"]

INTERRUPTED = 130

MODULES = {
    "_setup": ("check", "install", "rollback", "runtimes", "lab"),
    "_models": ("models",),
    "_server": ("serve", "stop", "logs", "test-server"),
    "_status": ("status",),
    "_tune": ("tune",),
    "_config": ("config",),
    "_generate": ("generate",),
    "_chat": ("chat",),
    "_compare": ("compare",),
    "_runs": ("runs",),
    "_import": ("import-promptfoo",),
    "_digest": ("digest",),
}
"""The modules that have the commands (their COMMANDS), and which of them each is known to have: no other one is loaded for those."""


class Commands(click.Group):
    """The commands, loaded when they are asked for; noa_lab's errors become a message, a fix and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        del ctx
        return sorted(command.name or "" for module in MODULES for command in _load(module))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None where there is none."""
        del ctx
        known = [module for module, names in MODULES.items() if cmd_name in names]
        for module in known or MODULES:
            for command in _load(module):
                if command.name == cmd_name:
                    return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except NoaLabError as error:
            if os.environ.get("NOA_LAB_TRACEBACK"):
                raise
            print_error(error)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # The reader went away (`| head`): nothing is wrong, and nothing can be printed any more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


def _load(module: str) -> tuple[click.Command, ...]:
    found: tuple[click.Command, ...] = importlib.import_module(f"noa_lab.cli.{module}").COMMANDS
    return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="noa-lab")
def cli() -> None:
    """A workbench for local language models on llama.cpp: install it, get models, serve them, compare prompts.

    Start with `noa-lab check`. Each command has a --help of its own.
    """


def main() -> None:
    """Entry point of `noa-lab`."""
    try:
        code = cli(prog_name="noa-lab", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        # click makes an Abort of Ctrl-C.
        sys.stderr.write("\nStopped.\n")
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
