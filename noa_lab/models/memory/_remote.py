"""Reading the beginning of a model's files where they are: a few MB say how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit, urlunsplit

from noa_lab.download import RemoteFile
from noa_lab.errors import BadInput
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._hub_plan import hub_advice, hub_plan
from noa_lab.models._reference import HubFile, HubQuant, Reference, WebFile
from noa_lab.models._split import part_names
from noa_lab.models.memory._heads import Head, read_head, read_head_of

__all__ = ["read_heads"]

STEP = "Read the header"


def read_heads(reference: Reference, *, report: Report, cancel: CancelToken | None) -> list[Head]:
    """The beginnings of a model's files, from where they are.

    Args:
        reference: A file or quantisation on the hub, or an https address.
        report: Told about the bytes.
        cancel: Stops it between two requests.

    Raises:
        DownloadFailed: When the place cannot be reached or gives no parts of files.
        UnknownModel: When there is no such file.
        ModelFileBroken: When it is no GGUF.
        BadInput: When nothing can be read there without fetching all of it.
        Cancelled: When `cancel` was.
    """
    heads = [read_head_of(path) for path in _cached(reference)]
    if heads:
        return heads
    with ExitStack() as opened:
        for file in _files(reference, cancel):
            opened.enter_context(file)
            done = sum(len(head.content) for head in heads)
            heads.append(read_head(_Watched(file, done, report)))
    report(Progress(STEP, done=sum(len(head.content) for head in heads), unit="bytes", finished=True))
    return heads


def _cached(reference: Reference) -> list[Path]:
    """The files of the model in the cache that all tools of the hub share; [] where not all are there."""
    if not isinstance(reference, HubFile):
        return []
    from huggingface_hub import constants, try_to_load_from_cache

    names = part_names(reference.file) or (reference.file,)
    found = [
        try_to_load_from_cache(
            reference.repo, name, cache_dir=constants.HF_HUB_CACHE, revision=reference.revision or None
        )
        for name in names
    ]
    return (
        [Path(path) for path in found if isinstance(path, str)] if all(isinstance(each, str) for each in found) else []
    )


class _Watched:
    """A file that tells how much of it was read."""

    def __init__(self, file: RemoteFile, before: int, report: Report) -> None:
        self._file, self._before, self._report = file, before, report
        self.name, self.size = file.name, file.size

    def read(self, offset: int, count: int) -> bytes:
        found = self._file.read(offset, count)
        self._report(Progress(STEP, self.name, done=self._before + offset + len(found), unit="bytes"))
        return found


def _files(reference: Reference, cancel: CancelToken | None) -> Iterator[RemoteFile]:
    """Every file of the model, opened one after the other."""
    match reference:
        case HubFile() | HubQuant():
            yield from _on_hub(reference, cancel)
        case WebFile():
            for url in _addresses(reference):
                yield RemoteFile(url, _name(url), cancel=cancel)
        case _:
            raise BadInput(
                f"The header of {reference} can only be read once the model is on this machine.",
                fix="Get it first: `noa-lab models get`.",
                field="model",
                value=str(reference),
            )


def _on_hub(reference: HubFile | HubQuant, cancel: CancelToken | None) -> Iterator[RemoteFile]:
    from huggingface_hub import constants, get_token, hf_hub_url

    plan = hub_plan(reference, cancel=cancel)
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    for entry in plan.files:
        yield RemoteFile(
            hf_hub_url(plan.repo, entry.path, revision=plan.commit),
            PurePosixPath(entry.path).name,
            authorization=f"Bearer {token}" if token else None,
            allow_http_loopback=constants.ENDPOINT.startswith("http://"),
            advice=hub_advice(plan.repo),
            cancel=cancel,
        )


def _addresses(file: WebFile) -> list[str]:
    """The address of every part."""
    parts = urlsplit(file.url)
    folder, _, name = parts.path.rpartition("/")
    return [urlunsplit(parts._replace(path=f"{folder}/{part}")) for part in part_names(name)] or [file.url]


def _name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]
