"""One download, as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from noa_lab.download._disk import SPARE_BYTES
from noa_lab.download._faults import Advice

__all__ = ["FetchedFile", "Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch, and how.

    Attributes:
        url: Its https address; redirects may lead to other hosts, never away from https.
        target: The file to make. One that is there already and has the right hash is used.
        size_bytes: The size that it must have; None where it is not known.
        sha256: The hash that it must have; None where there is none to trust.
        claimed_sha256: What the source itself says; checked, but no reason to call the file verified.
        most_bytes: Largest size.
        headers: Sent with every request, to every host.
        authorization: Value of the Authorization header, for the host of `url` and no other.
        connections: At most so many at a time; a server that knows no ranges gets one.
        attempts: How often in a row a connection may fail while less than a megabyte arrives.
        stall_seconds: Seconds without a byte, or with less than 1 KiB per second, after which a server counts as stalled.
        pause_seconds: Wait before the second attempt; twice as long before each further one.
        spare_bytes: Disk space that must be left free.
        receipt: Where there is no hash to hold it against, leave the one that was found beside the target, in `NAME.receipt.json`, so
            that the next call need not fetch it again. Whoever asks for it removes it.
        allow_http_loopback: Also fetch from this very machine over http; for tests.
        advice: What to do, by kind of fault, where the general words do not fit.
    """

    url: str
    target: Path
    size_bytes: int | None = None
    sha256: str | None = None
    claimed_sha256: str | None = None
    most_bytes: int = 2**40
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    connections: int = 4
    attempts: int = 3
    stall_seconds: float = 30.0
    pause_seconds: float = 0.5
    spare_bytes: int = SPARE_BYTES
    receipt: bool = False
    allow_http_loopback: bool = False
    advice: Advice | None = None

    @property
    def expected(self) -> str | None:
        """The hash that it will be held against."""
        return self.sha256 or self.claimed_sha256


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that has arrived whole.

    Attributes:
        path: Where it is.
        sha256: Its hash.
        size_bytes: Its size.
        verified: Whether the hash is the one that it had to have.
        continued_bytes: Bytes that were there from earlier attempts and not fetched again.
    """

    path: Path
    sha256: str
    size_bytes: int
    verified: bool
    continued_bytes: int = 0
