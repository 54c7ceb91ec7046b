"""Who may talk to the router: this machine's own names as Host, no pages of other origins, and the key.

The Host header is what gives away a page whose name was made to point here after it was loaded (DNS rebinding): the browser sends the
page's name. The Origin header is what gives away any other page. Both are refused before the key is looked at.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from noa_lab.server.router._replies import error_response

__all__ = ["Guard", "guarded", "host_name"]

PUBLIC = ("/health", "/v1/health")
"""Paths that need no key."""

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"


class Guard:
    """Lets through what may be answered.

    Args:
        app: What answers.
        names: Host names, beside those of loopback, under which this machine may be asked for.
        addresses: Whether any IP address may stand as Host: other machines may ask, and an address cannot be rebound.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = (), *, addresses: bool = False) -> None:
        self._app = app
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._may_ask(host_name(host)):
            message = f"{host!r} is not a name of this machine. Ask 127.0.0.1."
            await error_response(403, "permission_error", message)(scope, receive, send)
        elif origin is not None and not re.fullmatch(LOCAL_ORIGIN, origin, re.IGNORECASE):
            message = f"Pages of {origin!r} get no answers here."
            await error_response(403, "permission_error", message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _may_ask(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses


class KeyCheck:
    """Asks for the key, as llama-server does: `Authorization: Bearer KEY`, else `X-Api-Key: KEY`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["path"] not in PUBLIC and not self._has_key(Headers(scope=scope)):
            await error_response(401, "authentication_error", "Invalid API Key")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        said = headers.get("authorization") or headers.get("x-api-key") or ""
        return hmac.compare_digest(said.removeprefix("Bearer ").encode(), self._key)


def guarded(app: ASGIApp, key: str, *, names: Collection[str] = (), addresses: bool = False) -> ASGIApp:
    """`app` behind all the checks, with the CORS headers that pages of this machine need."""
    checked = CORSMiddleware(
        KeyCheck(app, key),
        allow_origin_regex=LOCAL_ORIGIN,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("X-Noa-Lab-Model", "X-Noa-Lab-Queue-Ms"),
    )
    return Guard(checked, names, addresses=addresses)


def host_name(host: str) -> str:
    """The name in a Host header: without its port, and without the brackets of an IPv6 address."""
    found = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?", host.strip())
    return ((found[1] or found[2] or "") if found else "").lower().rstrip(".")
