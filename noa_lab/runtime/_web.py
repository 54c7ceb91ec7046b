"""Asking other people's web servers: encrypted, bounded, cancellable at any moment, and every failure by its name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from noa_lab.download import Advice, encrypted, failed
from noa_lab.errors import Cancelled
from noa_lab.events import CancelToken

if TYPE_CHECKING:
    import httpx

__all__ = ["RELEASE_ADVICE", "named_errors", "run", "web_client"]

RELEASE_ADVICE: Advice = {
    "unreachable": "Check the network connection, name a mirror with --mirror, or build from source: `noa-lab install --from source`.",
    "stalled": "Start it again: it continues where it stopped. Or name a mirror.",
    "rate limit": "Try again {when}, set GITHUB_TOKEN to a token of yours, or name a mirror with --mirror.",
    "not found": "Check the tag and the mirror.",
    "refused": "Check the address, or use another mirror.",
    "redirects": "Use another mirror, or try later.",
    "encoded": "Use another mirror.",
    "bad range": "Use another mirror.",
    "too large": "Use another mirror.",
    "wrong size": "Try again later, or use another mirror.",
}
"""What to do when a release does not come."""

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
        if not encrypted(str(request.url), allow_http_loopback=allow_http_loopback):
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


@contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Turn what httpx raises into `DownloadFailed`, with one of the kinds "unreachable", "stalled", "cut", "redirects", "bad address"."""
    import httpx

    host = urlsplit(url).hostname or url
    try:
        yield
    except httpx.TooManyRedirects:
        raise failed("redirects", url, "its redirects lead in a circle", advice=RELEASE_ADVICE) from None
    except httpx.InvalidURL as error:
        raise failed("bad address", url, f"it leads to an address that is none ({error})") from None
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        reason = f"{host} cannot be reached ({str(error) or 'no answer'})"
        raise failed("unreachable", url, reason, advice=RELEASE_ADVICE) from None
    except (TimeoutError, httpx.TimeoutException):
        raise failed("stalled", url, f"{host} went silent", advice=RELEASE_ADVICE) from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        reason = f"the connection broke off ({str(error) or type(error).__name__})"
        raise failed("cut", url, reason, advice=RELEASE_ADVICE) from None
