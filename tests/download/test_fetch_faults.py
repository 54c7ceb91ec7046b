"""Every fault of a server ends in the right bytes or in an error with its name, and never in a wrong file."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from download_rig import CONTENT, Rig

from noa_lab.download import KINDS, refusal, shown
from noa_lab.download._faults import header_number
from noa_lab.errors import BadInput, DownloadFailed
from noa_lab.testing import FileFault

ALWAYS: dict[str, tuple[FileFault, set[str]]] = {
    "drop at once": (FileFault("drop", times=99), {"cut"}),
    "drop": (FileFault("drop", times=99, after=5000), {"cut"}),
    "stall": (FileFault("stall", times=99, after=5000), {"stalled"}),
    "silent": (FileFault("silent", times=99), {"stalled"}),
    "slow": (FileFault("slow", times=99), {"stalled"}),
    "wrong range": (FileFault("wrong range", times=99), {"bad range"}),
    "no range": (FileFault("no range", times=99), {"bad range"}),
    "416": (FileFault("416", times=99), {"changed"}),
    "429": (FileFault("429", times=99, seconds=1800), {"rate limit"}),
    "500": (FileFault("500", times=99), {"server"}),
    "403": (FileFault("403", times=99), {"refused"}),
    "404": (FileFault("404", times=99), {"not found"}),
    "changed": (FileFault("changed", times=99), {"wrong digest"}),
    "flipped": (FileFault("flipped", times=99, after=70), {"wrong digest"}),
    "gzip": (FileFault("gzip", times=99), {"encoded"}),
    "web page": (FileFault("web page", times=99), {"web page"}),
    "too long": (FileFault("too long", times=99), {"bad range"}),
    "loop": (FileFault("loop", times=99), {"redirects"}),
    "to http": (FileFault("to http", times=99), {"not encrypted"}),
}


def impatient_with(fault: FileFault) -> dict[str, float]:
    """Only a server that goes silent is given up soon: any other may take as long as a busy machine does."""
    return {"stall_seconds": 1.0} if fault.kind in ("stall", "silent", "slow") else {}


@pytest.mark.parametrize("name", ALWAYS)
def test_a_fault_that_stays_is_named(rig: Rig, name: str) -> None:
    fault, kinds = ALWAYS[name]
    rig.fail(fault)
    started = time.monotonic()
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(sha256=rig.sha256, size_bytes=len(CONTENT), attempts=2, **impatient_with(fault))
    assert time.monotonic() - started < 15
    assert caught.value.fields["kind"] in kinds <= set(KINDS)
    assert caught.value.fix
    assert "model.gguf" not in rig.left()
    rig.fail()
    assert rig.fetch(sha256=rig.sha256).sha256 == rig.sha256
    assert rig.left() == ["model.gguf"]


PASSING = [
    FileFault("drop", after=5000),
    FileFault("stall", after=5000),
    FileFault("silent"),
    FileFault("429", seconds=1),
    FileFault("500"),
    FileFault("wrong range"),
    FileFault("416"),
    FileFault("too long"),
    FileFault("whole"),
    FileFault("changed"),
    FileFault("changed unseen"),
]


@pytest.mark.parametrize("first", [0, 1, 4], ids=["at once", "second request", "fifth request"])
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.kind)
def test_a_fault_that_passes_is_got_over(rig: Rig, fault: FileFault, first: int) -> None:
    rig.fail(FileFault(fault.kind, times=1, first=first, after=fault.after, seconds=fault.seconds))
    if fault.kind.startswith("changed") and first == 0:
        # The first answer says what the file is; only the hash knows that it was another one.
        rig.fail(FileFault(fault.kind, times=1))
    assert rig.fetch(sha256=rig.sha256, **impatient_with(fault)).sha256 == rig.sha256
    assert rig.target.read_bytes() == CONTENT
    assert rig.left() == ["model.gguf"]


@pytest.mark.parametrize("kind", ["gzip", "web page", "no range", "404"])
def test_a_fault_that_nobody_waits_for_loses_nothing(rig: Rig, kind: Any) -> None:
    rig.fail(FileFault(kind, times=99, first=3))
    with pytest.raises(DownloadFailed):
        # One connection: with several, the fourth request may fail before a byte of the first has come.
        rig.fetch(sha256=rig.sha256, connections=1)
    rig.fail()
    found = rig.fetch(sha256=rig.sha256)
    assert found.sha256 == rig.sha256
    assert found.continued_bytes > 0


@pytest.mark.parametrize("kind", ["whole", "no length", "no validator"])
@pytest.mark.parametrize("known", [True, False], ids=["with a hash", "without"])
def test_a_server_that_knows_no_ranges_gives_the_right_bytes(rig: Rig, kind: Any, known: bool) -> None:
    rig.fail(FileFault(kind, times=99))
    assert rig.fetch(**({"sha256": rig.sha256} if known else {})).sha256 == rig.sha256
    assert rig.left() == ["model.gguf"]


@pytest.mark.parametrize("kind", ["whole", "no length", "no validator"])
@pytest.mark.parametrize("known", [True, False], ids=["with a hash", "without"])
def test_such_a_server_after_a_cut(rig: Rig, kind: Any, known: bool) -> None:
    expected = {"sha256": rig.sha256} if known else {}
    rig.fail(FileFault("drop", times=99, after=600_000))
    with pytest.raises(DownloadFailed):
        rig.fetch(attempts=1, **expected)
    rig.fail(FileFault(kind, times=99))
    assert rig.fetch(**expected).sha256 == rig.sha256
    assert rig.left() == ["model.gguf"]


def test_without_a_sign_of_the_version_a_cut_is_final(rig: Rig) -> None:
    """Neither ETag nor date nor hash: two halves could be of two files, and nobody would know."""
    rig.fail(FileFault("no validator", times=1), FileFault("drop", first=1, times=99, after=600_000))
    with pytest.raises(DownloadFailed):
        rig.fetch()
    assert rig.left() == []


@pytest.mark.parametrize("first", [1, 3])
def test_a_file_that_changes_meanwhile_is_one_of_the_two(rig: Rig, first: int) -> None:
    other = hashlib.sha256(CONTENT[::-1]).hexdigest()
    rig.fail(FileFault("changed", first=first, times=99))
    assert rig.fetch().sha256 == other
    assert rig.target.read_bytes() == CONTENT[::-1]


def test_a_file_that_never_stops_changing_is_named(rig: Rig) -> None:
    rig.fail(*(FileFault("changed", first=number, times=1) for number in range(1, 200, 2)))
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(connections=1)
    assert caught.value.fields["kind"] == "changed"


@pytest.mark.parametrize("number", ["\u00b2", "1" * 5000, "-1", "1e3", "", "Wed, 25 Nov 2026 10:00:00 GMT"])
def test_a_number_that_is_none_is_passed_over(number: str) -> None:
    """int() would refuse the first two, though str.isdigit() says yes."""
    assert header_number({"content-length": number}, "content-length") is None
    assert refusal("https://host/x", 429, {"retry-after": number}).fields["resets_at"] is None


def test_nobody_there(rig: Rig) -> None:
    rig.server.close()
    started = time.monotonic()
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(pause_seconds=60)
    assert caught.value.fields["kind"] == "unreachable"
    assert time.monotonic() - started < 30, "it is not tried a second time"
    assert rig.left() == []


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://example.invalid/x", "not encrypted"),
        ("https://exa mple/x", "bad address"),
        ("https:///x", "bad address"),
        ("https://localhost:99999/x", "bad address"),
        ("ftp://localhost/x", "not encrypted"),
    ],
)
def test_what_is_no_address(rig: Rig, url: str, kind: str) -> None:
    with pytest.raises((DownloadFailed, BadInput)) as caught:
        rig.fetch(url=url)
    assert caught.value.fields["kind"] == kind


def test_secrets_are_never_shown(rig: Rig) -> None:
    rig.fail(FileFault("404", times=99))
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(url=f"{rig.url}?signature=secret", authorization="Bearer secret")
    assert "secret" not in str(caught.value)
    assert shown("https://me:secret@host:8443/a?sig=secret#x") == "https://host:8443/a"
