"""Which files a folder holds, as git sees them; without git, by a walk that honours `.gitignore` level by level.

Names come from whoever made the folder, so each is checked before anything is opened: no way out of the folder, no symbolic link on
the way, regular files only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from noa_lab.agents._git import GitRefused, git_names, repository_root
from noa_lab.agents._names import shown
from noa_lab.errors import BadInput
from noa_lab.events import CancelToken

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

__all__ = ["Listing", "SourceFile", "list_files", "read_bytes"]

MAX_FILES = 50_000
_MAX_IGNORE_BYTES = 1024 * 1024

_Rules = tuple[tuple[str, "GitIgnoreSpec"], ...]
"""For each folder on the way down that has a `.gitignore`: the folder's prefix and its rules."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One regular file.

    Attributes:
        path: Its name relative to the folder, with `/`, hostile characters escaped.
        location: Where it is.
        size: Bytes.
    """

    path: str
    location: Path
    size: int


@dataclass(slots=True)
class Listing:
    """The files of a folder.

    Attributes:
        files: Regular files, sorted by path.
        skipped: Path and reason of every entry that is no readable regular file.
        source: "git" or "walk".
        warnings: What the reader of a digest should know about the listing.
    """

    files: list[SourceFile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    source: str = "walk"
    warnings: list[str] = field(default_factory=list)


def list_files(folder: Path, cancel: CancelToken | None = None, *, limit: int = MAX_FILES) -> Listing:
    """The files of `folder`.

    Args:
        folder: An existing folder; it may lie inside a repository.
        cancel: Stops the listing.
        limit: Most files; what is beyond is left out, with a warning.

    Raises:
        BadInput: `folder` does not exist or is no folder that can be read.
        Cancelled: `cancel` was called.
    """
    cancel = cancel or CancelToken()
    top = _real_folder(folder)
    listing = Listing()
    names = _by_git(top, listing, cancel)
    guard = _Guard(top)
    for name in _walk(top, listing, cancel) if names is None else names:
        cancel.check("Listing the files")
        if len(listing.files) + len(listing.skipped) >= limit:
            listing.warnings.append(f"Only the first {limit} files were looked at.")
            break
        found = guard.look(name)
        if isinstance(found, SourceFile):
            listing.files.append(found)
        else:
            listing.skipped[shown(name)] = found
    listing.files.sort(key=lambda file: file.path)
    return listing


def _by_git(top: Path, listing: Listing, cancel: CancelToken) -> list[str] | None:
    root = repository_root(top)
    if root is None:
        return None
    try:
        names = git_names(top, root, cancel)
    except GitRefused as reason:
        listing.warnings.append(f"The files were listed without git: {reason}.")
        return None
    if not names and root != top:
        listing.warnings.append("The repository around this folder ignores it, so its files were listed without git.")
        return None
    listing.source = "git"
    return names


def read_bytes(location: Path, limit: int) -> bytes:
    """Up to `limit` bytes of a regular file; a FIFO or a link that took its place is refused instead of waited for.

    Raises:
        OSError: It cannot be read, or is no regular file any more.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(location, flags | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{location} is no regular file")
        return file.read(limit)


def _real_folder(folder: Path) -> Path:
    fix = "Give the path of an existing folder."
    try:
        top = Path(folder).expanduser().resolve(strict=True)
        with os.scandir(top):
            return top
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"{shown(str(folder))!r} cannot be analysed: {reason}."
        raise BadInput(message, fix=fix, field="path", value=str(folder)) from None


class _Guard:
    """Decides about names; remembers which folders on the way are real."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._real: dict[tuple[str, ...], bool] = {(): True}

    def look(self, name: str) -> SourceFile | str:
        """The file of that name, or the reason why it is left out."""
        parts = tuple(name.rstrip("/").split("/"))
        if not _harmless(parts):
            return "a name that leads out of the folder"
        location = self._top.joinpath(*parts)
        try:
            if not self._is_real(parts[:-1]):
                return "behind a symbolic link"
            found = os.lstat(location)
        except FileNotFoundError:
            return "deleted from the working folder"
        except (OSError, ValueError) as error:
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if stat.S_ISLNK(found.st_mode):
            return "symbolic link"
        if stat.S_ISDIR(found.st_mode):
            return "a repository inside the repository"
        if not stat.S_ISREG(found.st_mode):
            return "not a regular file"
        return SourceFile(path=shown("/".join(parts)), location=location, size=found.st_size)

    def _is_real(self, parts: tuple[str, ...]) -> bool:
        known = self._real.get(parts)
        if known is None:
            known = self._is_real(parts[:-1]) and stat.S_ISDIR(os.lstat(self._top.joinpath(*parts)).st_mode)
            self._real[parts] = known
        return known


def _harmless(parts: tuple[str, ...]) -> bool:
    if any(part in {"", ".", ".."} or part.lower() == ".git" or "\0" in part for part in parts) or len(parts) > 200:
        return False
    return os.name != "nt" or not any("\\" in part or ":" in part for part in parts)


def _walk(top: Path, listing: Listing, cancel: CancelToken) -> Iterator[str]:
    """Names under `top`, folder by folder; each folder's `.gitignore` rules what is below it, the nearest has the last word."""
    waiting: list[tuple[str, _Rules]] = [("", ())]
    while waiting:
        cancel.check("Listing the files")
        prefix, rules = waiting.pop()
        try:
            with os.scandir(top / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            listing.skipped[shown(prefix)] = f"cannot be read: {error.strerror}"
            continue
        own = _ignore_spec(top / prefix / ".gitignore", entries)
        if own is not None:
            rules = (*rules, (prefix, own))
        for entry in entries:
            name = prefix + entry.name
            folder = entry.is_dir(follow_symlinks=False)
            if entry.name.lower() == ".git" or _ignored(name + "/" if folder else name, rules):
                continue
            if not folder:
                yield name
            elif name.count("/") >= 199:
                listing.skipped[shown(name)] = "nested too deeply"
            else:
                waiting.append((name + "/", rules))


def _ignore_spec(path: Path, entries: list[os.DirEntry[str]]) -> GitIgnoreSpec | None:
    if not any(entry.name == ".gitignore" and entry.is_file(follow_symlinks=False) for entry in entries):
        return None
    from pathspec import GitIgnoreSpec

    try:
        lines = read_bytes(path, _MAX_IGNORE_BYTES).decode("utf-8-sig", "replace").split("\n")
    except OSError:
        return None
    patterns: list[GitIgnoreSpecPattern] = []
    for line in lines:
        try:
            patterns += GitIgnoreSpec.from_lines([line.removesuffix("\r")]).patterns
        except ValueError:  # git, too, passes over a pattern that it cannot read
            continue
    return GitIgnoreSpec(patterns)


def _ignored(name: str, rules: _Rules) -> bool:
    for prefix, spec in reversed(rules):
        verdict = spec.check_file(name[len(prefix) :]).include
        if verdict is not None:
            return verdict
    return False
