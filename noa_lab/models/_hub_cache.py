"""The cache that all tools of the Hugging Face hub share, and what noa_lab puts into it.

Its layout (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):

    models--OWNER--NAME/blobs/ETAG                      the bytes, by the hub's name for them: the sha256 of a large file
    models--OWNER--NAME/snapshots/COMMIT/path/in/repo   a link to them
    models--OWNER--NAME/refs/main                       the commit that a branch was at last
    .locks/models--OWNER--NAME/ETAG.lock                held by whoever fetches it
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

from noa_lab.events import CancelToken, Report, silent
from noa_lab.models._arrived import STEP
from noa_lab.paths import write_atomic
from noa_lab.runtime import exclusive

__all__ = ["HubCache"]

_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubCache:
    """The part of the cache that belongs to one repository.

    Args:
        root: The cache's folder.
        repo: Owner and name.
    """

    def __init__(self, root: Path, repo: str) -> None:
        self._root = root
        self._name = f"models--{repo.replace('/', '--')}"

    @classmethod
    def of(cls, repo: str) -> HubCache:
        """The cache where huggingface_hub has it (HF_HOME, HF_HUB_CACHE)."""
        from huggingface_hub import constants

        return cls(Path(constants.HF_HUB_CACHE).expanduser(), repo)

    @property
    def folder(self) -> Path:
        """The repository's folder."""
        return self._root / self._name

    def blob(self, etag: str) -> Path:
        """Where bytes are, or will be.

        Raises:
            ValueError: When it is no name for bytes.
        """
        if not _ETAG.fullmatch(etag):
            raise ValueError(etag)
        return self.folder / "blobs" / etag

    def pointer(self, commit: str, file: str) -> Path:
        """Where the link of a commit's file is, or will be.

        Raises:
            ValueError: When the commit or the path is none.
        """
        parts = PurePosixPath(file).parts
        if not _COMMIT.fullmatch(commit) or not parts or any(part in ("..", "/") or "\\" in part for part in parts):
            raise ValueError(f"{commit}/{file}")
        return self.folder.joinpath("snapshots", commit, *parts)

    def commit_of(self, revision: str) -> str | None:
        """The commit that a revision was at when the hub was last asked; None when it never was."""
        if _COMMIT.fullmatch(revision):
            return revision
        try:
            commit = self._ref(revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def _ref(self, revision: str) -> Path:
        parts = revision.split("/")
        if any(part in ("", ".", "..") or "\\" in part for part in parts):
            raise ValueError(revision)
        return self.folder.joinpath("refs", *parts)

    def find(self, revision: str, file: str) -> Path | None:
        """A file of a revision, if it is here."""
        commit = self.commit_of(revision)
        if commit is None:
            return None
        pointer = self.pointer(commit, file)
        return pointer if pointer.is_file() else None

    def sha256_of(self, pointer: Path) -> str | None:
        """The sha256 that the hub gave for a file of the cache; None where it gave none."""
        # One step only: the blob may itself be a link into the store that repositories share.
        etag = pointer.readlink().name if pointer.is_symlink() else ""
        return etag if len(etag) == 64 and _ETAG.fullmatch(etag) else None

    def names(self, revision: str) -> tuple[str, ...]:
        """The files of a revision that are here, as paths in the repository."""
        commit = self.commit_of(revision)
        top = self.folder / "snapshots" / (commit or "-")
        return tuple(sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()))

    def lock(self, etag: str, *, report: Report, cancel: CancelToken | None) -> AbstractContextManager[None]:
        """Hold the lock that huggingface_hub, too, takes while it fetches these bytes."""
        folder = self._root / ".locks" / self._name
        folder.mkdir(parents=True, exist_ok=True)
        return exclusive(folder / f"{self.blob(etag).name}.lock", STEP, report=report, cancel=cancel)

    def prepare(self, commit: str) -> None:
        """Make the folders, so that a look at the cache finds nothing amiss meanwhile."""
        for folder in (self.folder / "blobs", self.folder / "snapshots" / commit):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, etag: str, commit: str, file: str) -> Path:
        """Let a commit's file be the bytes of a blob, as huggingface_hub does; where there are no links, the blob moves there.

        Returns:
            Where the file is.
        """
        blob, pointer = self.blob(etag), self.pointer(commit, file)
        if pointer.is_file() and (not blob.exists() or pointer.samefile(blob)):
            return pointer
        pointer.parent.mkdir(parents=True, exist_ok=True)
        # Not in the snapshot's folder, where others would see it. Whoever links holds the lock: the name is free.
        temporary = blob.with_name(f".{etag}.link")
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)
        else:
            temporary.replace(pointer)
        return pointer

    def note_revision(self, revision: str, commit: str) -> None:
        """Remember which commit a branch or tag is at; the link must be there already."""
        if revision == commit:
            return
        file, folder = self._ref(revision), self._root / ".locks" / self._name
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / "refs.lock", STEP, report=silent, cancel=None):
            if self.commit_of(revision) != commit:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(file, commit, locked=True)
