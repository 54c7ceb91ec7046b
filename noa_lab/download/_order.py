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
    """What to fetch, and how. `fetch_file` explains the fields."""

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
