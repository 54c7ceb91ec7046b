"""What a server's answer to a request for a part of a file means, before its first byte is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from noa_lab.download._connections import named_errors
from noa_lab.download._faults import Advice, failed, header_number, refusal
from noa_lab.errors import DownloadFailed

if TYPE_CHECKING:
    import urllib3

__all__ = ["Answer", "StartOverError"]

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_NO_RANGE = re.compile(r"bytes \*/(\d{1,18})")


class StartOverError(Exception):
    """What is here is of no use any more; the next request asks for everything.

    Args:
        error: What to say when starting over does not help.
        whole: Whether the next request must be for the whole file, because nothing would tell that its parts belong together.
    """

    def __init__(self, error: DownloadFailed, *, whole: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.whole = whole


@dataclass(slots=True)
class Answer:
    """An answer whose body can be used.

    Attributes:
        url: Where it came from.
        partial: Whether it holds the part that was asked for (206), else the whole file (200).
        total: Size of the file; None where the server does not say.
        validator: What the same file would have again: a strong ETag, else the date; empty where there is neither.
    """

    url: str
    partial: bool
    total: int | None
    validator: str
    _response: urllib3.BaseHTTPResponse
    _advice: Advice | None

    @classmethod
    def check(
        cls,
        url: str,
        response: urllib3.BaseHTTPResponse,
        start: int,
        end: int | None,
        *,
        advice: Advice | None = None,
    ) -> Answer:
        """Look at the head of an answer to a request for the bytes from `start` up to, not including, `end`.

        Raises:
            DownloadFailed: When it is a refusal, a web page or compressed.
            StartOverError: When it is another part than was asked for, or the file is shorter than was thought.
        """
        status, headers = response.status, response.headers
        if status == 416 and _total_of_416(headers) == 0:
            # An empty file has no ranges.
            return cls(url, False, 0, _validator(headers), response, advice)
        if status == 416:
            reason = "the file is shorter than was thought"
            raise StartOverError(failed("changed", url, reason, advice=advice))
        if status not in (200, 206):
            raise refusal(url, status, headers, advice=advice)
        if headers.get("content-encoding", "identity") != "identity":
            raise failed("encoded", url, "the server compressed it though asked not to", advice=advice)
        if headers.get("content-type", "").startswith("text/html"):
            raise failed("web page", url, "a web page came in its place", advice=advice)
        total = header_number(headers, "content-length")
        if status == 206:
            total = _total_of_206(url, headers, start, end, advice)
        return cls(url, status == 206, total, _validator(headers), response, advice)

    @property
    def host(self) -> str:
        """The host that it came from."""
        return urlsplit(self.url).hostname or ""

    def read(self, most: int) -> bytes:
        """The next bytes, as they come; empty at the end.

        Raises:
            DownloadFailed: With kind "cut" or "stalled".
        """
        with named_errors(self.url, self._advice):
            data: bytes = self._response.read1(most)
            return data

    def close(self, *, reuse: bool) -> None:
        """Be done with it.

        Args:
            reuse: Whether its body was read to the end, so that the connection can serve another request.
        """
        if reuse:
            self._response.drain_conn()
            self._response.release_conn()
        else:
            self._response.close()


def _validator(headers: Mapping[str, str]) -> str:
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else headers.get("last-modified", "")


def _total_of_206(
    url: str, headers: Mapping[str, str], start: int, end: int | None, advice: Advice | None
) -> int | None:
    found = _RANGE.fullmatch(headers.get("content-range", ""))
    bad = failed("bad range", url, "the server sent another part than asked for", advice=advice)
    if found is None:
        raise bad
    first, last, total = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    length = header_number(headers, "content-length")
    fits = first == start and last >= first and (end is None or last < end) and (total is None or last < total)
    if not fits or length not in (None, last - first + 1):
        raise StartOverError(bad)
    return total


def _total_of_416(headers: Mapping[str, str]) -> int | None:
    found = _NO_RANGE.fullmatch(headers.get("content-range", ""))
    return int(found[1]) if found else None
