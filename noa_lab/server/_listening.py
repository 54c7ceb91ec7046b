"""Which sockets listen on a TCP port of this machine: Linux tells everybody.

`/proc/net/tcp` costs 10 ms or more a look, however short it is, because the kernel walks its whole table of connections for it. Asked by
netlink (sock_diag(7)) for listening sockets alone it takes a tenth of a millisecond.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["holds_socket", "listening_inodes"]

_SOCK_DIAG, _BY_FAMILY, _DUMP, _ERROR, _DONE = 4, 20, 0x301, 2, 3
_LISTEN_STATE = 10
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_ANSWER = struct.Struct("=4xH46x4I")
"""Of `struct inet_diag_msg`: the source port (in network order), then expiry, queues and user; the inode follows."""


def listening_inodes(port: int) -> tuple[int, ...] | None:
    """The inodes of the sockets that listen on a TCP port, IPv4 and IPv6; None where that cannot be seen.

    More than one means that somebody shares the port, and gets some of the connections.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = [*_ask(socket.AF_INET), *_ask(socket.AF_INET6)]
    except OSError:
        found = list(_read())
    return tuple(inode for taken, inode in found if taken == port)


def holds_socket(pid: int, inodes: tuple[int, ...]) -> bool:
    """Whether a process has one of these sockets open.

    Raises:
        PermissionError: When its files cannot be seen.
        OSError: When there is no such process.
    """
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for opened in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(opened.readlink()) in wanted:
                return True
    return False


def _ask(family: int) -> Iterator[tuple[int, int]]:
    """Port and inode of all listening sockets of a family, by netlink."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN_STATE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as link:
        link.settimeout(1.0)
        link.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0) + body)
        while True:
            data = link.recv(1 << 16)
            while len(data) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR or length < _HEADER.size:
                    raise OSError("the kernel does not tell of sockets")
                port, *_ = _ANSWER.unpack_from(data, _HEADER.size)
                (inode,) = struct.unpack_from("=I", data, _HEADER.size + _ANSWER.size)
                yield socket.ntohs(port), inode
                data = data[(length + 3) & ~3 :]


def _read() -> Iterator[tuple[int, int]]:
    """The same from /proc, where netlink is not to be had."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for row in map(str.split, Path(table).read_text(encoding="ascii").splitlines()[1:]):
                if row[3] == f"{_LISTEN_STATE:02X}":
                    yield int(row[1].rpartition(":")[2], 16), int(row[9])
