"""The pieces of a file, and the journal that remembers them: nothing is fetched twice, nothing is left out, nothing is made up."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noa_lab.download import _disk, _patience, _pieces
from noa_lab.download._disk import named_disk_errors, reserve
from noa_lab.download._journal import Facts, Journal, boot_id
from noa_lab.download._patience import Patience
from noa_lab.download._pieces import PIECE_BYTES, Claim, Pieces
from noa_lab.download._rate import RateMeter
from noa_lab.errors import DiskFull, DownloadFailed

FACTS = Facts("https://host/x", 5 * PIECE_BYTES + 7, '"etag"', "host", "", "boot")


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_claims_fetches_every_byte_once(seed: int) -> None:
    chance = random.Random(seed)
    total = chance.choice([0, 1, PIECE_BYTES, chance.randint(2, 12 * PIECE_BYTES)])
    sizes = [min(PIECE_BYTES, total - start) for start in range(0, total, PIECE_BYTES)]
    done = [chance.choice([0, 0, size, chance.randint(0, size)]) for size in sizes]
    pieces = Pieces(total, done)
    got = [(piece * PIECE_BYTES, piece * PIECE_BYTES + mine) for piece, mine in enumerate(done) if mine]
    active: list[Claim] = []
    while not pieces.complete:
        claim = pieces.claim(chance.randint(1, 4) * PIECE_BYTES) if len(active) < 4 else None
        active += [claim] if claim else []
        claim = chance.choice(active)
        assert claim.left
        step = chance.choice([claim.left, chance.randint(1, claim.left)])
        got.append((claim.at, claim.at + step))
        pieces.advance(claim, step)
        if claim.left == 0 or chance.random() < 0.3:
            pieces.release(claim)
            active.remove(claim)
    assert pieces.prefix == pieces.here == total
    edge = 0
    for start, end in sorted(got):
        assert start == edge
        edge = end
    assert edge == total
    assert pieces.claim(PIECE_BYTES) is None


def test_the_bytes_without_a_gap() -> None:
    pieces = Pieces(3 * PIECE_BYTES)
    first, second = pieces.claim(PIECE_BYTES), pieces.claim(PIECE_BYTES)
    assert first
    assert second
    pieces.advance(second, PIECE_BYTES)
    assert (pieces.prefix, pieces.here) == (0, PIECE_BYTES)
    pieces.advance(first, 5)
    assert pieces.prefix == 5
    pieces.advance(first, PIECE_BYTES - 5)
    assert pieces.prefix == 2 * PIECE_BYTES


def test_a_slow_claim_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(8 * PIECE_BYTES)
    slow = pieces.claim(8 * PIECE_BYTES)
    assert slow
    pieces.advance(slow, 100)
    slow.began -= 60
    second = pieces.claim(8 * PIECE_BYTES)
    assert second
    assert (slow.end, second.start, second.end) == (5 * PIECE_BYTES, 5 * PIECE_BYTES, 8 * PIECE_BYTES)
    quick = Pieces(8 * PIECE_BYTES)
    claim = quick.claim(8 * PIECE_BYTES)
    assert claim
    quick.advance(claim, 5 * PIECE_BYTES)
    claim.began = 100.0
    monkeypatch.setattr(_pieces, "time", SimpleNamespace(monotonic=lambda: 103.5))
    assert quick.claim(8 * PIECE_BYTES) is None


def test_a_claim_that_has_just_begun_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(8 * PIECE_BYTES)
    claim = pieces.claim(8 * PIECE_BYTES)
    assert claim
    monkeypatch.setattr(_pieces, "time", SimpleNamespace(monotonic=lambda: claim.began + 2.9))
    assert pieces.claim(8 * PIECE_BYTES) is None


def test_a_file_of_unknown_size_has_one_claim() -> None:
    pieces = Pieces(None)
    claim = pieces.claim(PIECE_BYTES)
    assert claim
    assert claim.end is None
    assert pieces.claim(PIECE_BYTES) is None
    pieces.advance(claim, PIECE_BYTES + 3)
    assert (pieces.prefix, pieces.complete) == (PIECE_BYTES + 3, False)
    pieces.end_here()
    assert pieces.complete


# ---- the journal


def journal_at(path: Path, *numbers: int, facts: Facts = FACTS) -> bytes:
    journal = Journal.create(path, facts)
    for piece, number in enumerate(numbers):
        journal.set(piece, number)
    journal.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal_at(tmp_path / "j", PIECE_BYTES, 17)
    found = Journal.load(tmp_path / "j")
    assert found
    journal, facts, done = found
    assert (facts, done) == (FACTS, [PIECE_BYTES, 17, 0, 0, 0, 0])
    journal.set(5, 7)
    journal.close()
    again = Journal.load(tmp_path / "j")
    assert again
    assert again[2][5] == 7
    again[0].close()


def test_a_growing_file_of_unknown_size(tmp_path: Path) -> None:
    facts = Facts("u", None, "", "", "", "")
    journal_at(tmp_path / "j", PIECE_BYTES, 3, facts=facts)
    found = Journal.load(tmp_path / "j")
    assert found
    assert found[2] == [PIECE_BYTES, 3]
    found[0].close()
    journal_at(tmp_path / "k", 3, 3, facts=facts)
    assert Journal.load(tmp_path / "k") is None


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_journal_is_none_or_says_nothing_impossible(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "j"
    sound = journal_at(path, PIECE_BYTES, 17)
    for _ in range(100):
        raw = bytearray(sound[: chance.choice([len(sound), chance.randint(0, len(sound))])])
        for _ in range(chance.randint(0, 4) if raw else 0):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(bytes(raw))
        found = Journal.load(path)
        if found is not None:
            journal, facts, done = found
            journal.close()
            if facts.total is not None:
                assert len(done) == -(-facts.total // PIECE_BYTES)
                assert sum(done) <= facts.total


def test_numbers_never_straddle_a_page(tmp_path: Path) -> None:
    """The kernel writes up to the end of a page before it looks for a kill."""
    for length in range(9):
        raw = journal_at(tmp_path / "j", facts=Facts("u" * length, 1, "", "", "", ""))
        assert len(raw) % 8 == 0


def test_there_is_a_boot_id() -> None:
    assert boot_id() == boot_id() != ""


# ---- the disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_much_is_needed(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFull) as caught, named_disk_errors(tmp_path / "x", 10**15):
        raise OSError(number, "full")
    fields = caught.value.fields
    assert fields["needed_bytes"] == 10**15
    assert f"Free {10**15 - fields['free_bytes']:,} bytes" in caught.value.fix


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), named_disk_errors(tmp_path / "x", 1):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_reserving_gives_the_final_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    import fcntl

    asked: list[Any] = []
    monkeypatch.setattr(_disk.sys, "platform", platform)
    monkeypatch.setattr(fcntl, "fcntl", lambda *args: asked.append(args))
    with (tmp_path / "x").open("wb") as file:
        reserve(file, 3_000_000)
    assert (tmp_path / "x").stat().st_size == 3_000_000
    if platform == "linux":
        assert (tmp_path / "x").stat().st_blocks * 512 >= 3_000_000
    if platform == "darwin":
        assert (asked[0][1], len(asked[0][2])) == (42, 32)


def test_a_file_system_that_cannot_reserve_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def fallocate(self, *args: object) -> int:
            raise AssertionError

    def cannot(*args: object) -> int:
        _disk.ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    library = Library()
    library.fallocate = cannot  # type: ignore[method-assign]
    monkeypatch.setattr(_disk.ctypes, "CDLL", lambda *args, **options: library)
    with (tmp_path / "x").open("wb") as file:
        reserve(file, 3_000_000)
    assert os.stat(tmp_path / "x").st_size == 3_000_000


# ---- patience and rates


def missed(kind: str, **fields: object) -> DownloadFailed:
    return DownloadFailed("x", fix="x", kind=kind, **fields)


def test_patience_ends_and_grows_again_with_each_megabyte() -> None:
    patience = Patience(3, 0.5)
    assert patience.wait_after(missed("cut"), 0) == 0.5
    assert patience.wait_after(missed("stalled"), 1000) == 1.0
    assert patience.wait_after(missed("cut"), 2 * PIECE_BYTES) == 0.5
    assert patience.wait_after(missed("server"), 2 * PIECE_BYTES) == 1.0
    assert patience.wait_after(missed("cut"), 2 * PIECE_BYTES) is None


@pytest.mark.parametrize(
    "kind", ["not found", "refused", "encoded", "web page", "wrong size", "not encrypted", "gated"]
)
def test_some_faults_do_not_pass(kind: str) -> None:
    assert Patience(3, 0.5).wait_after(missed(kind), 10**9) is None


def test_an_unreachable_server_is_waited_for_only_when_it_was_there() -> None:
    assert Patience(3, 0.5).wait_after(missed("unreachable"), 0) is None
    assert Patience(3, 0.5).wait_after(missed("unreachable"), 1) == 0.5


def test_a_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_patience, "time", SimpleNamespace(time=lambda: 1000.0))
    assert Patience(3, 0.5).wait_after(missed("rate limit", resets_at=1020.0), 0) == 20
    assert Patience(3, 0.5).wait_after(missed("rate limit", resets_at=2000.0), 0) is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = RateMeter()
    assert meter.rate(1000, 0.0) is None
    assert meter.rate(1100, 0.1) is None
    assert meter.rate(2000, 1.0) == 1000
    for second in range(2, 20):
        rate = meter.rate(2000 + 50 * second, float(second))
    assert rate == pytest.approx(50)
    assert meter.rate(0, 30.0) is None
