"""The command group, and how every command ends: 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from noa_lab._version import __version__
from noa_lab.cli import _compare, _config, _digest, _generate, _models, _server, _setup
from noa_lab.cli._terminal import print_error
from noa_lab.errors import NoaLabError

__all__ = ["cli", "main"]

INTERRUPTED = 130


class ErrorsAsExitCodes(click.Group):
    """A group that turns noa_lab's errors into a message, a fix and an exit code."""

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


@click.group(cls=ErrorsAsExitCodes, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="noa-lab")
def cli() -> None:
    """A workbench for local language models on llama.cpp: install, serve, compare prompts."""


for module in (_setup, _models, _server, _config, _generate, _compare, _digest):
    for command in module.COMMANDS:
        cli.add_command(command)


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
