"""Forks processes that get a model, and die right before the n-th change that they make to the file system.

A line of JSON on standard input starts one: {"ref", "home", "endpoint", "cache", "environment", "kill"}; the answer is its wait status.
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
from huggingface_hub import HfApi, constants  # noqa: F401

from noa_lab import models
from noa_lab.paths import Home

CHANGES = ("replace", "rename", "unlink", "remove", "symlink", "link", "mkdir", "rmdir", "fsync")


def die_before(number: int) -> None:
    """Die before the `number`-th change, over all kinds of them and all threads."""
    left = [number]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return change

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def run(order: dict[str, Any]) -> int:
    constants.ENDPOINT, constants.HF_HUB_CACHE = order["endpoint"], order["cache"]
    constants.HUGGINGFACE_CO_URL_TEMPLATE = order["endpoint"] + "/{repo_id}/resolve/{revision}/{filename}"
    os.environ.update(order["environment"])
    home = Home(Path(order["home"]))
    os.chdir(home.root.parent)
    die_before(order["kill"])
    try:
        models.fetch(order["ref"], home)
    except BaseException as error:
        print(f"in the child: {error!r}", file=sys.stderr, flush=True)
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            os._exit(run(json.loads(line)))
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
