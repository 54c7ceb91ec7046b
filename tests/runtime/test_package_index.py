"""Looking a file up in the package index: found where that is plain, left to pip where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from noa_lab.errors import ChecksumMismatch, DownloadFailed
from noa_lab.runtime import _index, _pypi
from noa_lab.runtime._index import find_distribution
from noa_lab.runtime._process import Finished
from noa_lab.runtime._pypi import download_distribution
from noa_lab.testing import FileFault, FileServer

WHEEL = b"wheel" * 300_000
NAMES = [
    "My_Dist-1.0-py3-none-any.whl",
    "my_dist-1.0-cp311-cp311-win_amd64.whl",
    "my_dist-1.0.1-py3-none-any.whl",
    "my_dist-1.0.tar.gz",
    "my_dist_extra-1.0-py3-none-any.whl",
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer() as made:
        settings: dict[str, str] = {"index-url": f"{made.url}/simple"}
        monkeypatch.setattr(_index, "pip_settings", lambda cancel=None: settings)
        publish(made, *(listed(name) for name in NAMES))
        for name in NAMES:
            made.put(f"/files/{name}", WHEEL)
        yield made


def listed(name: str, **more: object) -> dict[str, object]:
    return {
        "filename": name,
        "url": f"../../files/{name}",
        "hashes": {"sha256": hashlib.sha256(WHEEL).hexdigest()},
    } | more


def publish(server: FileServer, *files: object) -> None:
    server.put("/simple/my-dist/", json.dumps({"name": "my-dist", "files": files}).encode())


@pytest.mark.parametrize(("binary", "name"), [(True, NAMES[0]), (False, NAMES[3])])
def test_the_file_that_is_meant(server: FileServer, binary: bool, name: str) -> None:
    found = find_distribution("my.Dist", "1.0", binary=binary)
    assert found.file is not None
    assert (found.file.name, found.file.url) == (name, f"{server.url}/files/{name}")
    assert found.file.sha256 == hashlib.sha256(WHEEL).hexdigest()


@pytest.mark.parametrize(
    "files",
    [
        [],
        [3],
        [{}],
        [listed("../my_dist-1.0-py3-none-any.whl")],
        [listed("my_dist-1.0-py3-none-any.whl", hashes={})],
        [listed("my_dist-1.0-py3-none-any.whl", hashes={"sha256": "x"})],
        [listed("my_dist-1.0-py3-none-any.whl", url="http://elsewhere.invalid/my_dist-1.0-py3-none-any.whl")],
        [listed("my_dist-2.0-py3-none-any.whl")],
    ],
)
def test_what_is_not_plainly_there_is_left_to_pip(server: FileServer, files: list[object]) -> None:
    publish(server, *files)
    found = find_distribution("my-dist", "1.0", binary=True)
    assert (found.file, found.reachable) == (None, True)


@pytest.mark.parametrize("answer", [b"<html>a page</html>", b"[]", b"3", b'{"files": 3}', b"x" * 20_000_001])
def test_an_answer_of_another_kind_is_left_to_pip(server: FileServer, answer: bytes) -> None:
    server.put("/simple/my-dist/", answer)
    assert find_distribution("my-dist", "1.0", binary=True).file is None


@pytest.mark.parametrize(
    "settings",
    [
        {"no-index": "1"},
        {"proxy": "http://proxy:3128"},
        {"client-cert": "/x"},
        {"index-url": "https://me:secret@index.invalid/simple"},
        {"index-url": "http://index.invalid/simple"},
    ],
)
def test_unusual_settings_are_pips_business(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.setattr(_index, "pip_settings", lambda cancel=None: settings)
    found = find_distribution("my-dist", "1.0", binary=True)
    assert (found.file, found.reachable) == (None, True)
    assert server.requests == []


def test_pips_settings_are_pips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://one.invalid/simple\ntimeout = 7\n[download]\nindex-url = https://two.invalid/simple\n"
    )
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    found = _index.pip_settings()
    assert (found["index-url"], found["timeout"]) == ("https://two.invalid/simple", "7")
    monkeypatch.setenv("PIP_INDEX_URL", "https://three.invalid/simple")
    assert _index.pip_settings()["index-url"] == "https://three.invalid/simple"


def test_it_is_fetched_and_continued(server: FileServer, tmp_path: Path) -> None:
    path = f"/files/{NAMES[0]}"
    server.fail(path, FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        download_distribution("my-dist==1.0\n", tmp_path, binary=True, step="x")
    server.fail(path)
    assert download_distribution("my-dist==1.0\n", tmp_path, binary=True, step="x").read_bytes() == WHEEL
    assert server.ranges(path).count((0, 2**20 - 1)) == 1


def test_a_pinned_hash_goes_before_the_indexs(server: FileServer, tmp_path: Path) -> None:
    requirement = f"my-dist==1.0 --hash=sha256:{'0' * 64}\n"
    with pytest.raises(ChecksumMismatch):
        download_distribution(requirement, tmp_path, binary=True, step="x")
    assert list(tmp_path.iterdir()) == []


def test_without_an_index_pip_is_told_not_to_try_for_long(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it tries for 23 seconds."""
    server.close()
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> Finished:
        commands.append(command)
        return Finished(1, ("ERROR: nothing there",))

    monkeypatch.setattr(_pypi, "run", run)
    with pytest.raises(DownloadFailed):
        download_distribution("my-dist==1.0\n", tmp_path, binary=True, step="x")
    (command,) = commands
    assert command[command.index("--retries") + 1] == "0"
