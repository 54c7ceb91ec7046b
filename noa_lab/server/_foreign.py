"""llama-servers on this machine that noa_lab did not start from this home: shown, never touched."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.server._record import read_records
from noa_lab.server._status import ForeignServerList, ServerStatus

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["foreign_servers"]

_PROGRAMS = frozenset(("llama-server", "llama-server.exe"))


def foreign_servers(home: Home) -> ForeignServerList:
    """llama-servers that run here and have no record in `home`, as far as this user may see them; state "foreign".

    Their key and their command line, which may hold one, are not read out; nothing is sent to them.
    """
    import psutil

    # The record of one that was only just started, or started again, may not name it yet: its parent tells.
    watchers = {record.watcher.pid for record in read_records(home) if record.watcher is not None and record.watched}
    found = ForeignServerList()
    for process in psutil.process_iter(["ppid", "name", "status"]):
        info = process.info
        if info["name"] in _PROGRAMS and info["ppid"] not in watchers and info["status"] != psutil.STATUS_ZOMBIE:
            try:
                found.append(_status(process))
            except psutil.Error:
                continue  # it has ended, or is another user's
    return found


def _status(process: Any) -> ServerStatus:
    import psutil

    with process.oneshot():
        words = process.cmdline()
        memory = process.memory_info().rss
        started = process.create_time()
    parent = process.parent()
    other_home = parent is not None and "noa_lab.server._watch" in parent.cmdline()
    return ServerStatus(
        name=f"llama-server-{process.pid}",
        state="foreign",
        model=_model(words),
        pid=process.pid,
        base_url=_address(process, psutil.CONN_LISTEN),
        memory_bytes=memory,
        uptime_seconds=max(0.0, time.time() - started),
        notes=("noa_lab started it from another home.",) if other_home else (),
    )


def _model(words: list[str]) -> str:
    """The name of the model's file, the one thing of the command line that is shown."""
    for option, value in itertools.pairwise(words):
        if option in ("-m", "--model"):
            return Path(value).name
    return ""


def _address(process: Any, listening: str) -> str:
    for one in process.net_connections("tcp"):
        if one.status == listening and one.laddr:
            host = f"[{one.laddr.ip}]" if ":" in one.laddr.ip else one.laddr.ip
            return f"http://{host}:{one.laddr.port}"
    return ""
