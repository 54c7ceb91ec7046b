"""What `install` was asked for, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from noa_lab.errors import BadInput, UnknownName
from noa_lab.runtime._options import DEFAULTS, InstallOptions
from noa_lab.runtime._pins import known_backend

__all__ = ["OPTIONS_OF", "WAYS", "Wish", "read_wish"]

WAYS = {
    "auto": "what suits this machine: the llama.cpp that is here, conda's own, a release for the GPU, else a build",
    "release": "prebuilt: nothing to compile, and GPU builds without a GPU toolkit; needs GitHub, or a mirror of it",
    "source": "compiled here: any CPU, a GPU whose toolkit is installed, changes of your own; needs a C++ compiler and minutes",
    "system": "the one that conda, Homebrew or you have installed, used where it is and never changed",
    "path": "an archive or a folder of programs that you have: copied, so that it stays when the original goes",
}
"""The ways to a llama.cpp, and what each is for. "path" is not a word that users say: they give the path itself."""

OPTIONS_OF = {
    "auto": frozenset({"backend"}),
    "release": frozenset({"tag", "backend", "mirror"}),
    "source": frozenset({"backend", "native", "source_path"}),
    "system": frozenset[str](),
    "path": frozenset[str](),
}
"""The options that mean something for each way."""

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


def read_wish(options: InstallOptions) -> Wish:
    """What the options of `install` mean together.

    Without a way, an option that only one way knows chooses it: a tag or a mirror a release, native or a source path a build.

    Raises:
        BadInput: When they contradict each other.
        UnknownName: For an option or a way that does not exist.
    """
    for name in options:
        if name not in DEFAULTS:
            raise UnknownName.among("option", name, DEFAULTS, where="install")
    said: InstallOptions = {**DEFAULTS, **options}
    source, tag, backend = said["source"], _text("tag", said["tag"]), _text("backend", said["backend"])
    native, mirror, source_path = said["native"], _text("mirror", said["mirror"]), said["source_path"]
    if not isinstance(native, bool):
        raise BadInput(
            f"native = {native!r} is neither True nor False.",
            fix="Give True, or leave it out for a portable build.",
            field="native",
            value=native,
        )
    if tag is not None and not _TAG.fullmatch(tag):
        raise BadInput(
            f"{tag!r} is not a release tag of llama.cpp.",
            fix="Give one like b11312, or latest-stable, or latest-nightly.",
            field="tag",
            value=tag,
        )
    path, way = _way(source)
    if way == "auto":
        way = "source" if native or source_path is not None else "release" if tag or mirror else "auto"
    given = {"tag": tag, "backend": backend, "native": native or None, "mirror": mirror, "source_path": source_path}
    for field, value in given.items():
        if value is not None and field not in OPTIONS_OF[way]:
            raise _meaningless(way, field, value)
    if backend is not None:
        backend = {"hip": "rocm"}.get(backend.lower(), backend.lower())
        backend = known_backend(backend) if way == "source" else backend
    if source_path is not None:
        path = _existing("source_path", source_path, "an archive, a checkout or a folder of llama.cpp's source")
    return Wish(way, path, tag, backend, native, mirror)


def _text(field: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise BadInput(
        f"{field} = {value!r} is not allowed.", fix="Give a text, or leave it out.", field=field, value=value
    )


def _way(source: str | Path) -> tuple[Path | None, str]:
    if str(source) in OPTIONS_OF and str(source) != "path":
        return None, str(source)
    path = _path("source", source)
    if isinstance(source, Path) or path.exists() or len(path.parts) > 1 or path.suffix:
        return _existing("source", source, "an archive or a folder of llama.cpp's programs"), "path"
    raise UnknownName.among("way to install", str(source), (*(way for way in WAYS if way != "path"), "a path"))


def _path(field: str, value: object) -> Path:
    # An empty text would be the current folder.
    if isinstance(value, Path) or (isinstance(value, str) and value):
        return Path(value).expanduser()
    raise BadInput(
        f"{field} = {value!r} is not allowed.", fix="Give a path, or leave it out.", field=field, value=value
    )


def _existing(field: str, value: object, what: str) -> Path:
    path = _path(field, value).absolute()
    if not path.exists():
        raise BadInput(f"There is no file or folder {path}.", fix=f"Give {what}.", field=field, value=str(path))
    return path


def _meaningless(way: str, field: str, value: object) -> BadInput:
    only = " or ".join(each for each in OPTIONS_OF if each != "auto" and field in OPTIONS_OF[each])
    return BadInput(
        f"{field} {value!r} means nothing for an installation from {way}.",
        fix=f"Leave it out, or install from {only}.",
        field=field,
        value=value,
    )
