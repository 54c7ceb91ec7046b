"""Regular expressions that cannot hang a run.

Python's `re` may take exponential time on patterns such as (a+)+b and keeps the interpreter to itself meanwhile, so that no thread can
stop it. Patterns that could do that are searched for in a child process whose own watchdog ends it when a search takes too long; the
parent only reads a pipe. The child ends with its parent: its input closes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import threading
from typing import Any

from noa_lab.errors import BadInput, ExperimentError

__all__ = ["MAX_PATTERN", "SECONDS", "compiled", "search"]

MAX_PATTERN = 2_000
"""Most characters of a pattern, after templates are filled in."""

SECONDS = 1.0
"""Longest that one search may take."""

_WATCHDOG = 1
"""Exit code of a child whose watchdog ended it."""

_LAST_BREATH = 5.0
_CANNOT_EXPLODE = re.compile(r"[^*+?{|(]*")

# The watchdog is a thread of faulthandler's in C: it ends the process without asking the interpreter.
_CHILD = """
import faulthandler, json, os, re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
nowhere = open(os.devnull, "w")
for line in sys.stdin.buffer:
    pattern, flags, text, seconds = json.loads(line)
    faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
    found = re.search(pattern, text, flags) is not None
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.buffer.write(b"1\\n" if found else b"0\\n")
    sys.stdout.buffer.flush()
"""


@functools.lru_cache(maxsize=512)
def compiled(pattern: str, flags: int) -> re.Pattern[str]:
    """The pattern, compiled.

    Raises:
        BadInput: When it is too long or no regular expression.
    """
    if len(pattern) > MAX_PATTERN:
        raise BadInput(
            f"A regular expression has {len(pattern):,} characters, more than {MAX_PATTERN:,}.",
            fix=f"Use at most {MAX_PATTERN:,}.",
            field="regex",
            value=pattern[:80],
        )
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        raise BadInput(
            f"{pattern[:200]!r} is not a regular expression: {error}.",
            fix="Correct it; characters such as ( [ . * are taken literally when a backslash stands before them.",
            field="regex",
            value=pattern[:200],
        ) from None


class _Searcher:
    """The child process, started when first needed and again after it ended itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def search(self, pattern: str, flags: int, text: str, seconds: float) -> bool | None:
        """Whether the pattern is in the text; None when that took too long."""
        request = json.dumps([pattern, flags, text, seconds]).encode() + b"\n"
        with self._lock:
            # A second try covers a child that somebody else had ended before this request.
            for _ in range(2):
                answer, code = self._ask(request)
                if answer:
                    return answer == b"1\n"
                if code == _WATCHDOG:
                    return None
            return None

    def _ask(self, request: bytes) -> tuple[bytes, int | None]:
        """The child's answer, empty when it ended instead, and then its exit code."""
        if self._owner != os.getpid():  # a fork has the parent's pipes: leave them alone
            self._child, self._owner = None, os.getpid()
        if self._child is None:
            self._child = self._start()
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(request)
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = b""
        except BaseException:
            self.close()  # an interrupt left an answer in the pipe that belongs to no later question
            raise
        if answer:
            return answer, None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LAST_BREATH)
        code = child.poll()
        self.close()
        return b"", code

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in ("SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()


_searcher = _Searcher()
atexit.register(_searcher.close)


def search(pattern: str, text: str, *, ignore_case: bool = False, seconds: float = SECONDS) -> bool:
    """Whether the regular expression is found anywhere in the text.

    Args:
        pattern: A regular expression of Python's; `.` matches newlines only after `(?s)`.
        text: Where to look.
        ignore_case: Whether capitals and small letters are the same.
        seconds: Longest that it may take.

    Raises:
        BadInput: When the pattern is none.
        ExperimentError: When the search takes too long.
    """
    flags = int(re.IGNORECASE) if ignore_case else 0
    expression = compiled(pattern, flags)
    if _CANNOT_EXPLODE.fullmatch(pattern):
        return expression.search(text) is not None
    found = _searcher.search(pattern, flags, text, seconds)
    if found is None:
        fields: dict[str, Any] = {"pattern": pattern, "characters": len(text)}
        raise ExperimentError(
            f"Looking for {pattern[:200]!r} in an answer of {len(text):,} characters took more than {seconds:g} seconds.",
            fix="Write the pattern without repeats inside repeats, such as (a+)+.",
            **fields,
        )
    return found
