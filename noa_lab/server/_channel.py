"""The connection between a watcher and those who hold its server: JSON, one object a line.

A hold is nothing but an open connection: when its process dies, by whatever means, the kernel closes it and the watcher knows. So the
connection must end with the process: it is close-on-exec (Python's default), and a forked child closes its copy at once.

POSIX uses Unix sockets in a folder of the user's own; Windows, which lacks them in CPython, loopback TCP. The secret in the 0600
record is asked for on both.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

__all__ = ["Channel", "ChannelEnded", "connect", "listen", "transport_for"]

UNIX_PATH_LIMIT = 100
"""Bytes: macOS allows 104 with the final zero, Linux 108."""

_MAX_LINE = 1 << 20

Message = dict[str, Any]


class ChannelEnded(Exception):
    """The other side is gone. Internal: callers say in their own words what that means."""


def transport_for(os_name: str) -> str:
    """How holders reach a watcher on this system: "unix" or "tcp"."""
    return "tcp" if os_name == "nt" else "unix"


def listen(transport: str, folder: Path) -> tuple[socket.socket, str]:
    """Open the watcher's listening socket.

    Args:
        transport: "unix" or "tcp".
        folder: The server's own folder (0700), where the socket lies unless its path is too long for one.

    Returns:
        The socket and its address: "unix:PATH" or "tcp:PORT".
    """
    if transport == "tcp":
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        address = f"tcp:{listener.getsockname()[1]}"
    else:
        path = socket_path(folder)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        address = f"unix:{path}"
    listener.listen(64)
    listener.setblocking(False)
    return listener, address


def socket_path(folder: Path) -> Path:
    """Where the socket goes: into `folder`, or into a new private folder with a short name where that is too deep."""
    path = folder / "watcher.sock"
    if len(os.fsencode(path)) <= UNIX_PATH_LIMIT:
        return path
    for parent in (None, "/tmp"):  # noqa: S108 - mkdtemp makes the folder 0700 and ours
        private = Path(tempfile.mkdtemp(prefix="noa-lab-", dir=parent)) / "s"
        if len(os.fsencode(private)) <= UNIX_PATH_LIMIT:
            return private
        private.parent.rmdir()
    raise OSError(f"No folder has a path short enough for a socket (tried {folder} and the temporary folders).")


def remove_address(address: str, folder: Path) -> None:
    """Remove what `listen` left on disk."""
    if not address.startswith("unix:"):
        return
    path = Path(address.removeprefix("unix:"))
    path.unlink(missing_ok=True)
    if path.parent != folder and path.parent.name.startswith("noa-lab-"):
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def connect(address: str, timeout: float) -> Channel:
    """Connect to a watcher.

    Raises:
        OSError: When nobody listens there.
    """
    kind, _, place = address.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: Any = place
    else:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target = ("127.0.0.1", int(place))
    try:
        connection.settimeout(timeout)
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return Channel(connection)


class Channel:
    """A holder's end of a connection. Methods may be called from any thread; there is no thread of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""
        self._lock = threading.RLock()
        self._closed = False
        _OPEN.add(self)

    @property
    def closed(self) -> bool:
        """Whether this side has let go."""
        return self._closed

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ChannelEnded: When the watcher is gone or does not read.
        """
        with self._lock:
            try:
                self._socket.settimeout(10.0)
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise ChannelEnded(str(error)) from None

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None when none came within `timeout` seconds (0: only what is there).

        Raises:
            ChannelEnded: When the watcher is gone.
        """
        with self._lock:
            while b"\n" not in self._buffer:
                try:
                    self._socket.settimeout(timeout)
                    data = self._socket.recv(65536)
                except (TimeoutError, BlockingIOError):
                    return None
                except OSError as error:
                    raise ChannelEnded(str(error)) from None
                if not data or len(self._buffer) > _MAX_LINE:
                    raise ChannelEnded("the watcher closed the connection")
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\n")
            message: Message = json.loads(line)
            return message

    def close(self) -> None:
        """Let go."""
        self._closed = True
        _OPEN.discard(self)
        # Shutting down, and not only closing, ends the hold even if some forked child still has a copy.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def abandon(self) -> None:
        """Drop this process's copy without ending the connection; for a forked child, whose locks cannot be trusted."""
        self._closed = True
        self._socket.close()


_OPEN: weakref.WeakSet[Channel] = weakref.WeakSet()


def _forget_in_child() -> None:
    for channel in list(_OPEN):
        channel.abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
