"""What `install` was asked for, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import BadInput, UnknownName
from noa_lab.runtime._pins import known_backend

__all__ = ["WAYS", "Wish", "read_wish"]

WAYS = ("auto", "release", "source", "system")
_TAG = re.compile(r"b\d{1,6}|v\d+\.\d+\.\d+|latest-stable|latest-nightly")


@dataclass(frozen=True, slots=True)
class Wish:
    """One request.

    Attributes:
        way: "auto", "release", "source", "system" or "path".
        path: For "path", the archive or folder of programs; for "source", the source that the user has (None: the pinned one).
        tag: Release tag; None for the pinned one.
        backend: What to compute with; None lets noa_lab choose.
        native: Compile for this very CPU.
        mirror: Address of a copy of the releases; None for GitHub.
    """

    way: str
    path: Path | None = None
    tag: str | None = None
    backend: str | None = None
    native: bool = False
    mirror: str | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing in particular was asked for."""
        return self == Wish("auto")


def read_wish(
    source: str | Path,
    *,
    tag: str | None,
    backend: str | None,
    native: bool,
    mirror: str | None,
    source_path: str | Path | None,
) -> Wish:
    """What the arguments of `install` mean together.

    Without a way, an argument that only one way knows chooses it: a tag or a mirror a release, native or a source path a build.

    Raises:
        BadInput: When they contradict each other.
        UnknownName: For a way that does not exist.
    """
    if tag is not None and not _TAG.fullmatch(tag):
        raise BadInput(
            f"{tag!r} is no release tag of llama.cpp.",
            fix="Give one like b11312, or latest-stable, or latest-nightly.",
            field="tag",
            value=tag,
        )
    path, way = _way(source)
    if way == "auto":
        way = "source" if native or source_path is not None else "release" if tag or mirror else "auto"
    _allow(way, "tag", tag, ("release",))
    _allow(way, "mirror", mirror, ("release",))
    _allow(way, "native", native or None, ("source",))
    _allow(way, "source_path", source_path, ("source",))
    _allow(way, "backend", backend, ("auto", "release", "source"))
    if backend is not None and way == "source":
        backend = known_backend(backend)
    if source_path is not None:
        path = Path(source_path).expanduser().absolute()
        if not path.exists():
            raise BadInput(
                f"There is no {path}.",
                fix="Name an archive, a checkout or a folder of llama.cpp's source.",
                field="source_path",
                value=str(path),
            )
    return Wish(way, path, tag, backend.lower() if backend else None, native, mirror)


def _way(source: str | Path) -> tuple[Path | None, str]:
    if str(source) in WAYS:
        return None, str(source)
    path = Path(source).expanduser()
    if path.exists():
        return path.absolute(), "path"
    if isinstance(source, Path) or len(path.parts) > 1 or path.suffix:
        raise BadInput(
            f"There is no {path}.",
            fix="Name an archive or a folder of llama.cpp's programs.",
            field="source",
            value=str(path),
        )
    raise UnknownName.among("way to install", str(source), (*WAYS, "a path"))


def _allow(way: str, field: str, value: object, ways: tuple[str, ...]) -> None:
    if value is None or way in ways:
        return
    only = " or ".join(each for each in ways if each != "auto")
    raise BadInput(
        f"{field} {value!r} means nothing for an installation from {way}.",
        fix=f"Leave it out, or install from {only}.",
        field=field,
        value=value,
    )
