"""Child processes that never outlive us: compilers, pip, the llama-server of the smoke test."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from noa_lab.events import CancelToken

__all__ = ["Child", "Finished", "clean_environment", "describe_exit", "run", "with_patient_threads"]

_PATIENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "500"}
"""Lets llama.cpp's threads sleep when they have waited for each other for some microseconds. By default they spin: as soon as another
program wants a core, the waiting thread keeps the working one from running. But a small model's threads wait for each other hundreds of
times a token, and to sleep each time costs more than the second core brings. SmolLM2-135M on 2 cores, tokens generated a second with the
other core free, and with another program on it: spinning longer 118 and 2, sleeping at once 44 and 57, this 130 and 44; one thread alone 85
with either. The first name is for every OpenMP, the second one for GCC's, where it goes first."""

_GUARD = Path(__file__).with_name("_guard.py")
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 1.0
"""How long the output of a command that has ended may stay open before it is given up."""
_TAIL_LINES = 400

_SCRUBBED_PREFIXES = ("LLAMA_", "GGML_", "MTMD_", "AIP_", "HF_", "CMAKE_")
_SCRUBBED = frozenset(
    {
        "CFLAGS",
        "CXXFLAGS",
        "CPPFLAGS",
        "LD_PRELOAD",
        "MODEL_ENDPOINT",
        "HUGGINGFACE_HUB_CACHE",
        "HUGGING_FACE_HUB_TOKEN",
    }
)

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY")

_KEPT = frozenset({"GGML_VK_VISIBLE_DEVICES"})
"""Which of several GPUs to use is the user's word, as CUDA_VISIBLE_DEVICES is; servers heed it too."""


def clean_environment(private: Path, **additions: str) -> dict[str, str]:
    """The environment for a compiler or a llama.cpp program: nothing in it decides what they do.

    llama.cpp reads LLAMA_ARG_* and a config.ini in the user's configuration folder, GGML_* switches kernels, CFLAGS would put
    instructions into a portable build that it must not have, and tokens and keys are nobody's business here.

    Args:
        private: An empty folder that stands in for the user's configuration folder.
        additions: Variables to add.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT
        or (
            name.upper() not in _SCRUBBED
            and not name.upper().startswith(_SCRUBBED_PREFIXES)
            and not _SECRET.search(name.upper())
        )
    }
    return with_patient_threads(kept) | {"XDG_CONFIG_HOME": str(private), "LC_ALL": "C"} | additions


def with_patient_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which llama.cpp's threads do not keep others from a core by waiting, unless it says itself how they wait."""
    return {**({} if _PATIENT.keys() & environment.keys() else _PATIENT), **environment}


def describe_exit(returncode: int) -> str:
    """How a process ended, in words: the signal by name where it was one."""
    if returncode >= 0 and os.name != "nt":
        return f"it ended with exit code {returncode}"
    if os.name == "nt":
        known = {0xC000001D: "illegal instruction", 0xC0000005: "access violation", 0xC0000135: "a DLL is missing"}
        code = returncode & 0xFFFFFFFF
        return (
            f"it ended with exit code {code:#x} ({known[code]})"
            if code in known
            else f"it ended with exit code {code:#x}"
        )
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    meaning = {
        "SIGILL": ": this CPU lacks an instruction that the build uses",
        "SIGSEGV": ": it read memory that it must not",
        "SIGBUS": ": it read memory that is not there",
        "SIGFPE": ": a forbidden calculation",
        "SIGABRT": ": it gave up by itself",
        "SIGKILL": ": killed from outside, often for lack of memory",
    }
    return f"it died with {name}{meaning.get(name, '')}"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended.

    Attributes:
        returncode: Exit code; negative for a signal.
        tail: The last lines it wrote, standard output and error together.
        timed_out: Whether it was ended because it took too long.
    """

    returncode: int
    tail: tuple[str, ...]
    timed_out: bool = False

    @property
    def text(self) -> str:
        """The last lines as one text."""
        return "\n".join(self.tail)


class Child:
    """A running command. Leaving the `with` block ends it and everything it started; so does our own death.

    Args:
        command: Program and arguments; no shell.
        cwd: Its working folder.
        env: Its whole environment.
        log: File that gets every line as well, as long as there is space for it.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # only Windows has it
        self._log: IO[str] | None = log.open("a", encoding="utf-8", errors="replace") if log is not None else None
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *map(str, command)],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Our own Ctrl-C must reach us first: we then close the pipe.
            start_new_session=os.name != "nt",
            creationflags=flags,
        )
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="noa-lab child output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Pass the output on to its end; the thread's own, as are the pipe and the log."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                line = raw.decode("utf-8", "replace").rstrip()
                self.tail.append(line)
                if self._log is not None:
                    # A full disk costs the log, not the command: that has its own words about it.
                    with suppress(OSError):
                        self._log.write(line + "\n")
                        self._log.flush()
                self._lines.put(line)
        self._lines.put(None)
        if self._log is not None:
            with suppress(OSError):
                self._log.close()

    def lines(
        self,
        *,
        until: float | None = None,
        cancel: CancelToken | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> Iterator[str]:
        """Lines as they come, until the command ends.

        Args:
            until: `time.monotonic()` after which `TimeoutError` is raised.
            cancel: Raises `Cancelled` within a tenth of a second.
            on_idle: Called every tenth of a second without a line.
        """
        silent = 0.0
        while True:
            if cancel is not None:
                cancel.check()
            if until is not None and time.monotonic() > until:
                raise TimeoutError
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                # Counted in turns and not by the clock: when this whole process has stood still, what was written meanwhile is on its way.
                silent = 0.0 if self.returncode is None else silent + _POLL_SECONDS
                if silent > _SILENT_SECONDS:
                    # Something that it started and that went its own way (a compiler's daemon) keeps the output open.
                    return
                if on_idle is not None:
                    on_idle()
                continue
            if line is None:
                return
            silent = 0.0
            yield line

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Exit code, once it has ended and `tail` is whole; `subprocess.TimeoutExpired` when it has not after `seconds`."""
        returncode = self._process.wait(seconds)
        self._reader.join(_SILENT_SECONDS)
        return returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End it and everything it started, and wait for that."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_SILENT_SECONDS)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    seconds: float | None = None,
    on_line: Callable[[str], None] | None = None,
    on_idle: Callable[[], None] | None = None,
    cancel: CancelToken | None = None,
) -> Finished:
    """Run a command to its end.

    Args:
        command: Program and arguments; no shell.
        cwd: Its working folder.
        env: Its whole environment; None inherits ours.
        log: File that gets every line as well.
        seconds: Longest time it may take; None waits for ever.
        on_line: Called with each line.
        on_idle: Called every tenth of a second without a line.
        cancel: Ends it and everything it started.

    Raises:
        Cancelled: When `cancel` was.
    """
    until = time.monotonic() + seconds if seconds is not None else None
    with Child(command, cwd=cwd, env=env, log=log) as child:
        try:
            for line in child.lines(until=until, cancel=cancel, on_idle=on_idle):
                if on_line is not None:
                    on_line(line)
            returncode = child.wait(10)
        except (TimeoutError, subprocess.TimeoutExpired):
            child.end()
            return Finished(child.returncode or 0, tuple(child.tail), timed_out=True)
    return Finished(returncode, tuple(child.tail))
