"""Running one of llama.cpp's programs on a model: in an environment that decides nothing, ended with us."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from noa_lab.events import CancelToken
from noa_lab.runtime._libraries import beside_first
from noa_lab.runtime._process import Finished, clean_environment, run
from noa_lab.runtime._runtime import Runtime

__all__ = ["run_tool"]


def run_tool(
    runtime: Runtime,
    name: str,
    arguments: Sequence[str | Path],
    *,
    seconds: float | None = None,
    on_line: Callable[[str], None] | None = None,
    cancel: CancelToken | None = None,
) -> Finished:
    """Run a program of llama.cpp to its end.

    Args:
        runtime: Whose program.
        name: For example "llama-quantize".
        arguments: What it is given.
        seconds: Longest time it may take; None waits for ever.
        on_line: Called with each line.
        cancel: Ends it.

    Raises:
        UnknownName: When this llama.cpp has no such program.
        Cancelled: When `cancel` was.
    """
    program = runtime.tool(name)
    with tempfile.TemporaryDirectory(prefix="noa-lab-tool-") as private:
        environment = beside_first(clean_environment(Path(private)), program.parent)
        return run(
            [str(program), *map(str, arguments)], env=environment, seconds=seconds, on_line=on_line, cancel=cancel
        )
