"""Several processes and one file, where no lock keeps them apart: nothing wrong ever gets the file's name."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading

import pytest
from download_rig import CONTENT, Rig

from noa_lab.download import _part
from noa_lab.errors import DownloadFailed

CHILD = """
import sys
from pathlib import Path
from noa_lab.download import Order, fetch_file
from noa_lab.errors import DownloadFailed
sys.stdin.readline()
try:
    order = Order(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], allow_http_loopback=True, spare_bytes=0)
    fetch_file(order)
except (DownloadFailed, OSError) as error:
    print(type(error).__name__, flush=True)
"""


def test_without_locks_there_is_one_right_file_or_none(rig: Rig) -> None:
    command = [sys.executable, "-c", CHILD, rig.url, str(rig.target), rig.sha256]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    threads = [threading.Thread(target=child.communicate, args=("\n",)) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [child.returncode for child in children] == [0] * 4
    if rig.target.exists():
        assert hashlib.sha256(rig.target.read_bytes()).hexdigest() == rig.sha256
    assert rig.fetch(sha256=rig.sha256).sha256 == rig.sha256


def test_a_part_that_another_process_has_replaced_is_not_taken_for_ours(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = _part.os.fsync

    def replaced(descriptor: int) -> None:
        sync(descriptor)
        other = rig.folder / "other"
        other.write_bytes(bytes(len(CONTENT)))
        other.replace(_part.part_path(rig.target))

    monkeypatch.setattr(_part.os, "fsync", replaced)
    with pytest.raises(DownloadFailed) as caught:
        rig.fetch(sha256=rig.sha256)
    assert caught.value.fields["kind"] == "busy"
    assert not rig.target.exists()
