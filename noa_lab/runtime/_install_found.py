"""Programs that somebody else has made: the system's, used where they are, and the user's, copied."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from noa_lab.runtime._archive import find_programs, unpack
from noa_lab.runtime._job import Job
from noa_lab.runtime._libraries import add_launchers, bring_libraries
from noa_lab.runtime._pins import architecture
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import adopt, complete, hash_files, load, stage
from noa_lab.runtime._system import Found, find_system
from noa_lab.runtime._trial import note_in_place, put_in_place, tool_names, try_out
from noa_lab.runtime._wish import Wish

__all__ = ["install_path", "install_system", "use_found"]


def install_system(job: Job, wish: Wish) -> Runtime:
    """Use the llama.cpp that is on this machine already.

    Raises:
        RuntimeMissing: When there is none.
        RuntimeRejected: When it does not work.
    """
    del wish
    return use_found(job, find_system(job.home))


def use_found(job: Job, found: Found) -> Runtime:
    """Try somebody else's programs where they are; nothing of theirs is changed, the manifest goes into the home.

    Raises:
        RuntimeRejected: When they do not work.
    """
    job.tell("Find llama.cpp", f"{found.manager}: {found.folder}", finished=True)
    where = hashlib.sha256(str(found.folder).encode()).hexdigest()[:8]
    name = f"system-{found.manager.lower()}-{where}"
    there = load(job.home.runtimes / name)
    if there is not None and complete(there):
        return there
    draft = Runtime(
        id=name,
        folder=found.folder,
        source="system",
        tag="",
        build_number=0,
        commit="",
        backend="",
        url=str(found.folder),
    )
    tried = try_out(job, draft)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=job.home.runtimes))
    staging.chmod(0o755)
    try:
        return note_in_place(job, tried, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def install_path(job: Job, wish: Wish) -> Runtime:
    """Copy programs from an archive or a folder that the user has, and try the copy.

    Raises:
        SetupError: When there is no llama-server in it.
        RuntimeRejected: When they do not work here.
        DownloadFailed, DiskFull, Cancelled: As they say; an archive is unpacked like a downloaded one.
    """
    assert wish.path is not None, "this way has a path"
    unpacked: Path | None = None
    digests: dict[str, str] = {}
    if wish.path.is_dir():
        programs = find_programs(wish.path)
        staging = stage(programs, job.home)
    else:
        with wish.path.open("rb") as file:
            digests[wish.path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        unpacked = job.work / f"archive-{digests[wish.path.name][:12]}"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpack(wish.path, unpacked, report=job.report, cancel=job.cancel)
        programs = find_programs(unpacked)
        staging = adopt(programs, job.home)
    try:
        bring_libraries(programs, staging, every=unpacked is not None)
        tools = tool_names(staging)
        add_launchers(staging, tools)
        draft = Runtime(
            id="",
            folder=staging,
            source="path",
            tag="",
            build_number=0,
            commit="",
            backend="",
            tools=tools,
            url=str(wish.path),
            digests=digests,
            verified=False if digests else None,
        )
        tried = try_out(job, draft)
        label = tried.tag or "build"
        content = hashlib.sha256(repr(sorted(hash_files(staging).items())).encode()).hexdigest()[:8]
        name = f"{label}-path-{tried.backend}-{architecture()}-{content}"
        return put_in_place(job, replace(tried, id=name))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if unpacked is not None:
            shutil.rmtree(unpacked, ignore_errors=True)
