"""HTTP to one llama-server: connections, the key, retries, patience, and errors by their names."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noa_lab.errors import BadInput, ContextOverflow, NoaLabError, RequestRefused, UnknownModel, Unreachable
from noa_lab.inference._loop import background

if TYPE_CHECKING:
    import httpx

__all__ = ["Connection", "as_json", "checked_address", "checked_patience", "is_loopback", "refusal"]

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_ORPHANS: list[object] = []
"""Clients of a parent process or a closed loop: kept, because collecting them would touch what is not ours."""


class Connection:
    """A pool of connections to one server. Used on one event loop at a time; a new loop gets a new pool.

    Args:
        base_url: "http://host:port".
        api_key: Sent as a bearer token; never shown.
        patience: Seconds without any sign of life after which a request is given up.

    Raises:
        BadInput: For an address that cannot be one, or no time at all.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, patience: float = 300.0) -> None:
        self.base_url = checked_address(base_url)
        self.patience = checked_patience(patience)
        self._api_key = api_key
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"Connection({self.base_url!r})"

    @property
    def authorization(self) -> str:
        """The value of the Authorization header; empty without a key. Never to be shown."""
        return f"Bearer {self._api_key}" if self._api_key else ""

    def _new_client(self) -> httpx.AsyncClient:
        import httpx

        from noa_lab.inference._transport import Transport

        headers = {"Authorization": self.authorization} if self._api_key else {}
        proxied = _is_proxied(self.base_url)
        return httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=5.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=proxied,
            transport=None if proxied else Transport(self.base_url),
        )

    def _pool(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            if self._client is not None:
                _ORPHANS.append(self._client)
            self._client, self._loop = self._new_client(), loop
            background().own(self)
        return self._client

    async def move(self, base_url: str) -> None:
        """Ask at another address from now on: the server was started again there."""
        moved = checked_address(base_url)
        if moved != self.base_url:
            # What still goes on at the old address has lost its server as well.
            self.base_url = moved
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and hand out the response once its status is known and good; leaving closes the connection.

        A kept connection that the server had closed meanwhile is replaced, once; nothing else is sent twice.

        Raises:
            Unreachable: When nothing answers.
            RequestRefused: When the server answers with an error.
            ContextOverflow: When it says that the prompt does not fit.
            BadInput: When the body cannot be written as JSON.
        """
        content = None if body is None else as_json(body)
        response = await self._send(method, path, content)
        try:
            if response.status_code >= 400:
                raise refusal(response.status_code, await response.aread(), self.base_url + path)
            yield response
        finally:
            await _let_go(response)

    async def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        import httpx

        client = self._pool()
        request = client.build_request(method, path, content=content, headers={"Content-Type": "application/json"})
        try:
            return await client.send(request, stream=True)
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: BaseException | str) -> Unreachable:
        """The error for a server that does not answer."""
        reason = str(error) or type(error).__name__
        return Unreachable(
            f"Nothing answers at {self.base_url} ({reason}).",
            fix="Start a server (`noa-lab serve`) or correct the address.",
            url=self.base_url,
            reason=reason,
        )

    async def read(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Ask and read the whole answer."""
        import httpx

        try:
            async with asyncio.timeout(self.patience), self.open(method, path, body) as response:
                return await response.aread()
        except TimeoutError:
            raise self.unreachable(f"no answer within {self.patience:g} s") from None
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def nonsense(self, path: str, raw: bytes) -> RequestRefused:
        """The error for an answer that no llama-server gives."""
        return RequestRefused(
            f"{self.base_url}{path} did not answer as llama-server does: {raw[:120].decode(errors='replace')!r}.",
            fix="Check that the address is a llama-server's.",
            url=self.base_url + path,
            status=200,
            type="not_llama_server",
        )

    async def alive(self, within: float = 2.0) -> bool:
        """Whether `/health` says yes within some seconds."""
        import httpx

        with contextlib.suppress(NoaLabError, TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(within), self.open("GET", "/health"):
                return True
        return False


async def _let_go(response: httpx.Response) -> None:
    """Close a response, and part it from its stream.

    In httpx (0.28) the two refer to each other. Of answers that take long, Python's collector would find that only when it next goes
    through all there is, and until then a busy process would keep hundreds that nobody needs.
    """
    import httpx

    await response.aclose()
    response.stream = httpx.ByteStream(b"")


def as_json(body: Mapping[str, Any]) -> bytes:
    """A request's body.

    Raises:
        BadInput: When something in it is no JSON: half a character, NaN, an object.
    """
    try:
        return _JSON.encode(body).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(
            f"The request cannot be written as JSON: {error}.",
            fix="Look for half a character (a lone surrogate), NaN, infinity or an object in what was given.",
            field="request",
            value=None,
        ) from None


def checked_patience(seconds: float) -> float:
    """The time, if it is one."""
    if isinstance(seconds, int | float) and seconds > 0:
        return seconds
    fix = "Give seconds above 0."
    raise BadInput(f"patience = {seconds!r} is no time to wait.", fix=fix, field="patience", value=seconds)


def checked_address(base_url: str) -> str:
    """The address without its last slash, if it can be a server's."""
    fix = "Write it as http://127.0.0.1:8080."
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        usable, parts = False, urlsplit("")
    if parts.username or parts.password:
        raise BadInput(
            "The server's address holds a user name or password.",
            fix="Give the key as api_key=.",
            field="base_url",
            value=f"{parts.scheme}://***@{parts.hostname}",
        )
    if not usable:
        raise BadInput(f"{base_url!r} is not a server's address.", fix=fix, field="base_url", value=base_url)
    return base_url.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(base_url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _is_proxied(base_url: str) -> bool:
    """Whether the environment names a proxy for an address; one cannot reach this machine's own servers."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(base_url)
    if is_loopback(base_url) or proxy_bypass(parts.hostname or ""):
        return False
    return bool({parts.scheme, "all"} & getproxies().keys())


def refusal(status: int, raw: bytes, url: str) -> NoaLabError:
    """The named error for an error answer.

    Args:
        status: HTTP status.
        raw: The body, in llama-server's envelope `{"error": {"code", "message", "type"}}` or in any other form.
        url: Where it came from.
    """
    kind, message = "", raw[:300].decode(errors="replace").strip() or f"HTTP {status}"
    found: Any = {}
    with contextlib.suppress(ValueError):
        data = json.loads(raw)
        found = data.get("error", data) if isinstance(data, dict) else {}
        if isinstance(found, dict):
            kind, message = str(found.get("type", "")), str(found.get("message", found.get("detail", message)))
        else:
            message, found = str(found), {}
    if kind == "exceed_context_size_error":
        return _overflow(found)
    if isinstance(found, dict) and found.get("code") == "context_length_exceeded":
        return _told_overflow(message)
    if kind == "model_not_found" or (status == 400 and message.startswith("model '") and message.endswith("not found")):
        return _unknown_model(message, found, url)
    fix = _FIXES.get(status, "Correct the request; the server's own words are above.")
    return RequestRefused(
        f"The server refused the request: {message} (HTTP {status}).", fix=fix, status=status, type=kind, url=url
    )


_FIXES = {
    401: "Give the server's API key as api_key=.",
    403: "Give the server's API key as api_key=, or start the server with this feature on.",
    404: "Check the address; this server has no such endpoint.",
    501: "Start the server with this feature on.",
    500: "Look at the server's log (`noa-lab logs`).",
    503: "Wait until the model is loaded (health_check() is then True).",
}


def _told_overflow(message: str) -> ContextOverflow:
    """OpenAI's form of the same, which has its numbers in words only."""
    size = re.search(r"maximum context length is (\d+)", message)
    tokens = re.search(r"resulted in (\d+) tokens", message)
    return ContextOverflow(
        f"The prompt is too long for the model's context: {message}",
        fix="Shorten the prompt, or ask for fewer max_tokens.",
        prompt_tokens=int(tokens[1]) if tokens else None,
        context_size=int(size[1]) if size else None,
    )


def _unknown_model(message: str, found: Mapping[str, Any], url: str) -> UnknownModel:
    """For a router's word that it has no such model (llama-server's router mode says it with status 400)."""
    known = [str(name) for name in found.get("known") or ()]
    near = found.get("nearest")
    fix = f"Did you mean {near!r}?" if near else f"Known: {', '.join(known)}." if known else "See /v1/models."
    return UnknownModel(f"The router has no such model: {message}", fix=fix, known=known, nearest=near, url=url)


def _overflow(found: Mapping[str, Any]) -> ContextOverflow:
    tokens, size = found.get("n_prompt_tokens"), found.get("n_ctx")
    return ContextOverflow(
        f"The prompt has {tokens} tokens; the context holds {size}, and the answer needs at least one.",
        fix="Shorten the prompt, or serve the model with a larger context_size.",
        prompt_tokens=tokens,
        context_size=size,
    )
