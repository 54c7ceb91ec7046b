"""Downloads beside curl: 1 GiB from a server on this machine, at a line of 200 MB/s and without a limit, in turns.

    python benchmarks/download.py [--folder FOLDER] [--rounds 5] [--bytes 1073741824]

curl writes the file and does nothing else; noa_lab also hashes it (sha256), reserves the space, keeps a journal and syncs it to the disk
before it gets its name. Without a limit, curl is followed by sha256sum, which is what one has to do by hand for the same certainty.
huggingface_hub's own http_get, which hashes nothing, stands beside them. Times are of the transfer alone: no interpreter is started.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LINE = 200_000_000
PIECE = 2**18


class Bucket:
    """A line of so many bytes a second, shared by all connections; what is not sent is given back."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def give_back(self, count: int) -> None:
        with self._lock:
            self._free_at -= count / self.rate

    def take(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.01) + count / self.rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


def serve(path: Path, rate: float) -> None:
    """Serve one file with ranges, by sendfile; prints its port."""
    bucket = Bucket(rate) if rate else None
    file = path.open("rb")
    size = path.stat().st_size
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def talk(connection: socket.socket) -> None:
        waiting = b""
        try:
            while True:
                while b"\r\n\r\n" not in waiting:
                    arrived = connection.recv(65536)
                    if not arrived:
                        return
                    waiting += arrived
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                asked = re.search(rb"range: bytes=(\d+)-(\d*)", head, re.IGNORECASE)
                start, end = (int(asked[1]), int(asked[2]) + 1 if asked[2] else size) if asked else (0, size)
                status = b"206 Partial Content" if asked else b"200 OK"
                span = b"bytes %d-%d/%d" % (start, end - 1, size)
                connection.sendall(
                    b'HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Range: %s\r\nETag: "one"\r\n\r\n'
                    % (status, end - start, span)
                )
                while start < end:
                    count = min(PIECE, end - start)
                    if bucket is not None:
                        bucket.take(count)
                    sent = os.sendfile(connection.fileno(), file.fileno(), start, count)
                    if bucket is not None:
                        bucket.give_back(count - sent)
                    start += sent
        except OSError:
            pass

    while True:
        connection, _ = listener.accept()
        # As web servers do: the end of an answer must not wait until its beginning was acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=talk, args=(connection,), daemon=True).start()


OURS = """
import json, resource, sys, time
from pathlib import Path
import urllib3, truststore
from noa_lab.download import Order, fetch_file
target = Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
found = fetch_file(Order(sys.argv[1], target, sha256=sys.argv[3] or None, allow_http_loopback=True))
took = time.perf_counter() - start
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": took, "grown_mb": grown / 1024}))
"""
HUB = """
import json, resource, sys, time
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file)
took = time.perf_counter() - start
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": took, "grown_mb": grown / 1024}))
"""


def measured(code: str, *arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def curl(url: str, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "--output", str(target), url], check=True)
    return time.perf_counter() - start


def sha256sum(target: Path) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(["sha256sum", str(target)], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout.split()[0]


def ours(target: Path) -> float:
    """Seconds that Python's hashlib takes, which uses the processor's own instructions for it where OpenSSL does."""
    start = time.perf_counter()
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.perf_counter() - start


def run(source: Path, folder: Path, rate: float, rounds: int, sha256: str) -> None:
    """Print the table of one line speed."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(source), "--rate", str(rate)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/model.gguf"
        rows: dict[str, list[float]] = {}
        grown = {"noa_lab": 0.0, "huggingface_hub (no hash)": 0.0}
        for number in range(rounds):
            target = folder / "out.bin"
            took = curl(url, target)
            hashing, found = sha256sum(target)
            assert found == sha256
            rows.setdefault("curl", []).append(took)
            rows.setdefault("curl, then sha256sum", []).append(took + hashing)
            target.unlink()
            for name, code, more in (("noa_lab", OURS, (sha256,)), ("huggingface_hub (no hash)", HUB, ())):
                result = measured(code, url, str(target), *more)
                target.unlink()
                rows.setdefault(name, []).append(result["seconds"])
                grown[name] = max(grown[name], result["grown_mb"])
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        server.kill()
        server.wait()
    size = source.stat().st_size
    title = f"{size / 1e6:,.0f} MB at {rate / 1e6:,.0f} MB/s" if rate else f"{size / 1e6:,.0f} MB without a limit"
    print(f"\n## {title}\n", flush=True)
    print("| | seconds (median; all) | MB/s | speed beside curl's | memory growth |")
    print("| --- | --- | --- | --- | --- |")
    for name, times in rows.items():
        middle = statistics.median(times)
        ratio = statistics.median([other / mine for other, mine in zip(rows["curl"], times, strict=True)])
        every = " ".join(f"{each:.2f}" for each in times)
        memory = f"{grown[name]:.0f} MB" if name in grown else ""
        print(f"| {name} | {middle:.2f}; {every} | {size / 1e6 / middle:,.0f} | {ratio:.3f} | {memory} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=2**30)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.rate)
        return
    if shutil.which("curl") is None or not hasattr(os, "sendfile"):
        sys.exit("This needs curl, and a system with sendfile.")
    with tempfile.TemporaryDirectory(prefix="noa-lab-", dir=options.folder) as name:
        source = Path(name) / "source.bin"
        with source.open("wb") as file:
            for start in range(0, options.bytes, 2**24):
                file.write(os.urandom(min(2**24, options.bytes - start)))
        hashing, sha256 = sha256sum(source)
        print("# Downloads beside curl\n\n`python benchmarks/download.py`\n")
        print(
            f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the beginning. For the file sha256sum takes"
        )
        print(f"{hashing:.1f} s, Python's hashlib, which noa_lab uses, {ours(source):.1f} s.")
        for rate in (LINE, 0.0):
            run(source, Path(name), rate, options.rounds, sha256)


if __name__ == "__main__":
    main()
