"""httpx over connections of our own. Imported with the first request only, because httpx takes time to import."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from noa_lab.inference._http1 import Answer, Broken, Connections, NoConnection

__all__ = ["Transport"]


class Transport(httpx.AsyncBaseTransport):
    """The way of httpx's requests to one server.

    Args:
        base_url: The server's address; requests to other ones would go there, too.
    """

    def __init__(self, base_url: str) -> None:
        self._connections = Connections(base_url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response's body comes as it is read.

        Raises:
            httpx.ConnectError: When nobody listens.
            httpx.RemoteProtocolError: When the answer breaks off.
        """
        body = await request.aread()
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [b"%b: %b" % pair for pair in request.headers.raw]
        try:
            answer = await self._connections.ask(b"\r\n".join([*lines, b"", body]))
        except NoConnection as error:
            raise httpx.ConnectError(str(error), request=request) from error
        except Broken as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=_Body(answer))

    async def aclose(self) -> None:
        """Close the connections."""
        self._connections.close()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.pieces():
                yield piece
        except Broken as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    async def aclose(self) -> None:
        self._answer.close()
