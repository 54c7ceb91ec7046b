"""The `noa-lab` command.

No logic of its own: every command calls a verb of the Lab and prints what comes back, for people or as JSON.
"""

from noa_lab.cli._app import main

__all__ = ["main"]
