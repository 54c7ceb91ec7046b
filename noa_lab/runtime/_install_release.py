"""A prebuilt llama.cpp from a release: found, fetched, tried, put in place."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence

from noa_lab.errors import RuntimeRejected, SetupError
from noa_lab.paths import Home
from noa_lab.runtime._backends import Gpu, choose_backend
from noa_lab.runtime._job import Job
from noa_lab.runtime._libraries import add_launchers
from noa_lab.runtime._machine import machine
from noa_lab.runtime._pins import PIN, architecture
from noa_lab.runtime._release import Asset, ReleaseBuild, fetch_release, find_release, resolve
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._store import adopt, runtimes
from noa_lab.runtime._trial import put_in_place, tool_names, try_out
from noa_lab.runtime._wish import Wish

__all__ = ["install_release", "installed_release"]

_STEP = "Find the release"


def installed_release(home: Home, wish: Wish) -> Runtime | None:
    """The release that was asked for, if it is here already; no network is needed to know."""
    tag = wish.tag or PIN.tag
    backend = wish.backend or choose_backend().backend
    for runtime in runtimes(home):
        if runtime.source == "release" and runtime.tag == tag and backend in {runtime.backend, *runtime.flags}:
            return runtime
    return None


def install_release(job: Job, wish: Wish) -> Runtime:
    """Fetch what was asked for; when it does not work here, the release's build for the CPU, and at last the one without AVX.

    Raises:
        UnknownName: For a backend that does not exist.
        SetupError: When the release has nothing for this machine, or not the backend that was named.
        DownloadFailed: When it cannot be fetched, and ChecksumMismatch when its bytes are wrong.
        RuntimeRejected: When none of its builds works here.
        DiskFull, Cancelled: As they say.
    """
    there = installed_release(job.home, wish)
    if there is not None:
        job.tell(_STEP, f"{there.id} is here already", finished=True)
        return there
    choice = choose_backend()
    if wish.backend is None:
        job.tell(_STEP, choice.why)
    backend = wish.backend or choice.backend
    tag, assets = find_release(
        wish.tag or PIN.tag,
        mirror=wish.mirror,
        system=machine().system,
        architecture=architecture(),
        backend=backend,
        token=os.environ.get("GITHUB_TOKEN") or None,
        allow_http_loopback=_is_loopback(wish),
        report=job.report,
        cancel=job.cancel,
    )
    job.tell(_STEP, f"{tag}, {len(assets)} files", finished=True)
    ladder = _ladder(job, backend, wish.backend is not None, choice.gpus, tag, assets)
    for build, safer in zip(ladder, (*ladder[1:], None), strict=True):
        try:
            return _install_one(job, build, wish)
        except RuntimeRejected as error:
            if safer is None or error.fields.get("kind") == "model":
                raise
            job.give_up(f"{build.asset.name}", error, safer.asset.name)
    raise AssertionError("the ladder has at least one rung")


def _ladder(
    job: Job, backend: str, named: bool, gpus: Sequence[Gpu], tag: str, assets: Sequence[Asset]
) -> tuple[ReleaseBuild, ...]:
    """What was asked for, then the build for any CPU, then the one without AVX where the release has that."""
    here = machine()
    gpu = next((gpu for gpu in gpus if gpu.backend == backend.partition("-")[0]), None)
    found: list[ReleaseBuild] = []
    missing: SetupError | None = None
    for wanted in dict.fromkeys(
        (backend, "cpu", *(["noavx"] if any("-noavx-" in asset.name for asset in assets) else []))
    ):
        try:
            build = resolve(
                assets,
                tag=tag,
                system=here.system,
                architecture=architecture(),
                backend=wanted,
                driver=gpu.driver if gpu and gpu.driver else None,
                compute_capability=gpu.compute_capability if gpu else None,
                features=here.features,
            )
        except SetupError as error:
            if wanted == backend and named:
                raise
            missing = missing or error
            continue
        if build.asset.url not in {each.asset.url for each in found}:
            found.append(build)
    if not found:
        assert missing is not None, "without a build there is a reason"
        raise missing
    if missing is not None and backend != "cpu":
        job.give_up(backend, missing, found[0].asset.name)
    return tuple(found)


def _install_one(job: Job, build: ReleaseBuild, wish: Wish) -> Runtime:
    job.tell(_STEP, build.says or build.asset.name)
    there = next((runtime for runtime in runtimes(job.home) if _is(runtime, build)), None)
    if there is not None:
        job.tell(_STEP, f"{there.id} is here already", finished=True)
        return there
    into = job.work / f"release-{build.tag}-{build.variant or build.backend}"
    fetched = fetch_release(build, into, report=job.report, cancel=job.cancel, allow_http_loopback=_is_loopback(wish))
    staging = adopt(fetched.folder, job.home)
    try:
        # Releases of early 2025 were linked to look for their libraries in the folder that they were built in.
        add_launchers(staging, tool_names(staging))
        digest = fetched.sha256[build.asset.name]
        draft = Runtime(
            id=f"{build.tag}-release-{build.variant or build.backend}-{architecture()}-{digest[:8]}",
            folder=staging,
            source="release",
            tag=build.tag,
            build_number=int(build.tag.removeprefix("b")),
            commit="",
            backend=build.backend,
            flags=(build.variant,) if build.variant else (),
            url=build.asset.url,
            digests=dict(fetched.sha256),
            verified=fetched.verified,
        )
        placed = put_in_place(job, try_out(job, draft, expected=(draft.build_number, "")))
    except RuntimeRejected:
        shutil.rmtree(into, ignore_errors=True)
        raise
    finally:
        # The archives stay where the trial was cancelled: the next call need not fetch them again.
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(into, ignore_errors=True)
    return placed


def _is(runtime: Runtime, build: ReleaseBuild) -> bool:
    """Whether a runtime that is here came out of this very archive."""
    digest = runtime.digests.get(build.asset.name)
    same = digest is not None and build.asset.sha256 in {None, digest}
    return same and (runtime.source, runtime.tag) == ("release", build.tag)


def _is_loopback(wish: Wish) -> bool:
    """Whether the mirror is on this very machine: only such a one may do without TLS."""
    return re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(?=[:/]|$)", wish.mirror or "") is not None
