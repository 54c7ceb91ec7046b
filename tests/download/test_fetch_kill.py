"""kill -9 of a downloading process, at any byte and at any step: the next one fetches at most a megabyte again, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from download_rig import Rig

from noa_lab.testing import FileServer, Valve

SIZE = 8 * 2**20
CONTENT = random.Random(8).randbytes(SIZE)
STEP = 2**16
BOUNDARIES = [at + offset for at in range(STEP, SIZE + 1, STEP) for offset in (-1, 0, 1) if at + offset < SIZE]
RANDOM = [random.Random(number).randrange(1, SIZE) for number in range(300)]
MOST_AGAIN = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc/net/tcp")


class Zygote:
    """Starts downloading processes at the cost of a fork."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, rig: Rig, kill: list[str] | None = None, **options: Any) -> int:
        """Start one; its pid."""
        order = {"url": rig.url, "target": str(rig.target), "kill": kill, "options": {"spare_bytes": 0} | options}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = int(self._answer())
        assert pid > 0, "the end of the one before was not waited for"
        return pid

    def ended(self) -> int:
        """Wait for the end of the last one; its wait status."""
        return int(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with FileServer() as server:
        made = Rig(server, tmp_path / "folder", content=CONTENT)
        server.put(made.path, CONTENT)
        yield made


def unread(port: int) -> int:
    """Bytes that lie in the buffers of the connections with a port, sent and not read yet."""
    total, needle = 0, f":{port:04X} "
    for line in Path("/proc/net/tcp").read_text().splitlines():
        if needle in line:
            _, local, _, _, queues, *_ = line.split()
            sending, receiving = (int(each, 16) for each in queues.split(":"))
            total += sending if local.endswith(needle.strip()) else receiving
    return total


class Line(Valve):
    """A network that is slower than whoever reads: little more than 128 KiB are under way."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._looked = 0
        self._look = threading.Lock()
        """One connection looks, and the others wait for it: each of them may have one chunk under way meanwhile."""

    def take(self, wanted: int) -> int:
        with self._look:
            if self.passed - self._looked >= 2**17:
                self._looked = self.passed
                until = time.monotonic() + 5
                while unread(self._port) > 2**17 and time.monotonic() < until:
                    time.sleep(0.002)
        return super().take(min(wanted, 2**15))


def check_continued(rig: Rig, sent: int) -> int:
    """Let the next call finish, and look at everything; returns the bytes that had to be fetched again."""
    rig.server.valve.limit(None)
    # Marked, because the server may see what the killed process asked for only now.
    found = rig.fetch(sha256=rig.sha256, stall_seconds=20, headers={"X-Attempt": "next"})
    assert found.sha256 == rig.sha256
    assert rig.left() == ["model.gguf"]
    ranges = [request.range for request in rig.server.requests if "x-attempt" in request.headers]
    asked = sum((last or 0) + 1 - first for first, last in filter(None, ranges))
    again = sent + asked - SIZE
    assert again <= MOST_AGAIN
    return again


def kill_after(rig: Rig, zygote: Zygote, count: int) -> None:
    """Start a download and kill its process when it has just read the last of the first `count` bytes, over all connections."""
    rig.server.valve.limit(count)
    pid = zygote.start(rig, sha256=rig.sha256)
    assert rig.server.valve.wait_until_passed(count, 30)
    until = time.monotonic() + 30
    while unread(rig.server.port):
        assert time.monotonic() < until
    os.kill(pid, signal.SIGKILL)
    assert zygote.ended() == signal.SIGKILL


def kill_at_byte(rig: Rig, zygote: Zygote, count: int) -> None:
    """Kill a download, and see that the next one goes on from there."""
    kill_after(rig, zygote, count)
    assert check_continued(rig, count) >= 0


def kill_on_the_way(rig: Rig, zygote: Zygote, count: int, seconds: float) -> None:
    """Kill the process a moment after `count` bytes were sent, whatever it has made of them."""
    rig.server.valve = Line(rig.server.port)
    pid = zygote.start(rig, sha256=rig.sha256)
    assert rig.server.valve.wait_until_passed(count, 30)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # where little was left it may be done
        os.kill(pid, signal.SIGKILL)
    rig.server.valve.limit(0)
    zygote.ended()
    check_continued(rig, rig.server.valve.passed)


@linux
@pytest.mark.parametrize("count", random.Random(1).sample(BOUNDARIES, 20))
def test_killed_at_a_boundary(rig: Rig, zygote: Zygote, count: int) -> None:
    kill_at_byte(rig, zygote, count)


@linux
@pytest.mark.full
@pytest.mark.parametrize("count", BOUNDARIES)
def test_killed_at_every_boundary(rig: Rig, zygote: Zygote, count: int) -> None:
    kill_at_byte(rig, zygote, count)


@linux
@pytest.mark.parametrize("number", range(10))
def test_killed_on_the_way(rig: Rig, zygote: Zygote, number: int) -> None:
    kill_on_the_way(rig, zygote, RANDOM[number], random.Random(number).random() / 500)


@linux
@pytest.mark.full
@pytest.mark.parametrize("number", range(300))
def test_killed_at_every_random_point(rig: Rig, zygote: Zygote, number: int) -> None:
    kill_on_the_way(rig, zygote, RANDOM[number], random.Random(number).random() / 500)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["discard", "reserve", "create journal", "fsync", "rename", "sync folder", "unlink"])
@pytest.mark.parametrize("known", [True, False], ids=["with a hash", "without"])
def test_killed_at_each_step(rig: Rig, zygote: Zygote, step: str, when: str, known: bool) -> None:
    """At the beginning, when the folder is made ready, and at the end, when the file gets its name."""
    expected = {"sha256": rig.sha256} if known else {"receipt": True}
    zygote.start(rig, [step, when], **expected)
    assert zygote.ended() == signal.SIGKILL
    before = len(rig.server.requests)
    assert rig.fetch(**expected).sha256 == rig.sha256
    assert rig.left() == ["model.gguf"] + ([] if known else ["model.gguf.receipt.json"])
    if step in ("fsync", "rename", "sync folder"):
        assert len(rig.server.requests) == before


@linux
def test_killed_again_and_again(rig: Rig, zygote: Zygote) -> None:
    """What many short-lived processes have fetched adds up."""
    points = range(SIZE // 8, SIZE, SIZE // 8)
    here = 0
    for count in points:
        kill_after(rig, zygote, count)
        assert rig.here() > here
        here = rig.here()
    rig.server.valve.limit(None)
    assert rig.fetch(sha256=rig.sha256).continued_bytes == here >= SIZE - SIZE // 8 - len(points) * MOST_AGAIN // 2
