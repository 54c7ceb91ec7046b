"""Whether a server stays when its last holder has gone, changed from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noa_lab.server._status import ask_watcher, find, missing

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["keep"]

_PATIENCE = 3.0


def keep(home: Home, name: str, *, stay: bool = True) -> None:
    """Let a server stay when its last holder has gone, or let it end then; a server that nobody holds ends at once.

    Raises:
        ServerMissing: When no such server is up.
    """
    record = find(home, name)
    if record is None or ask_watcher(record, "keep", timeout=_PATIENCE, value=stay) is None:
        raise missing(home, name)
