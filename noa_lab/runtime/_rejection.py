"""How a llama.cpp that failed its trial is described."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from noa_lab.errors import RuntimeRejected
from noa_lab.runtime._process import Finished, describe_exit

__all__ = ["last_words", "rejected", "rejected_for"]


def last_words(lines: Sequence[str]) -> str:
    """The line of the output that tells most, in brackets; "" without output."""
    telling = [line for line in lines if re.search(r"error|fail|cannot|not found|abort", line, re.IGNORECASE)] or list(
        lines
    )
    return f" ({telling[-1].strip()[:300]})" if telling else ""


def rejected(where: Path, reason: str, kind: str, returncode: int = 0) -> RuntimeRejected:
    """The error for a llama.cpp that does not work here.

    Args:
        where: Its folder, or the Python whose bindings were tried.
        reason: What happened, as a part of a sentence.
        kind: "no program", "died", "hang", "foreign version", "wrong answer" or "model" (the model could not be loaded: no other
            build would help).
        returncode: How the process ended; a negative one is the number of a signal.
    """
    name = signal.Signals(-returncode).name if returncode < 0 and -returncode in set(signal.Signals) else ""
    fix = (
        "Try another model file; `noa-lab models verify` checks the bytes of this one."
        if kind == "model"
        else "Install another build; `noa-lab check` shows what this machine can run."
    )
    return RuntimeRejected(
        f"The llama.cpp in {where} does not work here: {reason}.",
        fix=fix,
        reason=reason,
        kind=kind,
        signal=name,
        path=str(where),
    )


def rejected_for(where: Path, what: str, done: Finished) -> RuntimeRejected:
    """The error for a command of the trial that failed.

    Args:
        where: See `rejected`.
        what: What was run, in words.
        done: How it ended.
    """
    if done.timed_out:
        return rejected(where, f"{what} hung", "hang")
    reason = f"{what}: {describe_exit(done.returncode)}{last_words(done.tail)}"
    return rejected(where, reason, "died", done.returncode)
