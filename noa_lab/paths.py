"""Where noa_lab keeps things: one home folder for everything it writes.

NOA_LAB_HOME (default: the platform's user data folder, "noa_lab")
├── runtimes/     llama.cpp builds, one folder each, and `current`
├── models/       GGUF files, or links to where the bytes are
├── servers/      one folder for each llama-server that is up (0700)
├── logs/         the servers' logs
├── tuned/        what `noa-lab tune` has measured
├── downloads/    half-fetched files, safe to delete
├── loads.json    what memory models took when they were loaded
└── runs.db       comparison runs
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Home", "write_atomic"]


@dataclass(frozen=True, slots=True)
class Home:
    """The home folder and the places in it; the folders are made when asked for."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """The home named by NOA_LAB_HOME, or the platform's user data folder."""
        named = os.environ.get("NOA_LAB_HOME")
        if named:
            return cls(Path(named).expanduser().absolute())
        import platformdirs

        return cls(platformdirs.user_data_path("noa_lab", appauthor=False))

    def _folder(self, name: str, mode: int = 0o755) -> Path:
        path = self.root / name
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        return path

    @property
    def runtimes(self) -> Path:
        """llama.cpp builds."""
        return self._folder("runtimes")

    @property
    def models(self) -> Path:
        """GGUF files."""
        return self._folder("models")

    @property
    def servers(self) -> Path:
        """Records and sockets of running servers; readable by the user alone."""
        return self._folder("servers", 0o700)

    @property
    def logs(self) -> Path:
        """Log files."""
        return self._folder("logs", 0o700)

    @property
    def tuned(self) -> Path:
        """The fastest settings measured for models."""
        return self._folder("tuned")

    @property
    def downloads(self) -> Path:
        """Half-fetched files."""
        return self._folder("downloads")

    @property
    def runs_db(self) -> Path:
        """The SQLite database of comparison runs (its folder exists, the file may not)."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / "runs.db"


def write_atomic(
    path: Path, content: str | bytes, *, mode: int = 0o644, locked: bool = False, durable: bool = True
) -> None:
    """Write a file so that a reader, also after a crash, sees the old content or the new, never a part.

    Args:
        path: The file; its folder must exist.
        content: Text (written as UTF-8) or bytes.
        mode: Permission bits of the new file.
        locked: Whether a lock keeps other writers away. The temporary file then has one fixed name: what a killed writer has left is
            used up by the next, and does not stay for ever.
        durable: Whether it is forced to the disk, so that it survives a power cut. That takes up to a tenth of a second on a busy disk.

    Raises:
        OSError: When the folder cannot be written to.
    """
    data = content.encode() if isinstance(content, str) else content
    if locked:
        temporary = str(path.with_name(f".{path.name}.new"))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    else:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
