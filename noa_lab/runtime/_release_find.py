"""Asking GitHub, or a mirror that serves the same paths, which releases of llama.cpp there are and what is in them."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.download import check_address, failed, refusal
from noa_lab.errors import BadInput, DownloadFailed, SetupError, UnknownName
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.runtime._release_names import Asset, parse_program
from noa_lab.runtime._release_resolve import resolve
from noa_lab.runtime._web import RELEASE_ADVICE, named_errors, run, web_client

if TYPE_CHECKING:
    import httpx

__all__ = ["GITHUB_API", "REPOSITORY", "canonical", "find_release", "pinned_sha256"]

GITHUB_API = "https://api.github.com"
REPOSITORY = "ggml-org/llama.cpp"
"""Where llama.cpp lives. GitHub redirects its old name, `ggerganov/llama.cpp`, here; what noa_lab writes down has the new one."""

_OLD_REPOSITORY = "ggerganov/llama.cpp"
_STEP = "Find the release"
_PINS = Path(__file__).with_name("release_digests.yaml")
_MOST_LISTING_BYTES = 32 * 2**20
_PAGES, _PER_PAGE = 3, 30
_NIGHTLY = re.compile(r"b[1-9]\d*")
_STABLE = re.compile(r"v\d+\.\d+\.\d+")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_POINTER = "nightly-tag.txt"


def find_release(
    tag: str,
    *,
    mirror: str | None = None,
    system: str | None = None,
    architecture: str | None = None,
    backend: str = "cpu",
    token: str | None = None,
    api: str = GITHUB_API,
    patience: float = 15.0,
    allow_http_loopback: bool = False,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> tuple[str, tuple[Asset, ...]]:
    """The release that a tag means, and the files that it lists.

    Since August 2026 GitHub's "latest" is a release with a version like v0.6.0, which has no programs, only the name of the nightly
    that has them; the nightlies (b11312) are marked as prereleases. Older ones, and mirrors, may have the programs in "latest".

    Args:
        tag: "b11312"; "v0.6.0"; "latest-stable"; "latest-nightly" (the newest that has programs, for the machine if one is given).
        mirror: Address that serves the same paths (`/repos/ggml-org/llama.cpp/releases/...`) and the files below
            `/download/<tag>/<name>`. What it says about its files is not believed: only those in noa_lab's own table get a `sha256`.
        system: With `architecture` and `backend`: for whom "latest-nightly" must have a build.
        architecture: See `system`.
        backend: See `system`.
        token: A GitHub token; raises the limit of 60 questions an hour. Sent to `api` and nowhere else.
        api: Address of the API.
        patience: Seconds without a sign of life after which a server counts as stalled.
        allow_http_loopback: Also ask this very machine over http; for tests.
        report: Told about the progress.
        cancel: Stops it within a fraction of a second.

    Returns:
        The release's own tag, "b11312", and its files.

    Raises:
        BadInput: When the tag or the mirror's address has none of these forms.
        DownloadFailed: When there is no such release, or the listing does not arrive; `fields["kind"]` says why.
        Cancelled: When `cancel` was.
    """
    if tag not in ("latest-stable", "latest-nightly") and not (_NIGHTLY.fullmatch(tag) or _STABLE.fullmatch(tag)):
        raise BadInput(
            f"{tag!r} is not a release tag of llama.cpp.",
            fix="Give one like b11312, or latest-stable, or latest-nightly.",
            field="tag",
            value=tag,
        )
    base = check_address(
        mirror or api, field="The mirror" if mirror else "The API", allow_http_loopback=allow_http_loopback
    )
    api_call = _Api(base, mirror is not None, patience)
    report(Progress(_STEP, f"{tag} at {base}"))

    async def ask() -> tuple[str, tuple[Asset, ...]]:
        own = token if mirror is None else None
        async with web_client(allow_http_loopback=allow_http_loopback, token=own) as client:
            if tag == "latest-nightly":
                return await api_call.newest(client, system, architecture, backend)
            path = "latest" if tag == "latest-stable" else f"tags/{tag}"
            found, assets = await api_call.release(client, path, tag)
            if not any(parse_program(asset.name) for asset in assets):
                found, assets = await _behind(api_call, client, found, assets, allow_http_loopback)
            return found, assets

    found, assets = run(ask, cancel)
    report(Progress(_STEP, f"{found}, {len(assets)} files", finished=True))
    return found, assets


async def _behind(
    api_call: _Api, client: httpx.AsyncClient, tag: str, assets: tuple[Asset, ...], allow_http_loopback: bool
) -> tuple[str, tuple[Asset, ...]]:
    """The nightly with the programs of a release that has none itself."""
    pointer = next((asset for asset in assets if asset.name == _POINTER), None)
    if pointer is None:
        raise failed(
            "no programs",
            api_call.base,
            f"release {tag} has no files with programs (yet: a tag is published before they are built)",
            "Try again in an hour, or ask for latest-stable or another tag.",
            tag=tag,
        )
    # A client of its own: a file is not fetched with the API's token.
    async with web_client(allow_http_loopback=allow_http_loopback) as plain:
        text = (await api_call.get(plain, pointer.url, 4096)).decode("utf-8", "replace").strip()
    if not _NIGHTLY.fullmatch(text):
        raise failed(
            "unreadable",
            pointer.url,
            f"it should hold a tag and holds {text[:40]!r}",
            "Ask for a tag like b11312.",
            tag=tag,
        )
    found, nightly = await api_call.release(client, f"tags/{text}", text)
    if not any(parse_program(asset.name) for asset in nightly):
        raise failed(
            "no programs",
            api_call.base,
            f"release {found} has no files with programs",
            "Ask for another tag.",
            tag=found,
        )
    return found, nightly


@dataclass(frozen=True, slots=True)
class _Api:
    """GitHub's REST API for one repository, or a mirror's copy of it."""

    base: str
    is_mirror: bool
    patience: float

    async def release(self, client: httpx.AsyncClient, path: str, tag: str) -> tuple[str, tuple[Asset, ...]]:
        url = f"{self.base}/repos/{REPOSITORY}/releases/{path}"
        try:
            return self._release(url, await self._json(client, url))
        except DownloadFailed as error:
            if error.fields.get("kind") != "not found":
                raise
            raise failed(
                "not found",
                url,
                f"there is no release {tag} of llama.cpp",
                f"Choose one of https://github.com/{REPOSITORY}/releases, or latest-stable.",
                tag=tag,
            ) from None

    async def newest(
        self, client: httpx.AsyncClient, system: str | None, architecture: str | None, backend: str
    ) -> tuple[str, tuple[Asset, ...]]:
        url = f"{self.base}/repos/{REPOSITORY}/releases"
        for page in range(1, _PAGES + 1):
            listing = await self._json(client, f"{url}?per_page={_PER_PAGE}&page={page}")
            if not isinstance(listing, list):
                raise failed("unreadable", url, "the answer is no list of releases", "Use another mirror.")
            usable = [
                self._release(url, each)
                for each in listing
                if isinstance(each, dict) and not each.get("draft") and _NIGHTLY.fullmatch(str(each.get("tag_name")))
            ]
            for tag, assets in sorted(usable, key=lambda each: int(each[0][1:]), reverse=True):
                if _suits(tag, assets, system, architecture, backend):
                    return tag, assets
            if len(listing) < _PER_PAGE:
                break
        who = f" for {system} on {architecture} with {backend}" if system and architecture else ""
        raise failed(
            "not found", url, f"none of the newest releases has programs{who}", "Ask for latest-stable, or a tag."
        )

    async def _json(self, client: httpx.AsyncClient, url: str) -> Any:
        raw = await self.get(client, url, _MOST_LISTING_BYTES)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise failed(
                "unreadable", url, "the answer is no JSON", "Check the mirror, or the network's login page."
            ) from None

    async def get(self, client: httpx.AsyncClient, url: str, most_bytes: int) -> bytes:
        """A small answer, whole."""
        headers = {"Accept": "application/vnd.github+json"}
        with named_errors(url):
            async with asyncio.timeout(self.patience):
                response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
            try:
                if response.status_code != 200:
                    raise refusal(str(response.url), response.status_code, response.headers, advice=RELEASE_ADVICE)
                return await self._body(response, url, most_bytes)
            finally:
                await response.aclose()

    async def _body(self, response: httpx.Response, url: str, most_bytes: int) -> bytes:
        body = bytearray()
        chunks = aiter(response.aiter_bytes(2**16))
        # A listing is small: twice the patience is enough for all of it, however it trickles in.
        async with asyncio.timeout(2 * self.patience):
            while chunk := await anext(chunks, b""):
                body += chunk
                if len(body) > most_bytes:
                    raise failed(
                        "too large", url, f"the answer has more than {most_bytes:,} bytes", "Use another mirror."
                    )
        return bytes(body)

    def _release(self, url: str, data: object) -> tuple[str, tuple[Asset, ...]]:
        tag = data.get("tag_name") if isinstance(data, dict) else None
        listed = data.get("assets") if isinstance(data, dict) else None
        if (
            not isinstance(tag, str)
            or not isinstance(listed, list)
            or not (_NIGHTLY.fullmatch(tag) or _STABLE.fullmatch(tag))
        ):
            raise failed("unreadable", url, "the answer does not describe a release of llama.cpp", "Check the mirror.")
        return tag, tuple(self._assets(tag, listed))

    def _assets(self, tag: str, listed: list[object]) -> Iterator[Asset]:
        seen: set[str] = set()
        for each in listed:
            if not isinstance(each, Mapping):
                continue
            name, size = each.get("name"), each.get("size")
            # An upload that is not done has a name and no bytes yet.
            if (
                not isinstance(name, str)
                or not _FILE_NAME.fullmatch(name)
                or each.get("state", "uploaded") != "uploaded"
            ):
                continue
            if name in seen:
                continue
            seen.add(name)
            found = _DIGEST.fullmatch(str(each.get("digest") or ""))
            said = found[1] if found else None
            pinned = pinned_sha256(tag, name)
            url = (
                f"{self.base}/download/{tag}/{name}"
                if self.is_mirror
                else canonical(str(each.get("browser_download_url") or ""))
            )
            yield Asset(
                name=name,
                url=url,
                size_bytes=size if isinstance(size, int) and size >= 0 else None,
                sha256=pinned or (None if self.is_mirror else said),
                claimed_sha256=said,
            )


def _suits(tag: str, assets: tuple[Asset, ...], system: str | None, architecture: str | None, backend: str) -> bool:
    if system is None or architecture is None:
        return any(parse_program(asset.name) for asset in assets)
    try:
        resolve(assets, tag=tag, system=system, architecture=architecture, backend=backend)
    except UnknownName:
        return False
    except SetupError as error:
        # Several builds to choose from are something for this machine, too.
        return bool(error.fields.get("available")) and "elsewhere" not in error.fields
    return True


def canonical(url: str) -> str:
    """A GitHub address with the repository's present name in place of its old one."""
    return re.sub(rf"^(https://github\.com/){re.escape(_OLD_REPOSITORY)}(?=/|$)", rf"\g<1>{REPOSITORY}", url)


def pinned_sha256(tag: str, name: str) -> str | None:
    """The hash of a release's file in noa_lab's own table; None when it is not listed."""
    return _pins().get(tag, {}).get(name)


@functools.cache
def _pins() -> dict[str, dict[str, str]]:
    import yaml

    pins: dict[str, dict[str, str]] = yaml.safe_load(_PINS.read_text(encoding="utf-8"))
    return pins
