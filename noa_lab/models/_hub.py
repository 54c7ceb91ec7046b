"""Models from the Hugging Face hub: huggingface_hub says what there is and who may have it, the bytes come through our downloader.

They end up in the cache that all tools of the hub share; what another tool has put there is not fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from noa_lab.download import Order, check_disk, discard, fetch_file, part_path
from noa_lab.errors import ChecksumMismatch, DownloadFailed, UnknownModel
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._arrived import MOST_BYTES, SPARE_BYTES, STEP, Arrived, ArrivedFile, share_of
from noa_lab.models._hub_cache import HubCache
from noa_lab.models._hub_plan import HubEntry, HubPlan, choose, hub_advice, hub_plan
from noa_lab.models._place import sha256_of_parts
from noa_lab.models._record import hash_file
from noa_lab.models._reference import HubFile, HubQuant

__all__ = ["file_of_quant", "from_hub"]

_CHECK = "Check the model"


def file_of_quant(ref: HubQuant) -> HubFile:
    """The file of one quantisation in a repository; of a split model the first part.

    Raises:
        UnknownModel: When the repository has none, with those that it has.
        DownloadFailed: When the hub cannot be asked.
    """
    return HubFile(ref.repo, hub_plan(ref).files[0].path, ref.revision)


def from_hub(
    ref: HubFile | HubQuant,
    known: str | None,
    *,
    expect: Callable[[str], None],
    watch: Callable[[Path], None],
    report: Report,
    cancel: CancelToken | None,
) -> tuple[Arrived, str]:
    """Get a model into the hub's cache; what is there already is not fetched again.

    Args:
        ref: Which one.
        known: The model's sha256, where it is known: a file of that name in the cache needs no network.
        expect: Called with the hash that the hub promises, before the first byte; it may refuse.
        watch: Told where the bytes will be.
        report: Told about the progress.
        cancel: Stops it.

    Returns:
        The files, and the first one's name.

    Raises:
        UnknownModel: When there is no such repository, revision or file.
        DownloadFailed: When they do not arrive, or a licence must be accepted first.
        ChecksumMismatch: When one arrives wrong, or one that is there already is damaged.
        DiskFull: When they do not fit.
        Cancelled: When `cancel` was.
    """
    blob = HubCache.of(ref.repo).blob(known) if known is not None else None
    if blob is not None and isinstance(ref, HubFile) and blob.is_file():
        return Arrived((_checked(blob.resolve(), known, report, cancel),), shared=True), ref.file
    try:
        plan = hub_plan(ref, report=report, cancel=cancel)
    except DownloadFailed as error:
        if error.fields.get("kind") not in ("unreachable", "stalled", "server", "rate limit"):
            raise
        found = _cached(ref, report, cancel)
        if found is None:
            raise
        return found
    hashes = [entry.sha256 for entry in plan.files]
    if None not in hashes:
        texts = [str(each) for each in hashes]
        expect(texts[0] if len(texts) == 1 else sha256_of_parts(texts))
    _check_disk(plan)
    sizes = [entry.size_bytes for entry in plan.files]
    files = []
    for number, entry in enumerate(plan.files):
        files.append(_get(plan, entry, watch, share_of(report, sizes, number), cancel))
    HubCache.of(plan.repo).note_revision(plan.revision, plan.commit)
    return Arrived(tuple(files), shared=True, version=plan.commit), plan.files[0].path


def _cached(ref: HubFile | HubQuant, report: Report, cancel: CancelToken | None) -> tuple[Arrived, str] | None:
    """What a reference meant when the hub was last asked, if all of it is in the cache."""
    cache, revision = HubCache.of(ref.repo), ref.revision or "main"
    try:
        names = choose(ref, cache.names(revision))
    except UnknownModel:
        return None
    found = [path for path in (cache.find(revision, name) for name in names) if path is not None]
    sizes = [path.stat().st_size for path in found]
    files = [
        _checked(path.resolve(), cache.sha256_of(path), share_of(report, sizes, number), cancel)
        for number, path in enumerate(found)
    ]
    return Arrived(tuple(files), shared=True, version=cache.commit_of(revision) or ""), names[0]


def _check_disk(plan: HubPlan) -> None:
    """See that there is room for all parts of a split model before the first one is fetched, and make the folders.

    A part that is half here has its room reserved already, and is looked at again when its turn comes.

    Raises:
        DiskFull: When there is not.
    """
    missing = 0
    for entry in plan.files:
        blob, pointer = _places(plan, entry)
        if not any(path.exists() for path in (blob, pointer, part_path(blob))):
            missing += entry.size_bytes or 0
    cache = HubCache.of(plan.repo)
    cache.prepare(plan.commit)
    if missing:
        check_disk(cache.folder, missing + SPARE_BYTES, elsewhere=hub_advice(plan.repo)["disk full"])


def _places(plan: HubPlan, entry: HubEntry) -> tuple[Path, Path]:
    """Where the cache has a file's bytes, and the link to them.

    Raises:
        DownloadFailed: When the hub gave it a name that leads elsewhere.
    """
    cache = HubCache.of(plan.repo)
    try:
        return cache.blob(entry.etag), cache.pointer(plan.commit, entry.path)
    except ValueError:
        raise DownloadFailed(
            f"{plan.repo} has a file whose name cannot be used here: {entry.path!r}.",
            fix="Choose another file, or another repository.",
            source=f"hf://{plan.repo}",
            reason="an unusable name",
        ) from None


def _get(
    plan: HubPlan, entry: HubEntry, watch: Callable[[Path], None], report: Report, cancel: CancelToken | None
) -> ArrivedFile:
    cache = HubCache.of(plan.repo)
    blob, pointer = _places(plan, entry)
    watch(blob)
    with cache.lock(entry.etag, report=report, cancel=cancel):
        here = next((path.resolve() for path in (pointer, blob) if path.is_file()), None)
        if here is not None:
            discard(blob)  # a killed process may have left its journal
        found = _checked(here, entry.sha256, report, cancel) if here else _download(plan, entry, blob, report, cancel)
        final = cache.link(entry.etag, plan.commit, entry.path).resolve()
    return ArrivedFile(final, found.sha256, found.size_bytes, found.promised)


def _download(plan: HubPlan, entry: HubEntry, blob: Path, report: Report, cancel: CancelToken | None) -> ArrivedFile:
    from huggingface_hub import constants, get_token, hf_hub_url

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    url = hf_hub_url(plan.repo, entry.path, revision=plan.commit)
    order = Order(
        url,
        blob,
        size_bytes=entry.size_bytes,
        sha256=entry.sha256,
        most_bytes=MOST_BYTES,
        authorization=f"Bearer {token}" if token else None,
        spare_bytes=SPARE_BYTES,
        allow_http_loopback=constants.ENDPOINT.startswith("http://"),
        advice=hub_advice(plan.repo),
    )
    arrived = fetch_file(order, step=STEP, report=report, cancel=cancel)
    if entry.sha256 is None and _git_hash(blob) != entry.etag:
        blob.unlink()
        raise _damaged(entry.path, url, entry.etag, arrived.sha256, "Start it again.")
    return ArrivedFile(blob, arrived.sha256, arrived.size_bytes, promised=entry.sha256 is not None)


def _checked(path: Path, sha256: str | None, report: Report, cancel: CancelToken | None) -> ArrivedFile:
    """A file that is here already; other tools compare no more than its size."""
    found = hash_file(path, step=_CHECK, report=report, cancel=cancel)
    if sha256 is not None and found != sha256:
        raise _damaged(path.name, str(path), sha256, found, f"Delete {path} and start again.")
    size = path.stat().st_size
    report(Progress(_CHECK, path.name, size, size, "bytes", finished=True))
    return ArrivedFile(path, found, size, promised=sha256 is not None)


def _git_hash(path: Path) -> str:
    """Git's name for a file's bytes, by which the hub knows the small ones."""
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _damaged(name: str, source: str, expected: str, found: str, fix: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{name} is damaged: its hash is {found}, not {expected}.",
        fix=fix,
        source=source,
        expected=expected,
        found=found,
        reason="wrong hash",
        kind="wrong digest",
    )
