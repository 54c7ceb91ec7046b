"""Unpacking archives from elsewhere without trusting them, and finding llama.cpp's programs in what came out.

`tarfile`'s own "data" filter came with Python 3.11.4 (Debian 12's Python is 3.11.2), knows nothing of bombs or of names that another
system reads differently, and `zipfile` has no such thing.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from noa_lab.errors import ArchiveUnsafe, DiskFull, DownloadFailed, SetupError
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.runtime._archive_members import Member, members
from noa_lab.runtime._archive_names import Refused, Tree

__all__ = ["find_programs", "unpack"]

_CHUNK_BYTES = 2**20
_MOST_RATIO = 100
"""How much larger than the archive its contents may be; programs shrink to a third or a fifth."""
_FREE_OF_RATIO = 64 * 2**20
_RUNNABLE = (b"\x7fELF", b"#!", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
"""First bytes of programs on Linux and macOS, for archives that do not say what may be run."""
_DAMAGE = (
    *(
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        ArithmeticError,
        LookupError,
        RuntimeError,
    ),
    # Asked before `OSError`: gzip's complaint about damage is one.
    *(gzip.BadGzipFile, struct.error),
)


def unpack(
    archive: Path,
    into: Path,
    *,
    step: str = "Unpack llama.cpp",
    wanted: Callable[[str], bool] | None = None,
    most_bytes: int = 4 * 2**30,
    most_files: int = 20_000,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> None:
    """Unpack a tar.gz or zip archive whole (or all of it that is wanted), or not at all.

    Kept are files, folders, whether a file may be run, and links that stay inside (versions of shared libraries are chains of them;
    on Windows they become copies). Everything else, every name that would leave the folder or mean another one on some system, and
    everything that grows out of proportion is refused.

    Args:
        archive: The archive; its first bytes say of which kind.
        into: The folder to make; it must not be there, or be empty.
        step: What the progress reports call it.
        wanted: Which members to take, by name; None takes all.
        most_bytes: Largest size of the contents together.
        most_files: Largest number of members.
        report: Told about the progress, in bytes of the archive.
        cancel: Stops it.

    Raises:
        ArchiveUnsafe: When it would write elsewhere or fill the disk.
        DownloadFailed: When it is damaged, or no such archive.
        DiskFull: When it does not fit.
        SetupError: When `into` has something in it, or cannot be written to.
        Cancelled: When `cancel` was.
    """
    if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
        raise SetupError(
            f"{into} is there already, and not empty.",
            fix="Give a folder that does not exist, or is empty.",
            path=str(into),
        )
    into.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=into.parent))
    try:
        with _named_errors(archive, into), archive.open("rb") as file:
            total = archive.stat().st_size
            budget = _Budget(min(most_bytes, _FREE_OF_RATIO + _MOST_RATIO * total), most_bytes, most_files)

            def tick() -> None:
                if cancel is not None:
                    cancel.check("Unpacking")
                report(Progress(step, archive.name, done=min(file.tell(), total), total=total, unit="bytes"))

            writer = _Writer(staging, budget, tick)
            for member in members(file):
                tick()
                if wanted is None or wanted(member.name):
                    writer.add(member)
            writer.link()
            staging.chmod(0o755)
            if into.exists():
                into.rmdir()
            staging.replace(into)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    report(Progress(step, archive.name, done=total, total=total, unit="bytes", finished=True))


def find_programs(folder: Path) -> Path:
    """The folder with llama-server in it, wherever in `folder` it is; of several the one nearest to the top.

    Releases have had it at the top, in one folder named for the release, and in `build/bin`.

    Raises:
        SetupError: When there is none.
    """
    wanted, other = ("llama-server.exe", "llama-server") if os.name == "nt" else ("llama-server", "llama-server.exe")
    strange = False
    found = []
    for where, _, files in os.walk(folder):
        if wanted in files and (Path(where) / wanted).is_file():
            found.append(Path(where))
        strange = strange or other in files
    if found:
        return min(found, key=lambda path: (len(path.parts), path))
    system = "Linux or macOS" if os.name == "nt" else "Windows"
    raise SetupError(
        f"There is no {wanted} in {folder}" + (f", only {other}: these are programs for {system}." if strange else "."),
        fix="Give a folder or an archive with llama.cpp's programs for this system.",
        path=str(folder),
    )


@dataclass(slots=True)
class _Budget:
    """What an archive may still use."""

    bytes_left: int
    most_bytes: int
    files_left: int

    def file(self, member: Member) -> None:
        self.files_left -= 1
        if self.files_left < 0:
            raise Refused("it has too many members")
        if member.size > self.bytes_left:
            self._over()

    def spend(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            self._over()

    def _over(self) -> None:
        raise Refused(
            f"it unpacks to more than {self.most_bytes / 2**30:.1f} GiB, or to more than {_MOST_RATIO} times its own size"
        )


@dataclass(slots=True)
class _Writer:
    """Writes members below a folder. Links come last, so that no file is ever written through one."""

    root: Path
    budget: _Budget
    tick: Callable[[], None]
    tree: Tree = field(default_factory=Tree)

    def add(self, member: Member) -> None:
        self.budget.file(member)
        if member.kind == "link":
            self.tree.add(member.name, "link", member.aim)
            return
        parts = self.tree.add(member.name, "folder" if member.kind == "folder" else "file")
        target = self.root.joinpath(*parts)
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == "copy":
            self._copy(member, target)
        else:
            self._write(member, target)

    def _write(self, member: Member, target: Path) -> None:
        assert member.open is not None, "files have content"
        runnable, written = member.runnable, 0
        with member.open() as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                self.tick()
                if runnable is None:
                    runnable = chunk.startswith(_RUNNABLE)
                self.budget.spend(len(chunk))
                written += len(chunk)
                file.write(chunk)
        if written != member.size:
            raise tarfile.ReadError(f"{member.name!r} has {written:,} of {member.size:,} bytes")
        target.chmod(0o755 if runnable else 0o644)

    def _copy(self, member: Member, target: Path) -> None:
        """A hard link becomes a copy: of a file that this archive brought, and nothing else."""
        aim = Tree().add(member.aim, "file")
        source = self.root.joinpath(*aim)
        if self.tree.kind(aim) != "file" or not source.is_file() or source == target:
            raise Refused(
                f"{member.name!r} is a second name for {member.aim!r}, which is no file before it in the archive"
            )
        self.budget.spend(source.stat().st_size)
        shutil.copy2(source, target)

    def link(self) -> None:
        """Make the links, after every one of them has been followed to its end."""
        links = self.tree.links
        ends = {parts: self.tree.lands("/".join(parts)) for parts in links}
        for parts, aim in links.items():
            target = self.root.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.name == "nt":
                self._stand_in(self.root.joinpath(*ends[parts]), target)
            else:
                target.symlink_to(aim)

    def _stand_in(self, source: Path, target: Path) -> None:
        """What stands for a link on Windows, where making one needs a privilege."""
        if not source.is_file():
            raise Refused(f"{target.name!r} links to what is no file in the archive")
        self.budget.spend(source.stat().st_size)
        shutil.copy2(source, target)


@contextmanager
def _named_errors(archive: Path, into: Path) -> Iterator[None]:
    """Everything that can be wrong with an archive, as noa_lab's errors."""
    try:
        yield
    except Refused as error:
        raise ArchiveUnsafe(
            f"{archive.name} is not unpacked: {error}.",
            fix="Do not use it; get it from https://github.com/ggml-org/llama.cpp/releases, or build from source.",
            source=archive.name,
            reason=str(error),
            kind="unsafe archive",
        ) from None
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise DownloadFailed(
            f"{archive.name} is damaged: {reason}.",
            fix="Delete it and start again; it is downloaded anew.",
            source=archive.name,
            reason=reason,
            kind="damaged archive",
        ) from None
    except OSError as error:
        raise _disk_error(error, archive, into) from None


def _disk_error(error: OSError, archive: Path, into: Path) -> SetupError | DownloadFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(into.parent).free
        return DiskFull(
            f"There was no space for the contents of {archive.name} in {into.parent}.",
            fix="Free some space, or set NOA_LAB_HOME to a folder on another disk.",
            path=str(into.parent),
            free_bytes=free,
        )
    if error.errno in (None, errno.EINVAL):
        # A jump to before the archive's start: it is the archive's fault, not the disk's.
        return DownloadFailed(
            f"{archive.name} is damaged: {error}.",
            fix="Delete it and start again; it is downloaded anew.",
            source=archive.name,
            reason=str(error),
            kind="damaged archive",
        )
    return SetupError(
        f"{archive.name} could not be unpacked into {into}: {error.strerror or error}.",
        fix="Check that the folder can be written to.",
        path=str(into),
    )
