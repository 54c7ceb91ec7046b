"""Why a llama-server ended, in plain words.

Exit codes and messages: llama.cpp b11312 (`tools/server/server.cpp`, `server-http.cpp`): 0 asked to, 1 bad argument, port, or model;
a negative code is the signal that ended it.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ExitReason", "explain_exit", "oom_kills"]

_SIGNALS = {
    "SIGILL": (
        "cpu",
        "the processor refused one of its instructions (SIGILL): this llama.cpp was built for another CPU",
    ),
    "SIGSEGV": ("crash", "it touched memory that is not its own (SIGSEGV)"),
    "SIGBUS": ("crash", "a file it had mapped shrank or could not be read (SIGBUS)"),
    "SIGABRT": ("crash", "llama.cpp stopped itself (SIGABRT)"),
    "SIGFPE": ("crash", "an arithmetic fault (SIGFPE)"),
    "SIGTERM": ("signal", "somebody asked it to end (SIGTERM)"),
    "SIGINT": ("signal", "it was interrupted (SIGINT)"),
}
_WINDOWS = {
    0xC0000005: "SIGSEGV",
    0xC000001D: "SIGILL",
    0xC0000374: "SIGABRT",
    0xC0000409: "SIGABRT",
    0xC000013A: "SIGINT",
}

_MESSAGES = (
    ("port", re.compile(r"couldn't bind|address already in use", re.IGNORECASE), "its port could not be opened"),
    (
        "argument",
        re.compile(r"error: (?:invalid argument|while handling argument|unknown argument)", re.IGNORECASE),
        "it refused an option",
    ),
    (
        "library",
        re.compile(r"error while loading shared libraries|Library not loaded|image not found", re.IGNORECASE),
        "a library is missing",
    ),
    (
        "memory",
        re.compile(
            r"failed to allocate|unable to allocate|out of memory|bad_alloc|cannot allocate memory", re.IGNORECASE
        ),
        "there is not enough memory",
    ),
    (
        "model",
        re.compile(
            r"(?:failed|error|unable) (?:to load|loading) model|failed to read header|invalid magic", re.IGNORECASE
        ),
        "the model file cannot be loaded",
    ),
)
_TELLING = re.compile(
    r"gguf_init|error loading model|invalid magic|corrupt|tensor .*(?:not|missing|out of)|failed to open|No such file",
    re.IGNORECASE,
)

_FIXES = {
    "memory": "Take a smaller model or quantisation, a smaller context_size or fewer slots, or close other programs.",
    "model": "Check the file with `noa-lab models verify`, or get it again.",
    "port": "Choose another port, or end that program; with port 0 the system chooses a free one.",
    "argument": "The log's last lines name the option; install the default llama.cpp with `noa-lab install`.",
    "library": "Install llama.cpp again: `noa-lab install`.",
    "cpu": "Install the portable llama.cpp: `noa-lab install` without --native.",
    "stopped": "Serve the model again.",
    "hang": "Start it again; if that happens with long prompts on a slow machine, give it a longer hang_seconds.",
    "crash": "Start it again; if it happens again, the log's last lines belong into a bug report.",
    "signal": "Start it again.",
    "start": "Install llama.cpp again: `noa-lab install`.",
    "other": "The log's last lines say more.",
}


@dataclass(frozen=True, slots=True)
class ExitReason:
    """Why it ended.

    Attributes:
        kind: "stopped", "memory", "model", "port", "argument", "library", "cpu", "crash", "hang", "signal", "start" or "other".
        words: The reason in words, as the end of a sentence that begins with "llama-server ended: ".
        exit_code: What the system reported; negative for a signal; None when it is not known.
    """

    kind: str
    words: str
    exit_code: int | None = None

    @property
    def fix(self) -> str:
        """What to do about it, in one sentence."""
        return _FIXES.get(self.kind, _FIXES["other"])


def oom_kills() -> int:
    """How many processes the kernel has ended for lack of memory so far, in this control group or on this machine."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(path).read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            continue
    return 0


def explain_exit(code: int, lines: list[str], *, oom_before: int = 0, oom_after: int = 0) -> ExitReason:
    """Put an exit into words.

    Args:
        code: Exit code as `subprocess` reports it.
        lines: The log's last lines.
        oom_before: `oom_kills()` when the server was started.
        oom_after: `oom_kills()` now.
    """
    name = _signal_name(code)
    if name == "SIGKILL":
        if oom_after > oom_before:
            return ExitReason("memory", "the system killed it because memory ran out (SIGKILL)", code)
        return ExitReason(
            "signal", "it was killed (SIGKILL) by another process, or by the system for lack of memory", code
        )
    if name:
        kind, words = _SIGNALS.get(name, ("signal", f"it was ended by {name}"))
        assertion = _last(lines, re.compile(r"GGML_ASSERT|GGML_ABORT|terminate called|what\(\):"))
        return ExitReason(kind, f"{words}: {assertion}" if assertion else words, code)
    for kind, pattern, words in _MESSAGES:
        found = _last(lines, pattern)
        if found:
            detail = (_first(lines, _TELLING) or found) if kind == "model" else found
            return ExitReason(kind, f"{words}: {detail}", code)
    last = _last(lines, re.compile(r"\bE\b|error|fail", re.IGNORECASE))
    return ExitReason("other", f"exit code {code}" + (f": {last}" if last else ""), code)


def _signal_name(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return _WINDOWS.get(code & 0xFFFFFFFF, "") if code > 255 else ""


def _clean(line: str) -> str:
    """A log line without its time stamp and level."""
    return re.sub(r"^[\d.]+ [A-Z] +", "", line).strip()[:300]


def _last(lines: list[str], pattern: re.Pattern[str]) -> str:
    return next((_clean(line) for line in reversed(lines) if pattern.search(line)), "")


def _first(lines: list[str], pattern: re.Pattern[str]) -> str:
    return next((_clean(line) for line in lines if pattern.search(line)), "")
