"""Reading parts of a file that is on a hub or a web server: a few MB at its beginning say how much memory the model takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noa_lab.errors import BadInput, DownloadFailed
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.models._hub import file_of_quant
from noa_lab.models._reference import HubFile, HubQuant, Reference, WebFile
from noa_lab.models.memory._heads import Head, header_of_heads, read_head

if TYPE_CHECKING:
    import httpx

__all__ = ["read_heads"]

_HUB_SECONDS = 10.0
STEP = "Read the header"
_FIRST_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")
_MOST_PARTS = 500


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
    if isinstance(reference, HubQuant):
        reference = file_of_quant(reference)
    if not isinstance(reference, HubFile | WebFile):
        raise BadInput(
            "The header of this model can only be read once it is here.",
            fix="Get it first: `noa-lab models get`.",
            field="model",
            value=str(reference),
        )
    address = reference.file if isinstance(reference, HubFile) else reference.url
    heads = [_head_of(reference, report, cancel)]
    parts = header_of_heads(heads).split_count
    match = _FIRST_PART.search(address)
    if match is not None and parts == int(match[1]) <= _MOST_PARTS:
        for number in range(2, parts + 1):
            name = _FIRST_PART.sub(f"-{number:05}-of-{parts:05}.gguf", address)
            part = HubFile(reference.repo, name) if isinstance(reference, HubFile) else WebFile(name)
            heads.append(_head_of(part, report, cancel))
    report(Progress(STEP, done=sum(len(head.content) for head in heads), unit="bytes", finished=True))
    return heads


def _head_of(reference: HubFile | WebFile, report: Report, cancel: CancelToken | None) -> Head:
    opened = _on_hub(reference) if isinstance(reference, HubFile) else _on_web(reference)
    with opened as source:
        return read_head(_Watched(source, report, cancel))


class _Watched:
    """A source that tells what was read and can be stopped."""

    def __init__(self, source: Any, report: Report, cancel: CancelToken | None) -> None:
        self._source, self._report, self._cancel = source, report, cancel
        self.name, self.size = str(source.name), int(source.size)

    def read(self, offset: int, count: int) -> bytes:
        if self._cancel is not None:
            self._cancel.check(STEP)
        found: bytes = self._source.read(offset, count)
        self._report(Progress(STEP, self.name, done=offset + len(found), unit="bytes"))
        return found


@contextmanager
def _on_hub(file: HubFile) -> Iterator[_WebSource]:
    """A file on the hub; huggingface_hub says where it is and who may see it."""
    import httpx2  # huggingface_hub's own client; its errors come through
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    url = hf_hub_url(file.repo, file.file)
    page = f"{constants.ENDPOINT}/{file.repo}"
    try:
        found = get_hf_file_metadata(url, timeout=_HUB_SECONDS)
    except GatedRepoError:
        raise _failed(
            url, "the repository asks to accept its licence", f"Accept it at {page}, then set HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        raise _failed(url, f"the hub answered with status {status}", f"See {page} for what is there.") from None
    except (OfflineModeIsEnabled, OSError, httpx2.HTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise _failed(url, reason, "Check the network connection, HF_ENDPOINT and HF_HUB_OFFLINE.") from None
    same_host = urlsplit(found.location).netloc == urlsplit(url).netloc
    token = get_token() if same_host else None  # never to another host
    with _client(token, plain=urlsplit(url).scheme == "http") as client:
        yield _WebSource(client, found.location, file.file.rpartition("/")[2])


class _WebSource:
    """A file at an https address whose server knows ranges."""

    def __init__(self, client: httpx.Client, url: str, name: str) -> None:
        self._client, self._url, self.name = client, url, name
        self.size = self._ask(0, 1)[1]

    def read(self, offset: int, count: int) -> bytes:
        return self._ask(offset, count)[0]

    def _ask(self, offset: int, count: int) -> tuple[bytes, int]:
        headers = {"Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
        host = urlsplit(self._url).hostname
        with self._client.stream("GET", self._url, headers=headers, follow_redirects=True) as response:
            if response.status_code != 206:
                reason = f"{host} answered with status {response.status_code} where a part of the file was asked for"
                raise _failed(self._url, reason)
            told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if told is None or int(told[1]) != offset or int(told[2]) >= offset + count:
                raise _failed(self._url, f"{host} sent another part than it was asked for")
            arrived = bytearray()
            for chunk in response.iter_bytes(2**16):
                arrived += chunk
                if len(arrived) > count:
                    raise _failed(self._url, f"{host} sent more than it was asked for")
            return bytes(arrived), int(told[3])


@contextmanager
def _on_web(file: WebFile) -> Iterator[_WebSource]:
    with _client(None, plain=False) as client:
        yield _WebSource(client, file.url, urlsplit(file.url).path.rpartition("/")[2])


@contextmanager
def _client(token: str | None, *, plain: bool) -> Iterator[httpx.Client]:
    """A client that leaves https only for a hub that is not on https itself, and takes the token to no other host."""
    import httpx

    def refuse_plain(request: httpx.Request) -> None:
        if request.url.scheme != "https" and not plain:
            raise httpx.UnsupportedProtocol(f"{request.url.scheme}://{request.url.host} is not encrypted")

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    hooks: dict[str, list[Any]] = {"request": [refuse_plain]}
    try:
        with httpx.Client(headers=headers, timeout=30.0, event_hooks=hooks, max_redirects=10) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failed("the model", str(error) or type(error).__name__) from None


def _failed(source: str, reason: str, fix: str = "Check the address and the network connection.") -> DownloadFailed:
    message = f"The header of {source} could not be read: {reason}."
    return DownloadFailed(message, fix=fix, source=source, reason=reason)
