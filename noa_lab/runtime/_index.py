"""Where the Python package index has a file, and its hash, so that our own downloader can fetch it and continue it after a cut.

Whatever is unusual about pip's settings (an index with a password, a proxy, no index at all) is pip's own business: nothing is found then.
The answer is PyPI's JSON form of the index: https://packaging.python.org/en/latest/specifications/simple-repository-api/
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from noa_lab.download import encrypted, refusal
from noa_lab.errors import DownloadFailed
from noa_lab.events import CancelToken
from noa_lab.runtime._process import run as run_command
from noa_lab.runtime._web import named_errors, run, web_client

__all__ = ["Found", "IndexFile", "find_distribution", "pip_settings"]

_PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json"
_SECONDS = 15.0
_MOST_BYTES = 20_000_000
_SETTING = re.compile(r"(?P<section>[^.=]+)\.(?P<key>[\w-]+)=(?P<value>.+)")
_settings: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
"""What pip said, by the environment it was asked in: asking takes half a second."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file of the index.

    Attributes:
        name: Its name.
        url: Its address.
        sha256: Its hash, as the index says.
        size_bytes: Its size; None where the index does not say.
    """

    name: str
    url: str
    sha256: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the index gave.

    Attributes:
        file: The file; None when it was not found, or pip had better look for it.
        reachable: False when the index does not answer: pip need not try for long then.
        on_loopback: Whether the index is on this very machine.
    """

    file: IndexFile | None = None
    reachable: bool = True
    on_loopback: bool = False


def find_distribution(name: str, version: str, *, binary: bool, cancel: CancelToken | None = None) -> Found:
    """Look a file up in the index that pip is set to use.

    Args:
        name: Of the distribution.
        version: Its version, spelled as in the file's name.
        binary: True for a wheel that runs everywhere, False for an sdist.
        cancel: Stops it.

    Raises:
        Cancelled: When `cancel` was.
    """
    index = _index_url(pip_settings(cancel))
    if index is None:
        return Found()
    loopback = urlsplit(index).scheme == "http"
    page = f"{index.rstrip('/')}/{_normal(name)}/"
    try:
        answer = run(lambda: _ask(page, loopback), cancel)
    except DownloadFailed as error:
        trusted = "certificate" not in str(error.fields.get("reason", "")).lower()
        return Found(reachable=not (error.fields.get("kind") in ("unreachable", "stalled") and trusted))
    files = answer.get("files") if isinstance(answer, dict) else None
    offers = (_file(entry, page, name, version, binary) for entry in (files if isinstance(files, list) else []))
    found = next((offer for offer in offers if offer and encrypted(offer.url, allow_http_loopback=loopback)), None)
    return Found(found, on_loopback=loopback)


def pip_settings(cancel: CancelToken | None = None) -> dict[str, str]:
    """What pip is set to, by key: the environment goes before the settings for `download`, those before the general ones."""
    relevant = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("PIP_")))
    if relevant not in _settings:
        _settings[relevant] = _ask_pip(cancel)
    return _settings[relevant]


def _ask_pip(cancel: CancelToken | None) -> dict[str, str]:
    done = run_command([sys.executable, "-m", "pip", "config", "list"], seconds=60, cancel=cancel)
    by_section: dict[str, dict[str, str]] = {}
    for line in done.tail if done.returncode == 0 else ():
        match = _SETTING.fullmatch(line.strip())
        if match is not None:
            try:
                value = str(ast.literal_eval(match["value"]))
            except (ValueError, SyntaxError):
                continue
            by_section.setdefault(match["section"], {})[match["key"]] = value
    return {
        key: value for section in ("global", "download", ":env:") for key, value in by_section.get(section, {}).items()
    }


def _index_url(settings: Mapping[str, str]) -> str | None:
    """The index, where it is an ordinary one."""
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") or {"proxy", "client-cert"} & settings.keys():
        return None
    url = settings.get("index-url", _PYPI)
    parts = urlsplit(url)
    ordinary = bool(parts.hostname) and parts.username is None and encrypted(url, allow_http_loopback=True)
    return url if ordinary else None


async def _ask(page: str, loopback: bool) -> Any:
    body = bytearray()
    with named_errors(page):
        async with (
            asyncio.timeout(_SECONDS),
            web_client(allow_http_loopback=loopback) as client,
            client.stream("GET", page, headers={"Accept": _ACCEPT}) as response,
        ):
            if response.status_code != 200:
                raise refusal(page, response.status_code, response.headers)
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def _file(entry: Any, page: str, name: str, version: str, binary: bool) -> IndexFile | None:
    """The file that an entry of the answer describes, if it is the one."""
    try:
        file, url, sha256 = entry["filename"], urljoin(page, entry["url"]), entry["hashes"]["sha256"]
        size = entry.get("size")
        if not _fits(file, name, version, binary) or not _SHA256.fullmatch(sha256):
            return None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return IndexFile(file, url, sha256, size if isinstance(size, int) and size > 0 else None)


def _fits(file: str, name: str, version: str, binary: bool) -> bool:
    stem = file.removesuffix("-py3-none-any.whl") if binary else file.removesuffix(".tar.gz")
    found, _, its_version = stem.rpartition("-")
    return stem != file and "/" not in file and _normal(found) == _normal(name) and its_version == version


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
