"""Which process is ours: a pid alone proves nothing, a pid with the moment it was started does.

On Linux the moment is the kernel's own tick count (field 22 of /proc/PID/stat), which no change of the clock moves; elsewhere it is
`psutil.Process.create_time`. Nothing in this room signals a process before `is_alive` has proved both.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from noa_lab.server._listening import holds_socket, listening_inodes

__all__ = ["ProcessMark", "here", "is_alive", "mark_of", "own_mark", "owns_port", "signal_process"]

_DEAD_STATES = ("Z", "X", "x")
_PROC = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process, for good: no later process with the same pid has the same mark.

    Attributes:
        pid: Process id.
        started: When it was started: "ticks:N" (Linux, clock ticks since boot) or "time:S" (elsewhere, seconds since the epoch).
    """

    pid: int
    started: str

    @classmethod
    def from_json(cls, data: object) -> ProcessMark | None:
        """The mark in a record or message, or None where there is none."""
        if not isinstance(data, dict) or not isinstance(data.get("pid"), int):
            return None
        return cls(data["pid"], str(data.get("started", "")))

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"pid": self.pid, "started": self.started}


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a living process; None when there is none with this pid, or only a zombie."""
    return _mark_from_proc(pid) if _PROC else _mark_from_psutil(pid)


def _mark_from_proc(pid: int) -> ProcessMark | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in brackets may hold spaces and brackets of its own: the fields are counted from the last one.
    fields = stat[stat.rfind(b")") + 2 :].split()
    if fields[0].decode() in _DEAD_STATES:
        return None
    return ProcessMark(pid, f"ticks:{int(fields[19])}")


def _mark_from_psutil(pid: int) -> ProcessMark | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessMark(pid, f"time:{process.create_time():.3f}")
    except psutil.Error:
        return None


def own_mark() -> ProcessMark:
    """The mark of this process."""
    return mark_of(os.getpid()) or ProcessMark(os.getpid(), "")


def is_alive(mark: ProcessMark | None) -> bool:
    """Whether exactly this process is still running (a zombie is not)."""
    return mark is not None and bool(mark.started) and mark_of(mark.pid) == mark


def signal_process(mark: ProcessMark | None, number: signal.Signals) -> bool:
    """Send a signal to a process after proving that it is the one that was marked.

    Returns:
        Whether it was sent; False when the process is gone or its pid belongs to another by now.
    """
    if mark is None or not is_alive(mark):
        return False
    try:
        os.kill(mark.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def owns_port(mark: ProcessMark | None, port: int) -> bool:
    """Whether the TCP port is listened on by exactly this process; asked before a key is sent to it."""
    import psutil

    if mark is None or not is_alive(mark):
        return False
    try:
        inodes = listening_inodes(port)
        if inodes is not None:
            return holds_socket(mark.pid, inodes)
    except PermissionError:
        return True  # as below
    except OSError:
        return False
    try:
        connections = psutil.Process(mark.pid).net_connections(kind="tcp")
    except psutil.AccessDenied:
        return True  # the system does not tell; the port is the one that our own child has printed
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port for one in connections)


def here() -> str:
    """Names the machine, its boot and its pid namespace, as "HOST/BOOT/NAMESPACE".

    Pids in a record mean something only where the last two are equal; the host, whose name may change while it runs, tells a
    record from before a reboot from one of another machine. Systems without /proc have only the host: a home shared between two
    such machines is not told apart.
    """
    parts = [socket.gethostname()]
    for read in (_boot, _pid_namespace):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return "/".join(parts)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
