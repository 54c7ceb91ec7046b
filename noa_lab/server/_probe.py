"""Looking at a llama-server while it lives: is it ready, what do its slots do, how does its process do?

A thread of the watcher asks, so that the watcher itself never waits for an answer. The key goes to no port that the watcher has not
reserved or read from the server's own log.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from noa_lab.server._port import connect_host
from noa_lab.server._supervision import Sight, SlotSight
from noa_lab.server._vitals import vitals_of

__all__ = ["Probe", "as_slot"]

INTERVAL = 1.0
"""Seconds between two looks."""

_SOON = 0.01
_MOST_BYTES = 16 << 20


class Probe:
    """Looks at one llama-server from its start to its end.

    Args:
        pid: Its process.
        host: Address that it listens on.
        api_key: Its key.
        hang_seconds: Its patience; an answer is waited for as long as a quarter of it, at most 5 s.
        notify: Told ("healthy", "") once and ("sight", Sight) again and again; called from the thread.
    """

    def __init__(
        self, pid: int, *, host: str, api_key: str, hang_seconds: float, notify: Callable[[str, object], None]
    ) -> None:
        self._pid = pid
        self._host = connect_host(host)
        self._key = api_key
        self._patience = min(5.0, max(0.2, hang_seconds / 4))
        self._interval = min(INTERVAL, self._patience)
        self._notify = notify
        self._port = 0
        self._listening = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self, port: int) -> None:
        """Begin; `port` is 0 where it is not known yet."""
        self._port = port
        self._thread.start()

    def listening(self, port: int) -> None:
        """Take in what the server has said: it listens, on this port."""
        self._port = port
        self._listening.set()

    def stop(self) -> None:
        """End, and wait for the end of an answer that is under way."""
        self._stop.set()
        self._listening.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * self._patience)

    def _run(self) -> None:
        if self._await_ready():
            self._notify("healthy", "")
            while not self._stop.wait(self._interval):
                self._look()

    def _await_ready(self) -> bool:
        """Ask /health, without the key, until it says yes: at once when the server says that it listens, now and then before."""
        looked = 0.0
        while not self._stop.is_set():
            said = self._listening.wait(self._interval)
            status = self._get("/health", key="")[0] if self._port and not self._stop.is_set() else 0
            if status == 200:
                return not self._stop.is_set()
            if time.monotonic() >= looked + self._interval:
                looked = time.monotonic()
                self._notify("sight", Sight(looked, vitals_of(self._pid), answered=status != 0))
            if said:
                self._stop.wait(_SOON)
        return False

    def _look(self) -> None:
        status, body = self._get("/slots", key=self._key)
        slots: tuple[SlotSight, ...] = ()
        if status == 200:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                slots = tuple(map(as_slot, json.loads(body)))
        if not self._stop.is_set():
            # Any answer at all comes from the loop: /slots may be switched off.
            self._notify("sight", Sight(time.monotonic(), vitals_of(self._pid), answered=status != 0, slots=slots))

    def _get(self, path: str, key: str) -> tuple[int, bytes]:
        """Status and body; status 0 when there is no answer in time."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        request += f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n"
        deadline = time.monotonic() + self._patience
        data = b""
        try:
            with socket.create_connection((self._host, self._port), timeout=self._patience) as connection:
                connection.sendall(request.encode())
                while len(data) < _MOST_BYTES and time.monotonic() < deadline:
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body
        except (OSError, ValueError, IndexError):
            return 0, b""


def as_slot(data: dict[str, Any]) -> SlotSight:
    """One entry of /slots (b11312; older ones have `next_token` as an object, and lack the prompt's progress)."""
    following = data.get("next_token") or {}
    first = following[0] if isinstance(following, list) else following
    return SlotSight(
        id=int(data["id"]),
        busy=bool(data.get("is_processing")),
        task=int(data.get("id_task", -1)),
        read=int(data.get("n_prompt_tokens_processed") or 0),
        written=int(first.get("n_decoded") or 0),
        context_size=int(data.get("n_ctx") or 0),
    )
