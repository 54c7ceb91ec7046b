"""Parts of a file that stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from noa_lab.download._answer import Answer, StartOverError
from noa_lab.download._connections import Connections
from noa_lab.download._faults import Advice, failed
from noa_lab.download._patience import Patience
from noa_lab.errors import DownloadFailed
from noa_lab.events import CancelToken

__all__ = ["RemoteFile"]

_ATTEMPTS = 3
_MOST_WAIT_SECONDS = 10.0
"""A look is not worth a longer pause, in which nothing is reported."""
_STEP_BYTES = 2**17


class RemoteFile:
    """A file on a server that gives parts of files; a context manager.

    Args:
        url: Its address.
        name: What messages call it.
        headers: Sent with every request.
        authorization: Sent to the host of `url`, and to no other.
        allow_http_loopback: Also speak http, with this very machine.
        advice: What to do, by kind of fault.
        cancel: Ends waiting and reading.

    Raises:
        DownloadFailed: When it cannot be reached, or its size is not told.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        allow_http_loopback: bool = False,
        advice: Advice | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.name = name
        self._url, self._advice, self._cancel = url, advice, cancel or CancelToken()
        self._connections = Connections(
            url,
            headers=headers,
            authorization=authorization,
            allow_http_loopback=allow_http_loopback,
            advice=advice,
        )
        self._validator = ""
        self.size = 0
        """Bytes of the whole file."""
        try:
            self.size = self._ask(0, 1)[1]
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on; fewer only at the end of the file.

        Raises:
            DownloadFailed: When they do not come, or the file has changed since the last part.
            Cancelled: When `cancel` was.
        """
        end = min(self.size, offset + count)
        return self._ask(offset, end)[0] if offset < end else b""

    def _ask(self, start: int, end: int) -> tuple[bytes, int]:
        """The bytes from `start` up to, not including, `end`, and the size of the file."""
        patience = Patience(_ATTEMPTS, 0.5)
        while True:
            self._cancel.check("Reading a part of the file")
            try:
                return self._ask_once(start, end)
            except StartOverError as error:
                raise error.error from None
            except DownloadFailed as error:
                seconds = patience.wait_after(error, 0)
                if seconds is None or seconds > _MOST_WAIT_SECONDS:
                    raise
                self._cancel.wait(seconds)

    def _ask_once(self, start: int, end: int) -> tuple[bytes, int]:
        url, response = self._connections.ask({"Range": f"bytes={start}-{end - 1}"})
        try:
            answer = Answer.check(url, response, start, end, advice=self._advice)
        except BaseException:
            response.close()
            raise
        whole = False
        try:
            content = self._content(answer, end - start)
            whole = True
            return content, answer.total or 0
        finally:
            answer.close(reuse=whole)

    def _content(self, answer: Answer, count: int) -> bytes:
        if not answer.partial or answer.total is None:
            raise failed("bad range", answer.url, "its server gives no parts of files", advice=self._advice)
        if self._validator and answer.validator != self._validator:
            raise failed("changed", answer.url, "it was replaced while it was read", advice=self._advice)
        self._validator = answer.validator
        content = bytearray()
        while len(content) < count:
            arrived = answer.read(min(_STEP_BYTES, count - len(content)))
            if not arrived:
                raise failed("truncated", answer.url, "fewer bytes came than were announced", advice=self._advice)
            content += arrived
        return bytes(content)

    def close(self) -> None:
        """Let go of the connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
