"""What the names and links inside an archive may be. Pure: nothing here touches the disk.

An archive from elsewhere is hostile until shown otherwise, and one that is refused on one system is refused on all: its names must mean
the same folder tree on Linux, macOS and Windows.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

__all__ = ["Kind", "Refused", "Tree"]

Kind = Literal["file", "folder", "link"]

_MOST_DEPTH = 24
_MOST_NAME_BYTES = 255
_MOST_PATH_BYTES = 1024
_MOST_HOPS = 40
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE
)
_Parts = tuple[str, ...]


class Refused(Exception):
    """Why a member of an archive is not unpacked, in words; `unpack` turns it into an error with the archive's name."""


class Tree:
    """The folder tree that an archive describes, checked member by member."""

    def __init__(self) -> None:
        self._kinds: dict[_Parts, Kind] = {}
        self._spelled: dict[_Parts, _Parts] = {}
        self._links: dict[_Parts, tuple[_Parts, str]] = {}

    def add(self, name: str, kind: Kind, aim: str = "") -> _Parts:
        """Take in a member.

        Args:
            name: As the archive spells it.
            kind: What it is.
            aim: Where a link points, relative to its own folder.

        Returns:
            The parts of its path below the root; empty for the root itself.

        Raises:
            Refused: For a name that may lead elsewhere, means something else on another system, or was there before.
        """
        parts = _parts(name)
        if not parts:
            if kind != "folder":
                raise Refused(f"{name!r} is no name for a {kind}")
            return ()
        for depth in range(1, len(parts)):
            self._claim(parts[:depth], "folder", name)
        self._claim(parts, kind, name)
        if kind == "link":
            self._links[_folded(parts)] = (parts, _aim(name, aim))
        return parts

    def _claim(self, parts: _Parts, kind: Kind, name: str) -> None:
        key = _folded(parts)
        found = self._kinds.get(key)
        if found is None:
            self._kinds[key] = kind
            self._spelled[key] = parts
            return
        if self._spelled[key] != parts:
            other = "/".join(self._spelled[key])
            raise Refused(f"{'/'.join(parts)!r} and {other!r} are one name where case does not count")
        if found == "link" and kind == "folder":
            raise Refused(f"{name!r} would be written through the link {'/'.join(parts)!r}")
        if found != "folder" or kind != "folder":
            raise Refused(f"{name!r} comes twice")

    @property
    def links(self) -> dict[_Parts, str]:
        """Every link and where it points, as the archive spells it."""
        return dict(self._links.values())

    def lands(self, name: str) -> _Parts:
        """Where a name leads when every link on the way is followed.

        Raises:
            Refused: When that is outside, or a circle.
        """
        done: list[str] = []
        todo = name.split("/")[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not done:
                    raise Refused(f"{name!r} links to a place outside")
                done.pop()
                continue
            done.append(part)
            link = self._links.get(_folded(tuple(done)))
            if link is None:
                continue
            hops += 1
            if hops > _MOST_HOPS:
                raise Refused(f"{name!r} is a link that leads in a circle")
            done.pop()
            todo.extend(link[1].split("/")[::-1])
        return tuple(done)

    def kind(self, parts: _Parts) -> Kind | None:
        """What is at a place; None where nothing is."""
        return self._kinds.get(_folded(parts)) if parts else "folder"


def _parts(name: str) -> _Parts:
    if name.startswith("/"):
        raise Refused(f"{name!r} is an absolute path")
    if found := _FORBIDDEN.search(name):
        raise Refused(f"{name!r} holds {found[0]!r}, which leads elsewhere or is no part of a name on Windows")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if len(parts) > _MOST_DEPTH or len(name.encode(errors="surrogatepass")) > _MOST_PATH_BYTES:
        raise Refused(f"{name[:60]!r}... is too deep or too long")
    for part in parts:
        _check_part(part, name)
    return parts


def _check_part(part: str, name: str) -> None:
    if part == "..":
        raise Refused(f"{name!r} leads out of its folder")
    if part[-1] in ". ":
        raise Refused(f"{name!r} ends in a dot or a space, which Windows drops")
    if _RESERVED.fullmatch(part.split(".", 1)[0].rstrip(" ")):
        raise Refused(f"{name!r} is the name of a device on Windows")
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        raise Refused(f"{name!r} is no text") from None
    if size > _MOST_NAME_BYTES:
        raise Refused(f"{name[:60]!r}... is too long")


def _aim(name: str, aim: str) -> str:
    if not aim or aim.startswith("/") or _FORBIDDEN.search(aim) or len(aim) > _MOST_PATH_BYTES:
        raise Refused(f"{name!r} links to {aim[:100]!r}, which is outside")
    return aim


def _folded(parts: _Parts) -> _Parts:
    """A key that is equal for names which some file system takes for the same one."""
    return tuple(unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold()) for part in parts)
