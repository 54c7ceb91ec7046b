"""The watcher's process: run as `python -m noa_lab.server._watch`, never by hand.

It detaches itself (POSIX: a second fork in a session of its own), so that no interrupt of a kernel reaches it and no holder has to
reap it. Its standard input is the starter's connection and first hold, or, where that cannot be inherited, a pipe with the
specification alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from noa_lab.server._watcher import Watcher

__all__ = ["main"]


def _starter_socket() -> socket.socket:
    """The starter's connection, which is this process's standard input."""
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return connection


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def main() -> None:
    """Detach, read the specification, watch."""
    if hasattr(os, "fork") and os.fork():
        os._exit(0)
    if sys.argv[1:] == ["connect"]:
        line = sys.stdin.buffer.readline()
        starter = None
    else:
        starter = _starter_socket()
        line = _read_line(starter)
    if line.endswith(b"\n"):  # else the starter died before it had said what to do
        Watcher(json.loads(line), starter).run()


if __name__ == "__main__":
    main()
