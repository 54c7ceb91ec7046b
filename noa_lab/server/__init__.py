"""Start, watch, join and stop llama-server.

One small watcher process a server: holders connect to it, and the server ends with the last of them. Names load when they are asked
for, because the watcher imports this package too and has to start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noa_lab.server._checks import CheckList, CheckResult, address_of, test_server
    from noa_lab.server._foreign import foreign_servers
    from noa_lab.server._keep import keep
    from noa_lab.server._log_settings import LogSettings
    from noa_lab.server._record import ServerRecord
    from noa_lab.server._serve import attach, serve
    from noa_lab.server._server import ApiKey, Server
    from noa_lab.server._settings import ServerSettings
    from noa_lab.server._status import ServerList, ServerStatus, find, missing, read_log, servers
    from noa_lab.server._stop import stop, stop_all
    from noa_lab.server.router._plan_router import plan_router
    from noa_lab.server.router._router import Router
    from noa_lab.server.router._start import start_router
    from noa_lab.server.tuning._tune import tune
    from noa_lab.server.tuning._tuned import Tuned, find_tuned, forget_tuned

__all__ = [
    "ApiKey",
    "CheckList",
    "CheckResult",
    "LogSettings",
    "Router",
    "Server",
    "ServerList",
    "ServerRecord",
    "ServerSettings",
    "ServerStatus",
    "Tuned",
    "address_of",
    "attach",
    "find",
    "find_tuned",
    "foreign_servers",
    "forget_tuned",
    "keep",
    "missing",
    "plan_router",
    "read_log",
    "serve",
    "servers",
    "start_router",
    "stop",
    "stop_all",
    "test_server",
    "tune",
]

_HOMES = {
    "ApiKey": "_server",
    "CheckList": "_checks",
    "CheckResult": "_checks",
    "LogSettings": "_log_settings",
    "Router": "router._router",
    "Server": "_server",
    "ServerList": "_status",
    "ServerRecord": "_record",
    "ServerSettings": "_settings",
    "ServerStatus": "_status",
    "address_of": "_checks",
    "attach": "_serve",
    "find": "_status",
    "foreign_servers": "_foreign",
    "keep": "_keep",
    "missing": "_status",
    "plan_router": "router._plan_router",
    "read_log": "_status",
    "serve": "_serve",
    "servers": "_status",
    "start_router": "router._start",
    "stop": "_stop",
    "stop_all": "_stop",
    "test_server": "_checks",
    "Tuned": "tuning._tuned",
    "find_tuned": "tuning._tuned",
    "forget_tuned": "tuning._tuned",
    "tune": "tuning._tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
