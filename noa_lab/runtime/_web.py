"""Asking other people's web servers: encrypted, bounded, cancellable at any moment, and every failure by its name."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from noa_lab.errors import BadInput, Cancelled, DownloadFailed
from noa_lab.events import CancelToken

if TYPE_CHECKING:
    import httpx

__all__ = ["check_address", "failed", "named_errors", "refusal", "run", "shown", "web_client"]

_Result = TypeVar("_Result")
_CONNECT_SECONDS = 10.0
_MOST_REDIRECTS = 8


def run(work: Callable[[], Awaitable[_Result]], cancel: CancelToken | None) -> _Result:
    """Run asynchronous work to its end in a thread of its own (a notebook has a loop running in this one already).

    Args:
        work: Makes the awaitable.
        cancel: Ends the work within a fraction of a second, also while it waits for a silent server. So does Ctrl-C.

    Raises:
        Cancelled: When `cancel` was.
    """
    outcome: dict[str, Any] = {}
    stop = threading.Event()

    async def watched() -> _Result:
        task = asyncio.ensure_future(work())
        while not task.done():
            await asyncio.wait({task}, timeout=0.1)
            if not task.done() and (stop.is_set() or (cancel is not None and cancel.cancelled)):
                task.cancel()
                await asyncio.wait({task})
                raise Cancelled("The download was cancelled.", fix="Start it again to continue where it stopped.")
        return task.result()

    def thread() -> None:
        try:
            outcome["result"] = asyncio.run(watched())
        except BaseException as error:
            outcome["error"] = error

    worker = threading.Thread(target=thread, name="noa-lab-download", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.2)
    finally:
        stop.set()
        worker.join()
    if "error" in outcome:
        raise outcome["error"]
    result: _Result = outcome["result"]
    return result


def web_client(*, allow_http_loopback: bool, token: str | None = None) -> httpx.AsyncClient:
    """A client that speaks https only, follows few redirects, and leaves a token behind when one leads to another host.

    Args:
        allow_http_loopback: Also speak http, with this very machine; for tests.
        token: Sent to the host that is asked first, and to no other.
    """
    import httpx

    async def refuse_plain(request: httpx.Request) -> None:
        if not _encrypted(str(request.url), allow_http_loopback):
            raise failed(
                "not encrypted",
                str(request.url),
                f"the address leads to {request.url.scheme}://{request.url.host}, which is not encrypted",
                "Use an https address.",
            )

    headers = {"User-Agent": "noa-lab"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=_MOST_REDIRECTS,
        event_hooks={"request": [refuse_plain]},
        # A proxy from the environment cannot reach this machine's own servers.
        trust_env=not allow_http_loopback,
    )


def check_address(url: str, *, field: str, allow_http_loopback: bool) -> str:
    """An address that a user gave, without the slash at its end.

    Raises:
        BadInput: When it is none, is not encrypted, or holds a password.
    """
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not _encrypted(url, allow_http_loopback) or parts.query or parts.fragment:
        raise BadInput(
            f"{field} {shown(url)!r} is no https address.",
            fix="Give one like https://mirror.example/llama.cpp.",
            field=field,
        )
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            f"{field} holds a user name or password, which would end up in logs.",
            fix="Use an address that needs none.",
            field=field,
        )
    return url.rstrip("/")


def _encrypted(url: str, allow_http_loopback: bool) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        allow_http_loopback and parts.scheme == "http" and _loopback(parts.hostname or "")
    )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """An address as it may be written down: without password and without a signed query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.split("?", 1)[0].rsplit("@", 1)[-1]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def failed(kind: str, url: str, reason: str, fix: str, **fields: object) -> DownloadFailed:
    """The error for an address; `kind` is its name for programs."""
    where = shown(url)
    return DownloadFailed(
        f"{where} could not be fetched: {reason}.", fix=fix, source=where, reason=reason, kind=kind, **fields
    )


@contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Turn what httpx raises into `DownloadFailed`, with one of the kinds "unreachable", "stalled", "cut", "redirects", "bad address"."""
    import httpx

    host = urlsplit(url).hostname or url
    try:
        yield
    except httpx.TooManyRedirects:
        raise failed("redirects", url, "its redirects lead in a circle", "Use another mirror, or try later.") from None
    except httpx.InvalidURL as error:
        raise failed(
            "bad address", url, f"it leads to an address that is none ({error})", "Check the address."
        ) from None
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        reason = f"{host} cannot be reached ({str(error) or 'no answer'})"
        fix = "Check the network connection, name a mirror with --mirror, or build from source: `noa-lab install --from source`."
        raise failed("unreachable", url, reason, fix) from None
    except (TimeoutError, httpx.TimeoutException):
        raise failed(
            "stalled", url, f"{host} went silent", "Start it again: it continues where it stopped. Or name a mirror."
        ) from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        reason = f"the connection broke off ({str(error) or type(error).__name__})"
        raise failed("cut", url, reason, "Start it again: it continues where it stopped.") from None


def refusal(url: str, status: int, headers: Mapping[str, str]) -> DownloadFailed:
    """The error for a status that is none of success: kinds "rate limit", "not found", "refused", "server"."""
    host = urlsplit(url).hostname or url
    limited = status == 429 or "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"
    if status in (403, 429) and limited:
        until = _limit_ends(headers)
        when = time.strftime("%H:%M", time.localtime(until)) if until else "later"
        at = f"at {when}" if until else when
        fix = f"Try again {at}, set GITHUB_TOKEN to a token of yours, or name a mirror with --mirror."
        return failed(
            "rate limit", url, f"{host} answers no more requests from this address", fix, status=status, resets_at=until
        )
    if status in (404, 410):
        return failed("not found", url, f"{host} has no such file", "Check the tag and the mirror.", status=status)
    if status >= 500:
        return failed("server", url, f"{host} answered with status {status}", "Try again later.", status=status)
    return failed(
        "refused",
        url,
        f"{host} answered with status {status}",
        "Check the address, or use another mirror.",
        status=status,
    )


def _limit_ends(headers: Mapping[str, str]) -> float | None:
    """When a rate limit ends, in seconds since the epoch."""
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if after.isdigit():
        return time.time() + min(int(after), 86_400)
    return float(reset) if reset.isdigit() and len(reset) < 12 else None
