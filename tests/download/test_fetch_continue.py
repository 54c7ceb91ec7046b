"""Fetching one file again after an interruption: what is continued, what is thrown away, what is half fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from download_rig import CONTENT, PARTS, Rig, interrupted

from noa_lab.download import (
    discard,
    half_fetched,
    journal_path,
    part_path,
    shown,
)
from noa_lab.download._journal import Facts, Journal, boot_id
from noa_lab.download._pieces import PIECE_BYTES
from noa_lab.errors import DownloadFailed
from noa_lab.testing import FileFault


def test_the_next_call_fetches_what_is_missing_and_no_more(rig: Rig) -> None:
    rig.fail(FileFault("drop", times=99, after=300_000))
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(attempts=2)
    assert caught.value.fields["kind"] == "cut"
    assert rig.left() == PARTS
    rig.fail()
    before = rig.server.asked(rig.path)
    found = rig.fetch()
    assert found.sha256 == rig.sha256
    assert found.continued_bytes > 300_000
    assert rig.server.asked(rig.path) - before == len(CONTENT) - found.continued_bytes
    assert rig.left() == ["model.gguf"]


def test_a_continued_request_says_which_version_it_means(rig: Rig) -> None:
    rig.fail(FileFault("drop", times=99, first=1, after=10_000))
    with pytest.raises(DownloadFailed):
        rig.fetch(attempts=1)
    rig.fail()
    rig.fetch()
    first, *others = [request for request in rig.server.requests if request.path == rig.path]
    assert "if-range" not in first.headers
    assert {request.headers["if-range"][0] for request in others} == {'"'}


def test_many_cuts_within_one_call(rig: Rig) -> None:
    rig.fail(FileFault("drop", times=6, after=200_000))
    assert rig.fetch(sha256=rig.sha256, attempts=9).sha256 == rig.sha256
    assert rig.sent == len(CONTENT)


def test_a_part_that_is_whole_needs_no_request(rig: Rig) -> None:
    """As after a kill between the last byte and the rename."""
    rig.folder.mkdir()
    part_path(rig.target).write_bytes(CONTENT)
    facts = Facts(shown(rig.url), len(CONTENT), '"x"', "127.0.0.1", rig.sha256, boot_id())
    journal = Journal.create(journal_path(rig.target), facts)
    for piece in range(-(-len(CONTENT) // PIECE_BYTES)):
        journal.set(piece, min(PIECE_BYTES, len(CONTENT) - piece * PIECE_BYTES))
    journal.close()
    assert rig.fetch(sha256=rig.sha256).continued_bytes == len(CONTENT)
    assert rig.server.requests == []
    assert rig.left() == ["model.gguf"]


def test_a_journal_without_a_part_is_tidied_up(rig: Rig) -> None:
    """As after a kill between the rename and the last step."""
    rig.fetch()
    Journal.create(journal_path(rig.target), Facts(shown(rig.url), 1, "", "", rig.sha256, "")).close()
    rig.fetch(sha256=rig.sha256)
    assert rig.left() == ["model.gguf"]


@pytest.mark.parametrize(
    "journal",
    [b"", b"noa-part", b"{}", b"\xff" * 999, b"noa-part" + b"\xff" * 8, b"noa-part\x08" + bytes(7) + b"[1]     "],
)
def test_a_broken_journal_starts_over(rig: Rig, journal: bytes) -> None:
    rig.folder.mkdir()
    part_path(rig.target).write_bytes(b"junk")
    journal_path(rig.target).write_bytes(journal)
    assert rig.fetch().sha256 == rig.sha256
    assert rig.left() == ["model.gguf"]


def test_a_part_of_other_bytes_is_thrown_away(rig: Rig) -> None:
    """As after a power failure: the journal is there and the bytes are not."""
    interrupted(rig, sha256=rig.sha256)
    part_path(rig.target).write_bytes(bytes(len(CONTENT)))
    found = rig.fetch(sha256=rig.sha256)
    assert (found.sha256, found.continued_bytes) == (rig.sha256, 0)


def test_without_a_hash_nothing_is_continued_over_a_restart_of_the_machine(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noa_lab.download import _leftovers

    interrupted(rig)
    part_path(rig.target).write_bytes(bytes(len(CONTENT)))
    monkeypatch.setattr(_leftovers, "boot_id", lambda: "another")
    found = rig.fetch()
    assert (found.sha256, found.continued_bytes) == (rig.sha256, 0)


def test_a_part_of_another_address_is_continued_only_with_a_hash(rig: Rig) -> None:
    other = rig.server.put("/mirror/model.gguf", CONTENT)
    interrupted(rig, sha256=rig.sha256)
    assert rig.fetch(url=other, sha256=rig.sha256).continued_bytes > 0
    rig.target.unlink()
    interrupted(rig)
    assert rig.fetch(url=other).continued_bytes == 0


def test_a_part_of_another_file_is_not_continued(rig: Rig) -> None:
    interrupted(rig, sha256=rig.sha256)
    other = CONTENT[::-1]
    rig.server.put(rig.path, other)
    assert rig.fetch(sha256=hashlib.sha256(other).hexdigest()).continued_bytes == 0


def test_a_look_at_what_is_half_fetched_may_come_too_late(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gives the file its name while this one looks."""
    interrupted(rig)
    assert half_fetched(rig.target).total_bytes == len(CONTENT)
    load = Journal.load

    def late(path: Path) -> object:
        found = load(path)
        part_path(rig.target).unlink()
        return found

    monkeypatch.setattr(Journal, "load", late)
    assert half_fetched(rig.target) is None


def test_what_is_half_fetched_can_be_thrown_away(rig: Rig) -> None:
    interrupted(rig)
    discard(rig.target)
    assert rig.left() == []
