"""Fetching one file: what arrives, who is told what, who may stop it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from download_rig import CONTENT, PARTS, Rig, interrupted

from noa_lab.download import (
    FetchedFile,
    _pieces,
    _write_out,
    part_path,
)
from noa_lab.download._pieces import PIECE_BYTES
from noa_lab.errors import Cancelled, ChecksumMismatch, DiskFull, DownloadFailed
from noa_lab.events import CancelToken, Progress
from noa_lab.testing import FileFault, FileServer


def download_threads(seconds: float = 10.0) -> list[str]:
    """Those that do not end by themselves; one that has all it needs for that may still be waiting for a processor."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("noa-lab-d")]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
    return [thread.name for thread in threads if thread.is_alive()]


def test_a_file_arrives(rig: Rig) -> None:
    seen: list[Progress] = []
    found = rig.fetch(sha256=rig.sha256, report=seen.append)
    assert (found.sha256, found.size_bytes, found.verified, found.continued_bytes) == (
        rig.sha256,
        len(CONTENT),
        True,
        0,
    )
    assert rig.target.read_bytes() == CONTENT
    assert rig.left() == ["model.gguf"]
    assert (seen[-1].finished, seen[-1].fraction) == (True, 1.0)
    assert download_threads() == []


def test_its_parts_come_over_several_connections_and_none_twice(rig: Rig) -> None:
    rig.fetch()
    ranges = sorted(each for each in rig.server.ranges(rig.path) if each)
    assert ranges[0] == (0, PIECE_BYTES - 1)
    assert all(first[1] + 1 == second[0] for first, second in pairwise(ranges))
    assert rig.sent == len(CONTENT)


def test_one_connection_is_enough(rig: Rig) -> None:
    assert rig.fetch(connections=1).sha256 == rig.sha256
    assert rig.sent == len(CONTENT)


def test_towards_the_end_its_parts_become_small(rig: Rig) -> None:
    """So that all connections are done at about the same time, and the hash is not far behind."""
    rig.server.put(rig.path, CONTENT * 4)
    rig.fetch(connections=1)
    _, *sizes = [last + 1 - first for first, last in rig.server.ranges(rig.path)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 4 * PIECE_BYTES > PIECE_BYTES >= sizes[-1]


def test_a_large_file_is_brought_to_the_disk_while_it_arrives(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, early, sync = [], threading.Event(), os.fsync

    def watched(descriptor: int) -> None:
        synced.append(threading.current_thread().name)
        sync(descriptor)
        early.set()

    def let_the_rest_pass() -> None:
        early.wait(20)
        rig.server.valve.limit(None)

    monkeypatch.setattr(_write_out, "_STEP_BYTES", 2**20)
    monkeypatch.setattr(os, "fsync", watched)
    rig.server.valve.limit(3_000_000)
    opener = threading.Thread(target=let_the_rest_pass)
    opener.start()
    assert rig.fetch(sha256=rig.sha256, stall_seconds=30).sha256 == rig.sha256
    opener.join()
    assert synced[0] == "noa-lab-disk"
    assert threading.current_thread().name in synced, "and once more before it gets its name"
    assert download_threads() == []


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_every_size(rig: Rig, size: int) -> None:
    rig.server.put(rig.path, CONTENT[:size])
    found = rig.fetch()
    assert (found.size_bytes, found.sha256) == (size, hashlib.sha256(CONTENT[:size]).hexdigest())
    assert rig.target.read_bytes() == CONTENT[:size]
    assert rig.left() == ["model.gguf"]


def test_only_a_trusted_hash_verifies(rig: Rig) -> None:
    assert not rig.fetch().verified
    assert not rig.fetch(claimed_sha256=rig.sha256).verified
    assert rig.fetch(sha256=rig.sha256).verified


def test_a_file_that_is_here_is_not_fetched_again(rig: Rig) -> None:
    rig.fetch()
    asked = len(rig.server.requests)
    assert rig.fetch(sha256=rig.sha256).verified
    assert len(rig.server.requests) == asked
    rig.target.write_bytes(b"damaged")
    assert rig.fetch(sha256=rig.sha256).size_bytes == len(CONTENT)
    assert rig.target.read_bytes() == CONTENT


def test_a_receipt_stands_in_for_a_hash_that_nobody_knows(rig: Rig) -> None:
    rig.fetch(receipt=True)
    asked = len(rig.server.requests)
    found = rig.fetch(receipt=True)
    assert (found.sha256, found.verified, len(rig.server.requests)) == (rig.sha256, False, asked)
    assert rig.left() == ["model.gguf", "model.gguf.receipt.json"]
    rig.target.write_bytes(CONTENT[:-1] + b"x")
    assert rig.fetch(receipt=True).sha256 == rig.sha256
    assert len(rig.server.requests) > asked


def test_a_slow_connection_does_not_hold_up_the_rest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    content = CONTENT * 6
    rig.server.put(rig.path, content)
    monkeypatch.setattr(_pieces, "_SLOW_SECONDS", 0.3)
    # One connection is given a run of 4 MiB that would take more than a minute; the other has all else within a moment.
    rig.fail(FileFault("crawl", first=2, seconds=0.2))
    token = CancelToken()

    def cancel_when_shared(progress: Progress) -> None:
        slow = rig.server.ranges(rig.path)[2:]
        if any(slow[0][0] < first <= slow[0][1] for first, _ in slow[1:]):
            token.cancel()

    with pytest.raises(Cancelled):
        rig.fetch(connections=2, report=cancel_when_shared, cancel=token)
    rig.fail()
    assert rig.fetch().sha256 == hashlib.sha256(content).hexdigest()


# ---- redirects and who is told what


def test_the_last_redirect_is_remembered(rig: Rig) -> None:
    with FileServer("localhost") as storage:
        storage.put("/blob", CONTENT)
        rig.fail(FileFault("elsewhere", times=99, target=f"{storage.url}/blob"))
        assert rig.fetch().sha256 == rig.sha256
    assert len(rig.server.requests) == 1


def test_a_signed_address_that_runs_out_is_asked_for_again(rig: Rig) -> None:
    with FileServer("localhost") as storage:
        old, new = storage.put("/old", CONTENT), storage.put("/new", CONTENT)
        storage.fail("/old", FileFault("403", first=2, times=99))
        rig.fail(FileFault("elsewhere", target=old), FileFault("elsewhere", first=1, times=99, target=new))
        assert rig.fetch(sha256=rig.sha256).sha256 == rig.sha256
        assert storage.sent["/old"] + storage.sent["/new"] == len(CONTENT)


def test_the_authorisation_goes_to_the_first_host_alone(rig: Rig) -> None:
    with FileServer("localhost") as storage:
        storage.put("/blob", CONTENT)
        rig.fail(FileFault("elsewhere", times=99, target=f"{storage.url}/blob?signature=1"))
        rig.fetch(authorization="Bearer secret", headers={"User-Agent": "someone"})
        assert rig.server.requests[0].headers["authorization"] == "Bearer secret"
        assert all("authorization" not in request.headers for request in storage.requests)
        assert {request.headers["user-agent"] for request in storage.requests} == {"someone"}


def test_the_authorisation_does_not_come_back_after_a_detour(rig: Rig) -> None:
    with FileServer("localhost") as detour:
        detour.put("/x", b"")
        rig.server.put("/real", CONTENT)
        detour.fail("/x", FileFault("elsewhere", times=99, target=f"{rig.server.url}/real"))
        rig.fail(FileFault("elsewhere", times=99, target=f"{detour.url}/x"))
        rig.fetch(authorization="Bearer secret")
    first = next(request for request in rig.server.requests if request.path == "/real")
    assert "authorization" not in first.headers


# ---- progress, pause, cancel


def test_progress_has_a_rate_and_a_time(rig: Rig) -> None:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        # A little more after each report, and all of it after the first rate.
        seen.append(progress)
        rig.server.valve.limit(None if progress.rate else 100_000 * len(seen))

    rig.server.valve.limit(100_000)
    rig.fetch(report=watch)
    rated = [progress for progress in seen if progress.rate and not progress.finished]
    assert rated
    assert all(progress.total == len(CONTENT) and progress.eta_seconds is not None for progress in rated)


def test_a_pause_lets_go_of_the_network_and_loses_nothing(rig: Rig) -> None:
    token, seen = CancelToken(), []
    rig.server.valve.limit(3_000_000)

    def watch(progress: Progress) -> None:
        seen.append(progress.message)
        if progress.message.endswith("paused"):
            assert download_threads() == []
            rig.server.valve.limit(None)
            threading.Timer(0.1, token.resume).start()

    def pause() -> None:
        rig.wait_for(3_000_000)
        token.pause()

    pauser = threading.Thread(target=pause)
    pauser.start()
    assert rig.fetch(report=watch, cancel=token, stall_seconds=20).sha256 == rig.sha256
    pauser.join()
    assert any(message.endswith("paused") for message in seen)
    # What the connections of before the pause still try to send, each of them twice at most, nobody gets.
    assert rig.sent <= len(CONTENT) + 4 * 2 * 2**16


@pytest.mark.parametrize("kind", ["silent", "stall", "slow"])
def test_cancelling_is_quick_whatever_the_server_does(rig: Rig, kind: str) -> None:
    rig.fail(FileFault(kind, times=99, after=5000))  # type: ignore[arg-type]
    token = CancelToken()
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        token.cancel()

    timer = threading.Timer(0.3, press)
    timer.start()
    with pytest.raises(Cancelled):
        rig.fetch(stall_seconds=30, cancel=token)
    assert time.monotonic() - pressed[0] < 5
    timer.join()
    assert download_threads() == []


CHILD = """
import sys
from pathlib import Path
from noa_lab.download import Order, fetch_file
fetch_file(Order(sys.argv[1], Path(sys.argv[2]), allow_http_loopback=True, spare_bytes=0))
"""


def test_ctrl_c_ends_a_download_that_hangs(rig: Rig) -> None:
    rig.fail(FileFault("stall", times=99, after=500_000))
    command = [sys.executable, "-c", CHILD, rig.url, str(rig.target)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        rig.wait_for(500_000)
        child.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        _, errors = child.communicate(timeout=20)
    assert time.monotonic() - pressed < 5
    assert "KeyboardInterrupt" in errors
    assert rig.left() == PARTS


def test_it_works_inside_a_running_event_loop(rig: Rig) -> None:
    async def notebook() -> FetchedFile:
        return rig.fetch()

    assert asyncio.run(notebook()).sha256 == rig.sha256


# ---- sizes and disks


@pytest.mark.parametrize(("size", "most", "kind"), [(5, 2**30, "wrong size"), (None, 1000, "too large")])
def test_sizes_are_checked_before_the_bytes_come(rig: Rig, size: int | None, most: int, kind: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(size_bytes=size, most_bytes=most)
    assert caught.value.fields["kind"] == kind
    assert rig.left() == []


def test_a_stream_without_length_is_bounded_too(rig: Rig) -> None:
    rig.fail(FileFault("no length", times=99))
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(most_bytes=1_000_000)
    assert caught.value.fields["kind"] == "too large"


def test_a_full_disk_is_told_before_the_first_byte(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull) as caught:
        rig.fetch(spare_bytes=500)
    assert caught.value.fields["needed_bytes"] == len(CONTENT) + 500
    assert rig.left() == []


def test_wrong_bytes_leave_nothing(rig: Rig) -> None:
    with pytest.raises(ChecksumMismatch) as caught:
        rig.fetch(sha256="0" * 64)
    assert caught.value.fields["found"] == rig.sha256
    assert rig.left() == []


def test_the_disk_space_is_reserved(rig: Rig) -> None:
    interrupted(rig)
    status = Path(part_path(rig.target)).stat()
    assert status.st_size == len(CONTENT)
    assert status.st_blocks * 512 >= len(CONTENT)
