"""What earlier calls have left of a file: all of it, or a part that may be continued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from noa_lab.download._faults import shown
from noa_lab.download._journal import Facts, boot_id
from noa_lab.download._order import FetchedFile, Order
from noa_lab.download._part import Part, discard, journal_path
from noa_lab.paths import write_atomic

__all__ = ["HalfFetched", "continued", "fits", "half_fetched", "ready", "receipt_path", "write_receipt"]

_CHUNK_BYTES = 2**20


def ready(order: Order, check: Callable[[], None]) -> FetchedFile | None:
    """The target, when it is there and known to be right.

    Args:
        order: What is asked for.
        check: Called now and then; what it raises ends the hashing.
    """
    if not order.target.is_file():
        return None
    found = _by_receipt(order) if order.expected is None else _by_hash(order, check)
    if found is not None:
        # A kill between the rename and the last step leaves a journal.
        journal_path(order.target).unlink(missing_ok=True)
    return found


def _by_hash(order: Order, check: Callable[[], None]) -> FetchedFile | None:
    digest, size = hashlib.sha256(), 0
    with order.target.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check()
            digest.update(chunk)
            size += len(chunk)
    if digest.hexdigest() != order.expected:
        return None
    return FetchedFile(order.target, digest.hexdigest(), size, order.sha256 is not None, size)


def receipt_path(target: Path) -> Path:
    """Where the hash is kept of a file that had none to be held against."""
    return target.with_name(f"{target.name}.receipt.json")


def write_receipt(part: Path, order: Order, sha256: str) -> None:
    """Remember the hash of a file that is about to get its name."""
    status = part.stat()
    facts = {"url": shown(order.url), "sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    write_atomic(receipt_path(order.target), json.dumps(facts) + "\n", locked=True)


def _by_receipt(order: Order) -> FetchedFile | None:
    try:
        facts = json.loads(receipt_path(order.target).read_text(encoding="utf-8"))
        status = order.target.stat()
        same = (facts["url"], facts["size"], facts["mtime_ns"]) == (
            shown(order.url),
            status.st_size,
            status.st_mtime_ns,
        )
        sha256 = facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or not isinstance(sha256, str):
        return None
    return FetchedFile(order.target, sha256, status.st_size, verified=False, continued_bytes=status.st_size)


def continued(order: Order) -> Part | None:
    """The part that an earlier call left, if it may be continued; else what is left of it is removed."""
    part = Part.load(order.target)
    if part is not None and fits(order, part.facts):
        return part
    if part is not None:
        part.close()
    discard(order.target)
    return None


def fits(order: Order, facts: Facts) -> bool:
    """Whether a part is one of the file that is asked for."""
    if facts.total is not None and (facts.total > order.most_bytes or order.size_bytes not in (None, facts.total)):
        return False
    if order.expected is None:
        # Nothing will tell in the end: it must be the same address, the same version, and no power failure in between.
        return facts.url == shown(order.url) and bool(facts.validator) and facts.boot == boot_id()
    return facts.sha256 == order.expected or (not facts.sha256 and facts.url == shown(order.url))


@dataclass(frozen=True, slots=True)
class HalfFetched:
    """A file of which a part is here.

    Attributes:
        here_bytes: How much of it.
        total_bytes: How much it will be; None where that is not known.
        disk_bytes: What it takes of the disk: what is here, and what is reserved for the rest.
    """

    here_bytes: int
    total_bytes: int | None
    disk_bytes: int


def half_fetched(target: Path) -> HalfFetched | None:
    """What is here of a file; None when nothing is half-fetched."""
    part = Part.load(target)
    if part is None:
        return None
    try:
        return HalfFetched(part.pieces.here, part.pieces.total, part.taken_space)
    except OSError:
        return None  # somebody else has just finished it
    finally:
        part.close()
