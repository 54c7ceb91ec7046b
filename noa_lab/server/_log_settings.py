"""What of a server's output goes into which log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import field_validator

from noa_lab.config import StrictModel
from noa_lab.server._log import Level, Rotation, log_path, verbosity

__all__ = ["LogSettings"]

_OTHER_NAMES = {"warn": "warning", "trace": "debug", "fatal": "error", "critical": "error"}


class LogSettings(StrictModel):
    """What of a server's output is written, where, and when the file is set aside."""

    level: Level = "info"
    """The least serious lines that are written; "debug" makes llama-server say more (and holds prompts and answers)."""
    file: Path | None = None
    """The file; default: `logs/NAME.log` in the home. One that another server writes to gets the server's name before its suffix."""
    rotation: Rotation = "daily"
    """With the first line of which period a new file is begun; one that grows over 8 MiB is always set aside."""

    @field_validator("level", mode="before")
    @classmethod
    def _known_level(cls, value: object) -> object:
        return _OTHER_NAMES.get(value.lower(), value.lower()) if isinstance(value, str) else value

    @property
    def verbosity(self) -> int:
        """llama-server's own number for the level."""
        return verbosity(self.level)

    def path_for(self, name: str, folder: Path, taken: Iterable[str]) -> Path:
        """The log of the server `name`.

        Args:
            name: Name of the server.
            folder: Where logs go that no file was named for.
            taken: Files that other servers write to.
        """
        if self.file is None:
            return log_path(folder, name)
        file = self.file.expanduser().absolute()
        return file.with_name(f"{file.stem}-{name}{file.suffix}") if str(file) in set(taken) else file

    def for_watcher(self) -> dict[str, Any]:
        """What the watcher's `LogWriter` is told."""
        return {"level": self.level, "rotation": self.rotation}
