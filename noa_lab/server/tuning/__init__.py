"""Which settings are fastest for a model on this machine with this build: measured, remembered, used as defaults afterwards.

Threads and batch are measured with llama.cpp's own llama-bench, slots with a llama-server that answers several requests at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noa_lab.server.tuning._tuned import Tuned, find_tuned, forget_tuned

if TYPE_CHECKING:
    from noa_lab.server.tuning._tune import tune

__all__ = ["Tuned", "find_tuned", "forget_tuned", "tune"]


def __getattr__(name: str) -> Any:
    if name == "tune":  # it starts servers, and those read what was tuned
        from noa_lab.server.tuning._tune import tune

        return tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
