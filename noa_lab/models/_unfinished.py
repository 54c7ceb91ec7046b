"""Downloads that are under way or were interrupted: where their bytes are, and what may be thrown away."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from noa_lab.download import HalfFetched, discard, half_fetched
from noa_lab.errors import BadInput, ChecksumMismatch
from noa_lab.paths import Home, write_atomic

__all__ = ["Unfinished", "WorkFolder", "discard_unfinished", "unfinished"]

_ORDER = "order.json"
_FOLDER = ".incoming"
_KEPT = (".part", ".part.journal", ".receipt.json", ".whl", ".gguf")
"""Endings of what a later call can use; everything else in the folder was in the making."""


class WorkFolder:
    """The folder of one download; a context manager that tidies up what a later call cannot use.

    Args:
        path: The folder, on the same file system as the models.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path.with_suffix(".lock")
        """Held by whoever works in the folder."""
        self._targets: list[str] = []
        self._order: dict[str, str] = {}

    @classmethod
    def of(cls, source: str, home: Home) -> Self:
        """The folder for what comes from a source."""
        return cls(home.models / _FOLDER / hashlib.sha256(source.encode()).hexdigest()[:16])

    def sweep(self) -> None:
        """Remove what a killed process has left: the model is in its place. Nothing is done while somebody works in the folder."""
        from filelock import FileLock, Timeout

        if self.path.is_dir():
            try:
                with FileLock(self.lock).acquire(timeout=0):
                    self.done()
            except Timeout:
                pass

    def begin(self, name: str, source: str) -> None:
        """Write down what is being fetched."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._order, self._targets = {"name": name, "source": source}, []
        self._write()

    def watch(self, target: Path) -> None:
        """Write down that a file grows elsewhere, in a cache that others share."""
        self._targets.append(str(target))
        self._write()

    def _write(self) -> None:
        write_atomic(self.path / _ORDER, json.dumps({**self._order, "targets": self._targets}) + "\n", locked=True)

    def done(self) -> None:
        """Remove the folder: the model is in its place."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        useless = isinstance(error, BadInput | ChecksumMismatch)
        if useless and getattr(error, "fields", {}).get("kind") != "changed since first seen":
            self.done()
            return
        for path in self.path.glob("*") if self.path.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _ORDER and not path.name.endswith(_KEPT):
                path.unlink(missing_ok=True)
        if not any(path.name != _ORDER for path in self.path.glob("*")) and not _here(self.path).here_bytes:
            self.done()


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that was interrupted, or is under way.

    Attributes:
        name: What the model will be called.
        source: The reference that it comes from; `get` with it, or with the catalogue's name, continues.
        here_bytes: How much of it is here.
        total_bytes: How much it will be; None where that is not known.
        disk_bytes: What it takes of the disk: what is here, and what is reserved for the rest.
    """

    name: str
    source: str
    here_bytes: int
    total_bytes: int | None
    disk_bytes: int


def unfinished(home: Home | None = None) -> list[Unfinished]:
    """Every download of a home (default: the default home) that can be continued, by name."""
    home = home or Home.default()
    found = []
    for order in (home.models / _FOLDER).glob(f"*/{_ORDER}"):
        try:
            facts = json.loads(order.read_text(encoding="utf-8"))
            name, source = str(facts["name"]), str(facts["source"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        half = _here(order.parent)
        found.append(Unfinished(name, source, half.here_bytes, half.total_bytes, half.disk_bytes))
    return sorted(found, key=lambda each: (each.name, each.source))


def discard_unfinished(source: str, home: Home | None = None) -> int:
    """Throw away what has arrived of a download.

    Args:
        source: Its reference, as `unfinished` gives it.
        home: Whose download; default: the default home.

    Returns:
        Bytes of the disk that are free again.

    Raises:
        BadInput: When there is none, or it is going on right now.
    """
    from filelock import FileLock, Timeout

    work = next((work for work in _works(home or Home.default()) if work[1] == source), None)
    if work is None:
        raise BadInput(
            f"There is no unfinished download from {source!r}.",
            fix="`noa-lab models disk` lists the unfinished ones.",
            field="source",
            value=source,
        )
    folder = work[0]
    try:
        with FileLock(folder.lock).acquire(timeout=0):
            freed = _here(folder.path).disk_bytes
            for target in _targets(folder.path):
                discard(target)
            folder.done()
    except Timeout:
        raise BadInput(
            f"{source} is being downloaded right now.", fix="Cancel that download first.", field="source", value=source
        ) from None
    return freed


def _works(home: Home) -> list[tuple[WorkFolder, str]]:
    found = []
    for order in (home.models / _FOLDER).glob(f"*/{_ORDER}"):
        try:
            found.append((WorkFolder(order.parent), str(json.loads(order.read_text(encoding="utf-8"))["source"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _targets(folder: Path) -> list[Path]:
    """The files that are being fetched, here and in caches that others share."""
    here = [path.with_name(path.name.removesuffix(".part")) for path in folder.glob("*.part")]
    try:
        elsewhere = json.loads((folder / _ORDER).read_text(encoding="utf-8"))["targets"]
    except (OSError, ValueError, KeyError, TypeError):
        elsewhere = []
    return here + [Path(target) for target in elsewhere]


def _here(folder: Path) -> HalfFetched:
    """What is here of all files of a download."""
    whole = sum(_size(path) for path in folder.glob("*") if path.name.endswith((".gguf", ".whl")))
    parts = [found for found in map(half_fetched, _targets(folder)) if found is not None]
    totals = [part.total_bytes for part in parts]
    return HalfFetched(
        whole + sum(part.here_bytes for part in parts),
        None if None in totals or not totals else whole + sum(total or 0 for total in totals),
        whole + sum(part.disk_bytes for part in parts),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # whoever fetches it has just put it in its place
