"""llama-server as a child of its watcher: started, read from, told to end, reaped."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from noa_lab.server._death import Guard, end_steps, job_object, parent_death_signal, server_flags
from noa_lab.server._exits import ExitReason, explain_exit, oom_kills
from noa_lab.server._identity import ProcessMark, mark_of
from noa_lab.server._log import LogWriter

__all__ = ["Child"]

# The end of the line is part of the pattern: a path or name that llama-server echoes cannot stand in for it.
_LISTENING = re.compile(
    r"(?:llama_server|main|server is):? listening on https?://[\w.:\[\]]+:(\d{1,5})(?: - starting the main loop)?\s*$"
)
_PHASES = (
    (re.compile(r"load_model: loading model"), "reading the model"),
    (re.compile(r"threadpool init|warming up"), "warming up"),
    (re.compile(r"model loaded\s*$"), "model loaded"),
)
_FOREIGN_SETTINGS = re.compile(r"using config file: (.+)$")


class Child:
    """One llama-server. Its output is drained by a thread that ends with the output; everything else happens on the watcher's thread.

    Args:
        argv: Program and arguments.
        environment: Its whole environment.
        folder: Its working folder.
        log: Where its output goes.
        death_watch: What makes it end with the watcher (`death_watch_for`).
        notify: Called from the draining thread with what was learnt: ("port", N), ("phase", words), ("note", words), ("eof", "").

    Raises:
        OSError: When the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: dict[str, str],
        *,
        folder: Path,
        log: LogWriter,
        death_watch: str,
        notify: Callable[[str, object], None],
    ) -> None:
        self._log = log
        self._notify = notify
        self._oom_before = oom_kills()
        self.tail: collections.deque[str] = collections.deque(maxlen=60)
        self._process = subprocess.Popen(
            list(argv),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",
            creationflags=server_flags(os.name),
            # The watcher's main thread forks and lives as long as the watcher, which PR_SET_PDEATHSIG depends on; no other is alive then.
            preexec_fn=parent_death_signal() if death_watch == "pdeathsig" else None,  # noqa: PLW1509
        )
        try:
            self._guard = Guard(self._process.pid) if death_watch == "guard" else None
            self._job = job_object(self._process.pid) if death_watch == "job" else None
        except BaseException:  # nobody would end it with the watcher
            self._process.kill()
            self._process.communicate()
            raise
        self.mark: ProcessMark = mark_of(self._process.pid) or ProcessMark(self._process.pid, "")
        self._steps: list[tuple[float, str]] = []
        self._ending_since = 0.0
        self._drain = threading.Thread(target=self._read, name="drain", daemon=True)
        self._drain.start()

    def _read(self) -> None:
        output = self._process.stdout
        assert output is not None
        for raw in iter(lambda: output.readline(65536), b""):
            line = raw.decode(errors="replace").rstrip("\r\n")
            self.tail.append(line)
            self._log.write(line)
            self._learn(line)
        self._notify("eof", "")

    def _learn(self, line: str) -> None:
        port = _LISTENING.search(line)
        if port:
            self._notify("port", int(port[1]))
        for pattern, words in _PHASES:
            if pattern.search(line):
                self._notify("phase", words)
        settings = _FOREIGN_SETTINGS.search(line)
        if settings:
            self._notify("note", f"llama-server also read {settings[1].strip()}, which noa_lab cannot switch off.")

    @property
    def gone(self) -> bool:
        """Whether it has ended (it may still have to be reaped)."""
        return self._process.returncode is not None or mark_of(self._process.pid) is None

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._ending_since > 0

    def end(self) -> None:
        """Tell it to end; `step` does the rest."""
        if not self.ending:
            self._ending_since = time.monotonic()
            self._steps = list(end_steps(os.name))
            self.step()

    def step(self) -> None:
        """Do what is due of `end_steps`."""
        while self._steps and time.monotonic() >= self._ending_since + self._steps[0][0]:
            action = self._steps.pop(0)[1]
            with contextlib.suppress(OSError):
                if action == "break":
                    self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
                elif action == "kill":
                    self._process.kill()
                else:
                    self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def reap(self) -> ExitReason:
        """Collect it after it has `gone`, with all of its output, and say why it ended."""
        if self._guard is not None:
            self._guard.dismiss()
        code = self._process.wait()
        self._drain.join(timeout=1.0)
        if not self._drain.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()
        return explain_exit(code, list(self.tail), oom_before=self._oom_before, oom_after=oom_kills())
