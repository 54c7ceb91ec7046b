"""What models take of the disk: ours, what we only link to, downloads that are not finished, and what other tools have."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from noa_lab.models._fetch import installed
from noa_lab.models._file import ModelFile
from noa_lab.models._gone import broken_links, gone_elsewhere
from noa_lab.models._unfinished import unfinished
from noa_lab.models._users import owner_of
from noa_lab.models.stores import stored_models
from noa_lab.paths import Home

__all__ = ["DiskReport", "DiskUse", "disk_report"]

Kind = Literal["model", "link", "second name", "unfinished", "broken link", "gone", "other tool"]


@dataclass(frozen=True, slots=True)
class DiskUse:
    """One thing that takes disk, or seems to.

    Attributes:
        name: Name of the model, the download or the tool.
        kind: "model" (our own bytes), "link" (to another tool's file), "second name" (of bytes that have another one), "unfinished" (a
            download), "broken link" (its file was deleted), "gone" (the same of a model that was used where it lay), "other tool"
            (models that it has here).
        bytes: What it takes and would free; of an "other tool" what its models take.
        path: Where it is; of a download of a model where it comes from.
        note: What else is to be said.
    """

    name: str
    kind: Kind
    bytes: int
    path: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class DiskReport:
    """All of it.

    Attributes:
        uses: The rows.
        own_bytes: What the home's models and downloads take.
        free_bytes: What is free on that disk.
        folder: The models folder.
    """

    uses: tuple[DiskUse, ...]
    own_bytes: int
    free_bytes: int
    folder: str

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.own_bytes / 1e9:.2f} GB are taken, {self.free_bytes / 1e9:.1f} GB are free."]
        lines += [f"{use.bytes / 1e6:10,.1f} MB  {use.kind:12}  {use.name}  {use.note}".rstrip() for use in self.uses]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(use.name)}</td><td>{use.kind}</td>"
            f"<td>{use.bytes / 1e6:,.1f} MB</td><td>{html.escape(use.note)}</td></tr>"
            for use in self.uses
        )
        head = "<tr><th>What</th><th>Kind</th><th>Takes</th><th></th></tr>"
        words = f"{self.own_bytes / 1e9:.2f} GB are taken in {self.folder}, {self.free_bytes / 1e9:.1f} GB are free."
        return f"<div>{html.escape(words)}</div><table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def disk_report(home: Home) -> DiskReport:
    """Look at the home's models and at the other tools' stores; changes nothing."""
    uses = [use for model in installed(home) if _in_home(model.path, home) for use in _of_model(model, home)]
    uses += [*_unfinished(home), *_broken(home)]
    own = sum(use.bytes for use in uses)
    return DiskReport((*uses, *_other_tools()), own, shutil.disk_usage(home.models).free, str(home.models))


def _in_home(path: Path, home: Home) -> bool:
    return path.is_relative_to(home.models)


def _of_model(model: ModelFile, home: Home) -> Iterator[DiskUse]:
    taken, kinds, notes = 0, set[Kind](), []
    for file in model.files:
        if file.is_symlink():
            kinds.add("link")
            notes.append(f"its bytes are at {file.resolve()} ({owner_of(file, home)})")
        elif file.stat().st_nlink > 1:
            kinds.add("second name")
            notes.append("its bytes have another name on this disk")
        else:
            kinds.add("model")
            taken += file.stat().st_size
    kind: Kind = "model" if taken else next(iter(kinds))
    yield DiskUse(model.name, kind, taken, str(model.path), notes[0] if notes else "")


def _unfinished(home: Home) -> Iterator[DiskUse]:
    for each in unfinished(home):
        share = f" of {each.total_bytes / 1e6:,.1f} MB" if each.total_bytes else ""
        note = f"{each.here_bytes / 1e6:,.1f} MB{share} are here; getting it again continues, removing it gives it up"
        yield DiskUse(each.name, "unfinished", each.disk_bytes, each.source, note)
    for path in sorted(home.downloads.iterdir()):
        taken = _taken(path)
        if taken:
            yield DiskUse(path.name, "unfinished", taken, str(path), "of llama.cpp; safe to delete")


def _taken(path: Path) -> int:
    """Bytes of the disk that a file or a folder takes; space that is only reserved counts."""
    files = [path] if path.is_file() else [Path(here, name) for here, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        try:
            found = file.lstat()
        except OSError:
            continue
        total += getattr(found, "st_blocks", 0) * 512 or found.st_size
    return total


def _broken(home: Home) -> Iterator[DiskUse]:
    for name, path in broken_links(home).items():
        yield DiskUse(name, "broken link", 0, str(path), f"{path.readlink()} is gone: `noa-lab models remove {name}`")
    for model in gone_elsewhere(home):
        yield DiskUse(
            model.name, "gone", 0, str(model.path), f'its file is gone: `noa-lab models remove "{model.path}"`'
        )


def _other_tools() -> Iterator[DiskUse]:
    sizes: dict[str, list[int]] = {}
    files: dict[str, set[Path]] = {}
    for stored in stored_models():
        seen = files.setdefault(stored.tool, set())
        fresh = [path for path in (each.resolve() for each in stored.files) if path not in seen]
        seen.update(fresh)
        sizes.setdefault(stored.tool, []).append(sum(path.stat().st_size for path in fresh))
    for tool, each in sizes.items():
        note = f"{len(each)} GGUF model{'s' if len(each) > 1 else ''}; `noa-lab models import` lists them"
        yield DiskUse(tool, "other tool", sum(each), "", note)
