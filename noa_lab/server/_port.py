"""A port that nobody else can have: held by the watcher from before llama-server's start until after its end.

Linux and macOS let several sockets of one user share a port if each says SO_REUSEPORT (socket(7)), and connections go only to those
that listen. The watcher binds one and never listens; llama-server binds the same port with `--reuse-port`. So the port stays the same
when llama-server is restarted, and no other program can get it in between, which would then be sent our key.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from noa_lab.errors import PortTaken
from noa_lab.server._listening import listening_inodes

__all__ = [
    "PortHolder",
    "PortInUse",
    "connect_host",
    "hold_port",
    "listeners",
    "port_holder",
    "port_taken",
    "reserve_port",
    "with_port",
]


class PortInUse(OSError):
    """Another program listens on the port. Internal: `errors.PortTaken` is what users see."""


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Who listens on a port.

    Attributes:
        port: The port.
        pid: Its process; None where the system does not tell.
        program: Name of the program; "" where the system does not tell.
    """

    port: int
    pid: int | None = None
    program: str = ""

    def __str__(self) -> str:
        return f"port {self.port} is taken by {self.who}"

    @property
    def who(self) -> str:
        """The program, in words."""
        return f"{self.program} (pid {self.pid})" if self.pid is not None else "a program of another user"


def connect_host(host: str) -> str:
    """The address to connect to from this machine for one that is listened on: any address is reached over loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on


def with_port(argv: Sequence[str], port: int) -> list[str]:
    """The command line with another value after `--port`."""
    changed = list(argv)
    changed[changed.index("--port") + 1] = str(port)
    return changed


def reserve_port(host: str, port: int) -> socket.socket | None:
    """Hold a port for a program that will bind it with SO_REUSEPORT.

    Args:
        host: The address it will listen on.
        port: The port; 0 lets the system choose one.

    Returns:
        The socket that holds the port until it is closed; None where this system cannot hold one.

    Raises:
        PortInUse: When another program has that port, or the address has none for us.
    """
    # One that says SO_REUSEPORT too would share the port with us.
    held = None if port and _listens(host, port) else hold_port(host, port)
    if held is None and hasattr(socket, "SO_REUSEPORT"):
        holder = port_holder(port) if port else None
        raise PortInUse(str(holder or f"{_name(port)} on {host} cannot be opened"))
    return held


def hold_port(host: str, port: int) -> socket.socket | None:
    """Keep others from getting a port after its server's end: a socket that is bound to it and never listens.

    Whoever may still send something there (an engine, with the key) holds it, so that nobody else can be there. None where that cannot
    be done: the system has no SO_REUSEPORT, or the server does not use it.
    """
    reuse = getattr(socket, "SO_REUSEPORT", None)
    if reuse is None:
        return None
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, reuse, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        return None
    return held


def _listens(host: str, port: int) -> bool:
    """Whether somebody listens on a port."""
    count = listeners(port)
    return _answers(connect_host(host), port) if count is None else count > 0


def port_holder(port: int) -> PortHolder | None:
    """Who listens on a TCP port of this machine, or None when nobody does, as far as that can be seen."""
    import psutil

    try:
        found = [
            one
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        ]
    except psutil.AccessDenied:  # macOS tells it to root alone
        return PortHolder(port) if _answers("127.0.0.1", port) else None
    if not found:
        return None
    pid = next((one.pid for one in found if one.pid), None)
    program = ""
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            program = psutil.Process(pid).name()
    return PortHolder(port, pid, program)


def _name(port: int) -> str:
    return f"port {port}" if port else "a port"


def port_taken(host: str, port: int, *, ours: str | None, elsewhere: str) -> PortTaken:
    """The error for a port that could not be had; says which program listens on it, if one does.

    Args:
        host: The address that was asked for.
        port: The port.
        ours: The server of noa_lab that has it, if one has.
        elsewhere: How to choose another port, as the end of a sentence.
    """
    holder = port_holder(port) if port else None
    if ours is not None:
        why, fix = f"is taken by noa_lab's own {ours}", f"Stop it with `noa-lab stop {ours}`"
    elif holder is not None:
        why, fix = f"is taken by {holder.who}", "End that program"
    else:
        why = "cannot be opened: it is no address of this machine, or the port is reserved"
        fix = "Correct the host"
    return PortTaken(
        f"{_name(port).capitalize()} on {host} {why}.",
        fix=f"{fix}, or {elsewhere}.",
        host=host,
        port=port,
        server=ours,
        pid=holder.pid if holder is not None else None,
        program=(holder.program or None) if holder is not None else None,
    )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def listeners(port: int) -> int | None:
    """How many sockets listen on a TCP port of this machine; None where that cannot be seen (only Linux tells everybody).

    More than one means that somebody shares the port, and gets some of the connections.
    """
    found = listening_inodes(port)
    return None if found is None else len(found)
