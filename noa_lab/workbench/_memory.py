"""Before a server is started: whether it fits. After: what it really took, for the next time."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from noa_lab.errors import NoaLabError, NotEnoughMemory
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models import memory
from noa_lab.models.memory import Fit, MemorySettings

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime
    from noa_lab.server import Server, ServerSettings

__all__ = ["ServerMemory"]

STEP = "Start llama-server"
_AMPLE = 0.7
"""A server that takes less than this share of what is free, by the quick estimate, needs no closer look."""


class ServerMemory:
    """The memory of one server that is to be started.

    Args:
        home: The home.
        runtime: The llama.cpp that it will be of.
        model: The model that it will have.
        report: Told what is close, and what could not be remembered.
        cancel: Stops the look.
    """

    def __init__(
        self, home: Home, runtime: Runtime, model: ModelFile, *, report: Report, cancel: CancelToken | None
    ) -> None:
        self._home, self._runtime, self._model = home, runtime, model
        self._report, self._cancel = report, cancel

    def admit(self, settings: ServerSettings) -> None:
        """Let it be started, or not.

        Raises:
            NotEnoughMemory: When even the least that it is likely to take is not free.
        """
        wanted = _settings_of(settings)
        fit = memory.fit_of_file(self._model, self._home, wanted, quick=True)
        if fit.high_bytes < _AMPLE * fit.free_bytes and not fit.devices:
            return
        fit = memory.fit_of_file(self._model, self._home, wanted, cancel=self._cancel)
        if fit.verdict == "does not fit":
            raise _refusal(fit)
        if fit.verdict == "tight":
            words = f"it may not fit: {fit.bytes / 1e9:.1f} GB are needed, {fit.free_bytes / 1e9:.1f} GB are free"
            self._report(Progress(STEP, words))

    def most_slots(self, settings: ServerSettings) -> int:
        """How many slots with these settings fit, of 1, 2, 4, 8; at least 1."""
        for slots in (8, 4, 2):
            wanted = _settings_of(settings.model_copy(update={"slots": slots}))
            if memory.fit_of_file(self._model, self._home, wanted, quick=True).verdict != "does not fit":
                return slots
        return 1

    def remember(self, server: Server) -> None:
        """Write down what the load took, once for each model and settings; that it cannot be written is told, and hinders nothing."""
        settings = server.settings
        if settings.options or settings.embeddings:
            return  # they may take more, which would be put down to the model
        try:
            status = server.status()
            memory.remember_load(
                self._home,
                self._model,
                self._runtime,
                _settings_of(settings),
                load_mode=settings.load_mode,
                peak_bytes=status.memory_peak_bytes or status.memory_bytes,
                cancel=self._cancel,
            )
        except (OSError, NoaLabError) as error:
            self._report(Progress(STEP, f"what it took of memory could not be written down: {error}"))


def _settings_of(settings: ServerSettings) -> MemorySettings:
    return MemorySettings(**{each.name: getattr(settings, each.name) for each in fields(MemorySettings)})


def _refusal(fit: Fit) -> NotEnoughMemory:
    settings = fit.settings
    if fit.largest_context:
        fix = f"Take context_size={fit.largest_context} or less"
    elif settings.slots > 1:
        fix = "Take fewer slots or a smaller quantisation"
    else:
        fix = "Take a smaller model or quantisation"
    slots = f"{settings.slots} slot{'s' if settings.slots > 1 else ''} of {settings.context_size:,} tokens"
    return NotEnoughMemory(
        f"{fit.model} with {slots} needs {fit.bytes / 1e9:.1f} GB (at least {fit.low_bytes / 1e9:.1f}); "
        f"{fit.free_bytes / 1e9:.1f} GB of this {fit.limited_by}'s memory are free.",
        fix=f"{fix}, close other programs, or say allow_oversize=True (`--allow-oversize`).",
        model=fit.model,
        needed_bytes=fit.bytes,
        free_bytes=fit.free_bytes,
        largest_context=fit.largest_context,
    )
