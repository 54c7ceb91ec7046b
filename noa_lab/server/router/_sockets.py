"""The sockets that the router listens on: the address that was asked for, and loopback always."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket

__all__ = ["CannotBind", "open_sockets"]

_BACKLOG = 1024


class CannotBind(Exception):
    """A port that cannot be had. Internal: the starter says who has it."""


def open_sockets(host: str, port: int, *, reuse: bool) -> list[socket.socket]:
    """Listen.

    Args:
        host: An IP address, or "localhost". Programs of this machine reach the router at 127.0.0.1 whatever it is.
        port: The port; 0: one that the system chooses, the same for all.
        reuse: Share the port with whoever holds it for us (SO_REUSEPORT).

    Raises:
        CannotBind: When another program has the port.
    """
    opened: list[socket.socket] = []
    try:
        for address in _addresses(host):
            opened.append(_open(address, port, reuse=reuse))
            port = opened[0].getsockname()[1]
    except OSError as error:
        for one in opened:
            one.close()
        raise CannotBind(f"{address}:{port}: {error.strerror or error}") from None
    return opened


def _addresses(host: str) -> list[str]:
    if host == "localhost":
        return ["127.0.0.1"]
    address = ipaddress.ip_address(host)
    covers_loopback = address.is_unspecified and address.version == 4
    return [host] if covers_loopback or host == "127.0.0.1" else ["127.0.0.1", host]


def _open(address: str, port: int, *, reuse: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio switches Nagle's algorithm off, which costs 40 ms an answer, only where the protocol is named.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "nt":
            # There SO_REUSEADDR would let a second program have the same port.
            one.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE"), 1)  # noqa: B009 - absent elsewhere
        else:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse and hasattr(socket, "SO_REUSEPORT"):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((address, port))
        one.listen(_BACKLOG)
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one
