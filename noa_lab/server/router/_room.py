"""Which loaded models make way for another one."""

from __future__ import annotations

from collections.abc import Sequence

from noa_lab.server.router._model_state import ModelState

__all__ = ["choose_victims"]


def choose_victims(candidates: Sequence[ModelState], shortage: int) -> list[ModelState]:
    """The models to end so that `shortage` bytes become free, or none where all of them together are not enough.

    Those that were chosen before come first, so that a choice once begun is carried out; then idle ones, then those unused for
    longest. Whatever turns out not to be needed is spared, the most recently used first.
    """
    if shortage <= 0:
        return []
    chosen: list[ModelState] = []
    for one in sorted(candidates, key=lambda model: (not model.closing, not model.idle, model.last_used)):
        chosen.append(one)
        if sum(model.bytes for model in chosen) >= shortage:
            break
    total = sum(model.bytes for model in chosen)
    if total < shortage:
        return []
    for one in reversed(chosen[:]):
        if total - one.bytes >= shortage:
            chosen.remove(one)
            total -= one.bytes
    return chosen
