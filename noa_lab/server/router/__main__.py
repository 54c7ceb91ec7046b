"""The router's process: run by its watcher as `python -m noa_lab.server.router`, never by hand.

It prints what a watcher waits for, as llama-server does ("main: listening on ..."), and ends at once on SIGTERM: what it holds ends
with it. Its key comes in the environment, as llama-server's does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from noa_lab.server.router._app import RouterApp
from noa_lab.server.router._desk import Desk
from noa_lab.server.router._forward import Forwarder
from noa_lab.server.router._guard import guarded
from noa_lab.server.router._model_servers import ModelServers
from noa_lab.server.router._plan import RouterPlan
from noa_lab.server.router._sockets import CannotBind, open_sockets

__all__ = ["main"]

_LOG = logging.getLogger("noa_lab.router")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LETTERS = {"DEBUG": "D", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "E"}
_END_SECONDS = 0.4


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit code."""
    options = _options(arguments)
    plan = RouterPlan.from_dict(json.loads(options.plan.read_text(encoding="utf-8")))
    _log_like_llama_server(plan.logging.level)
    # How the models' watchers call their holder.
    sys.argv[0] = "router"
    try:
        sockets = open_sockets(options.host, options.port, reuse=options.reuse_port)
    except CannotBind as error:
        sys.stderr.write(f"E error: couldn't bind: {error}\n")
        return 1
    _raise_file_limit()
    asyncio.run(_serve(plan, sockets, os.environ.pop("LLAMA_API_KEY")))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="noa_lab.server.router")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reuse-port", action="store_true")
    return parser.parse_args(arguments)


class _Lines(logging.Formatter):
    """Lines as llama-server writes them: minutes, seconds, milliseconds and microseconds since the start, a letter, the text."""

    def format(self, record: logging.LogRecord) -> str:
        since = int(record.relativeCreated * 1000)
        minutes, rest = divmod(since, 60_000_000)
        stamp = f"{minutes}.{rest // 1_000_000:02d}.{rest // 1000 % 1000:03d}.{rest % 1000:03d}"
        return f"{stamp} {_LETTERS[record.levelname]} router: {super().format(record)}"


def _log_like_llama_server(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _LOG.setLevel(_LEVELS[level])
    # It says that an answer was not finished where we break one off on purpose.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def _raise_file_limit() -> None:
    """Each client costs two files, one for it and one for the model's server; the usual limit is 1024."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(plan: RouterPlan, sockets: list[socket.socket], key: str) -> None:
    servers = ModelServers(plan)
    desk = Desk(plan, servers)
    forwarder = Forwarder(desk)
    names = (plan.host, socket.gethostname(), socket.getfqdn()) if plan.allow_remote else ()
    app = guarded(RouterApp(plan, desk, forwarder).asgi, key, names=names, addresses=plan.allow_remote)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
    )
    _end_on_sigterm(servers)
    watching = asyncio.ensure_future(desk.watch())
    _LOG.info("%d models, %.1f GB for all of them", len(plan.models), plan.policy.budget_bytes / 1e9)
    await _Web(config, plan.host).serve(sockets)
    watching.cancel()


class _Web(uvicorn.Server):
    """uvicorn without signal handlers of its own, that says when it listens in the words that a watcher waits for."""

    def __init__(self, config: uvicorn.Config, host: str) -> None:
        super().__init__(config)
        self._host = f"[{host}]" if ":" in host else host

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        assert sockets
        port = sockets[0].getsockname()[1]
        print(f"main: listening on http://{self._host}:{port}", file=sys.stderr, flush=True)


def _end_on_sigterm(servers: ModelServers) -> None:
    """Let go of the models first, so that they end while this process does; then go, whatever threads and clients still want."""

    def end(number: int, frame: object) -> None:
        del number, frame
        _LOG.info("ending")
        threading.Thread(target=servers.release_all, daemon=True).start()
        threading.Timer(_END_SECONDS, os._exit, (0,)).start()

    signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "SIGBREAK"):  # Windows: what a watcher sends there
        signal.signal(signal.SIGBREAK, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
