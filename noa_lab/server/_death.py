"""How llama-server is made to end when its watcher does, SIGKILL included; and how it is told to end.

Linux asks the kernel (PR_SET_PDEATHSIG); Windows puts it into a job object that dies with its last handle. Other systems have
neither: there a guard, a shell of about 1 MB, reads from a pipe that only the watcher can write to, and kills the server when that
pipe ends without the word "done".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

__all__ = [
    "Guard",
    "death_watch_for",
    "end_steps",
    "job_object",
    "parent_death_signal",
    "server_flags",
    "watcher_flags",
]

# Process creation flags of the Windows API, which `subprocess` names on Windows alone.
_NEW_PROCESS_GROUP, _NO_WINDOW, _BREAKAWAY = 0x200, 0x8000000, 0x1000000

_PR_SET_PDEATHSIG = 1
_GUARD = 'read -r word; [ "$word" = done ] || kill -9 "$1" 2>/dev/null'


def death_watch_for(platform: str) -> str:
    """The way to be used on `platform` (as in `sys.platform`): "pdeathsig", "job" or "guard"."""
    if platform == "linux":
        return "pdeathsig"
    return "job" if platform == "win32" else "guard"


def end_steps(os_name: str) -> tuple[tuple[float, str], ...]:
    """How llama-server is told to end: seconds after the decision, and what is done then. It is over well within 2 s.

    Its first SIGTERM waits for open streams, its second does not (`tools/server/server.cpp`), SIGKILL asks nobody. On Windows it
    handles CTRL_C alone, which cannot be sent to one group; CTRL_BREAK can, and ends it as every program that does not handle it.
    """
    if os_name == "nt":
        return ((0.0, "break"), (0.5, "kill"))
    return ((0.0, "terminate"), (0.5, "terminate"), (1.0, "kill"))


def watcher_flags(os_name: str) -> tuple[int, ...]:
    """Process creation flags for a watcher, the best first.

    On Windows it gets a console of its own that nobody sees, through which it can send CTRL_BREAK to llama-server, and it leaves the
    job of the program that starts it (an IDE's, for example), in which it would end with that program; where the job forbids it, it
    stays.
    """
    if os_name != "nt":
        return (0,)
    apart = _NEW_PROCESS_GROUP | _NO_WINDOW
    return (apart | _BREAKAWAY, apart)


def server_flags(os_name: str) -> int:
    """Process creation flags for llama-server: on Windows a group of its own in the watcher's console, which CTRL_BREAK reaches alone."""
    return _NEW_PROCESS_GROUP if os_name == "nt" else 0


def parent_death_signal() -> Callable[[], None]:
    """A function for the child between fork and exec: it asks the kernel for SIGKILL at the end of the thread that forked it."""
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != watcher:
            os._exit(1)  # the watcher died before the kernel was asked

    return in_child


class Guard:
    """The shell that kills a process when this one dies without having said that all is well."""

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "noa-lab-guard", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Send it home; to be called before the process it guards against is reaped and its pid is free again."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(b"done\n", timeout=2)


def job_object(pid: int) -> object:
    """Put a process into a job that is killed with the last handle to it, which is the one returned.

    Source: Windows API, `JOBOBJECT_EXTENDED_LIMIT_INFORMATION` with `JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE`.

    Raises:
        OSError: When Windows refuses.
    """
    kill_on_close, extended_limits, all_access = 0x2000, 9, 0x1F0FFF
    kernel: Any = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 - absent elsewhere
    for name in ("CreateJobObjectW", "OpenProcess"):
        getattr(kernel, name).restype = ctypes.c_void_p
    size_t, dword, int64 = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_int64

    class Limits(ctypes.Structure):
        _fields_ = [
            ("per_process_time", int64),
            ("per_job_time", int64),
            ("flags", dword),
            ("min_set", size_t),
            ("max_set", size_t),
            ("active", dword),
            ("affinity", size_t),
            ("priority", dword),
            ("scheduling", dword),
            ("io_counters", ctypes.c_uint64 * 6),
            ("process_memory", size_t),
            ("job_memory", size_t),
            ("peak_process", size_t),
            ("peak_job", size_t),
        ]

    job = kernel.CreateJobObjectW(None, None)
    limits = Limits(flags=kill_on_close)
    process = kernel.OpenProcess(all_access, False, pid)
    done = bool(job and process) and kernel.SetInformationJobObject(
        ctypes.c_void_p(job), extended_limits, ctypes.byref(limits), ctypes.sizeof(limits)
    )
    done = done and kernel.AssignProcessToJobObject(ctypes.c_void_p(job), ctypes.c_void_p(process))
    for handle in (process, None if done else job):
        if handle:
            kernel.CloseHandle(ctypes.c_void_p(handle))
    if not done:
        raise OSError("Windows did not take llama-server into a job object.")
    return job
