"""How much memory a model takes: foreseen from its file, then measured."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from noa_lab.models.memory import MemorySettings, fit_of_file

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.server._settings import ServerSettings

__all__ = ["measured_bytes", "predicted_bytes"]


def predicted_bytes(model: ModelFile, settings: ServerSettings, home: Home) -> int:
    """What a llama-server with this model will most likely take of the machine's memory while all its slots are at work.

    Once the model has run, what was measured counts instead.

    Args:
        model: The model.
        settings: How it is run.
        home: The home, for what past loads took.

    Raises:
        ModelFileBroken: When the file is no readable GGUF.
    """
    wanted = MemorySettings(**{each.name: getattr(settings, each.name) for each in fields(MemorySettings)})
    return fit_of_file(model, home, wanted, quick=True).bytes


def measured_bytes(pid: int) -> int:
    """Resident memory of a process, pages of the mapped model file included; 0 when it is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
