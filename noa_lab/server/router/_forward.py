"""Passing a request on to a model's server, and its answer back as it comes."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
from starlette.types import Send

from noa_lab.server.router._replies import error_body

if TYPE_CHECKING:
    from noa_lab.server.router._desk import Desk
    from noa_lab.server.router._model_servers import Address

__all__ = ["Forwarder", "Outgoing"]

_LOG = logging.getLogger("noa_lab.router")

# Those of a connection, not of a message (RFC 9110, 7.6.1); those that the router sets itself; and the one by which llama-server
# would go on generating after the client has gone.
_NOT_PASSED_ON = frozenset(
    b"""connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade expect
    host origin content-length authorization x-api-key accept-encoding x-conversation-id""".split()
)
_NOT_PASSED_BACK = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"server"))
_IDLE_SECONDS = 2.0
"""llama-server closes a connection that was idle for 5 s: ours are closed before."""


@dataclass(slots=True)
class Outgoing:
    """A request on its way.

    Attributes:
        method: "GET", "POST", ...
        target: Path and query, as they came.
        headers: Its headers, as they came.
        body: Its body.
        model: The model that it is for.
        came: When it came (`time.perf_counter`).
        begun: Whether the client has got the beginning of an answer.
        events: Whether that answer is a stream of events.
    """

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    model: str
    came: float = field(default_factory=time.perf_counter)
    begun: bool = False
    events: bool = False


class Broken(Exception):
    """An answer that stopped half-way: the connection to the client has to be broken off too."""


class Forwarder:
    """Passes requests on.

    Args:
        desk: Where they get their places.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_SECONDS)
        self._client = httpx.AsyncClient(
            limits=limits, timeout=httpx.Timeout(None, connect=5.0), trust_env=False, follow_redirects=False
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def forward(self, request: Outgoing, send: Send) -> None:
        """Answer a request; cancelling it closes the connection to the model's server, which then stops.

        A request of whose answer nothing has come is sent once more when the server dies.

        Raises:
            Broken: When the answer stopped after its beginning was passed on.
            Refused: When there is no place for it.
        """
        for last in (False, True):
            async with self._desk.place(request.model) as address:
                try:
                    await self._pass_on(request, address, send)
                    return
                except httpx.TransportError as error:
                    _LOG.warning("%s broke off %s: %s", request.model, request.target, type(error).__name__)
                    await self._desk.lost(address)
                    if request.begun:
                        await self._break_off(request, send)
                    if last:
                        raise
        raise AssertionError

    async def _pass_on(self, request: Outgoing, address: Address, send: Send) -> None:
        headers = [(name, value) for name, value in request.headers if name not in _NOT_PASSED_ON]
        headers += [(b"authorization", f"Bearer {address.api_key}".encode()), (b"accept-encoding", b"identity")]
        outgoing = self._client.build_request(
            request.method, address.base_url + request.target, headers=headers, content=request.body
        )
        waited = (time.perf_counter() - request.came) * 1000
        answer = await self._client.send(outgoing, stream=True)
        try:
            await send(self._head(answer, address.model, waited))
            request.begun = True
            request.events = answer.headers.get("content-type", "").startswith("text/event-stream")
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            await answer.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    def _head(answer: httpx.Response, model: str, waited: float) -> dict[str, object]:
        headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in _NOT_PASSED_BACK and not name.lower().startswith(b"access-control-")
        ]
        headers += [(b"x-noa-lab-model", model.encode()), (b"x-noa-lab-queue-ms", f"{waited:.1f}".encode())]
        return {"type": "http.response.start", "status": answer.status_code, "headers": headers}

    @staticmethod
    async def _break_off(request: Outgoing, send: Send) -> None:
        if request.events:
            told = error_body(502, "model_died", f"The server of {request.model} ended during the answer.")
            event = b"data: " + json.dumps(told).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        raise Broken
