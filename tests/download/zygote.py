"""Forks processes that download, so that hundreds of them can be killed in a minute: imports are paid once.

A line of JSON on standard input starts one: {"url", "target", "options", "kill"}. The answers are its pid, then how it ended. `kill` is
["fsync", "before"], say: the process kills itself right before (or after) its first call of that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import truststore  # noqa: F401 - imported once, here
import urllib3.connection  # noqa: F401

from noa_lab.download import Order, _journal, _part, fetch_file


def kill_at(name: str, when: str) -> None:
    """Die at the first call of a step."""
    owner, attribute = STEPS[name]
    original: Callable[..., Any] = getattr(owner, attribute)

    def step(*args: Any, **options: Any) -> Any:
        if when == "after":
            original(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(
        owner, attribute, step if not isinstance(owner.__dict__.get(attribute), classmethod) else staticmethod(step)
    )


STEPS: dict[str, tuple[Any, str]] = {
    "discard": (_part, "discard"),
    "reserve": (_part, "reserve"),
    "create journal": (_journal.Journal, "create"),
    "fsync": (os, "fsync"),
    "rename": (Path, "replace"),
    "sync folder": (_part, "sync_folder"),
    "unlink": (Path, "unlink"),
}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            try:
                if order["kill"]:
                    kill_at(*order["kill"])
                fetch_file(Order(order["url"], Path(order["target"]), allow_http_loopback=True, **order["options"]))
            except BaseException as error:
                print(f"in the child: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
