"""The watcher's side of its connections: who holds the server, what they ask, what they are told.

Messages are JSON, one object a line. Holder to watcher: {"secret", "op": "hold"|"status"|"keep"|"stop", "id", ...}; "hold" makes the
connection count. Watcher to holder: {"event": "state"|"progress"|"exit"|"refused", ...} and {"reply": id, ...}.
"""

from __future__ import annotations

import hmac
import json
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Peer", "Peers"]

_LONGEST = 65536
_MOST_UNSENT = 1 << 20

Message = dict[str, Any]


@dataclass(eq=False, slots=True)
class Peer:
    """A connection to the watcher."""

    socket: socket.socket
    holder: Message | None = None
    trusted: bool = False
    buffer: bytes = field(default=b"", repr=False)
    unsent: bytes = field(default=b"", repr=False)


class Peers:
    """The connections. Used by the watcher's thread alone.

    Args:
        listener: Where new ones come from.
        secret: What each has to begin with.
        obey: Called with a peer and a message of it that was not refused.
    """

    def __init__(self, listener: socket.socket, secret: str, obey: Callable[[Peer, Message], None]) -> None:
        self._listener = listener
        self._secret = secret.encode()
        self._obey = obey
        self._selector = selectors.DefaultSelector()
        self._peers: list[Peer] = []
        self._selector.register(listener, selectors.EVENT_READ, None)

    def watch(self, other: socket.socket) -> None:
        """Let `turn` also return when there is something to read here."""
        self._selector.register(other, selectors.EVENT_READ, other)

    def add(self, connection: socket.socket, holder: Message | None = None) -> None:
        """Take in a connection; with `holder`, one that is trusted and holds already."""
        connection.setblocking(False)
        peer = Peer(connection, holder, trusted=holder is not None)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def turn(self, timeout: float) -> None:
        """Wait for up to `timeout` seconds for something to do, and do it."""
        for key, events in self._selector.select(max(0.0, timeout)):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, Peer):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ and key.data in self._peers:
                    self._read(key.data)

    def holders(self) -> list[Message]:
        """Who holds the server, as they have introduced themselves."""
        return [peer.holder for peer in self._peers if peer.holder is not None]

    def send(self, peer: Peer, message: Message) -> None:
        """Tell one peer. For one that does not read now, such as an idle notebook, it is kept; progress is not, nor more than 1 MiB."""
        data = json.dumps(message).encode() + b"\n"
        progress = message.get("event") == "progress"
        if peer.unsent and (progress or len(peer.unsent) + len(data) > _MOST_UNSENT):
            return
        peer.unsent += data
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        """Send what can be sent; the rest waits until there is room."""
        try:
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        waiting = selectors.EVENT_WRITE if peer.unsent else 0
        self._selector.modify(peer.socket, selectors.EVENT_READ | waiting, peer)

    def tell_holders(self, message: Message) -> None:
        """Tell all who hold the server."""
        for peer in [peer for peer in self._peers if peer.holder is not None]:
            self.send(peer, message)

    def close(self) -> None:
        """Close every connection and the listener."""
        for peer in self._peers:
            peer.socket.close()
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self.add(connection)

    def _drop(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self._selector.unregister(peer.socket)
            peer.socket.close()

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(peer.buffer) > _LONGEST:
            self._drop(peer)
            return
        *lines, peer.buffer = (peer.buffer + data).split(b"\n")
        for line in lines:
            try:
                self._take(peer, json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                self._drop(peer)
                return

    def _take(self, peer: Peer, message: Message) -> None:
        if not peer.trusted:
            if not hmac.compare_digest(str(message.get("secret", "")).encode(), self._secret):
                self._drop(peer)
                return
            peer.trusted = True
        self._obey(peer, message)
