"""Getting models from plain https addresses: a real TLS server, with ranges and faults."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_rig import litter, random_model, split_model

from noa_lab import models
from noa_lab.errors import BadInput, ChecksumMismatch, DownloadFailed
from noa_lab.events import Progress
from noa_lab.paths import Home
from noa_lab.testing import FileFault, FileServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture
def web(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A TLS server on loopback that this process trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with FileServer("localhost", tls=context) as server:
        yield server


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return random_model(tmp_path_factory.mktemp("big") / "x.gguf", 3_500_000)


def test_a_file_from_the_web(own_home: Home, web: FileServer, big: bytes) -> None:
    seen: list[Progress] = []
    url = web.put("/files/x.gguf", big) + "?download=true"
    found = models.fetch(url, own_home, report=seen.append)
    assert found.path.read_bytes() == big
    assert (found.name, found.verified, found.source) == ("x", False, url)
    assert seen[-1].done == len(big) == seen[-1].total
    assert litter(own_home) == []
    assert models.find(url, own_home) == found


def test_a_redirect_is_followed(own_home: Home, web: FileServer, big: bytes) -> None:
    web.put("/good.gguf", big)
    moved = web.put("/moved.gguf", b"")
    web.fail("/moved.gguf", FileFault("elsewhere", times=99, target="/good.gguf"))
    assert models.fetch(moved, own_home).path.read_bytes() == big


@pytest.mark.parametrize(
    ("kind", "expected"), [("404", "not found"), ("to http", "not encrypted"), ("web page", "web page")]
)
def test_a_download_that_fails_leaves_nothing(
    own_home: Home, web: FileServer, big: bytes, kind: str, expected: str
) -> None:
    url = web.put("/x.gguf", big)
    web.fail("/x.gguf", FileFault(kind, times=99))  # type: ignore[arg-type]
    with pytest.raises(DownloadFailed) as caught:
        models.fetch(url, own_home)
    assert caught.value.fields["kind"] == expected
    assert models.installed(own_home) == []
    assert litter(own_home) == []
    assert models.unfinished(own_home) == []


def test_what_was_cut_is_listed_and_continued(
    own_home: Home, web: FileServer, big: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.put("/x.gguf", big)
    web.fail("/x.gguf", FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(url, own_home)
    (left,) = models.unfinished(own_home)
    assert (left.name, left.source, left.total_bytes) == ("x", url, len(big))
    assert 2**20 <= left.here_bytes < left.disk_bytes == len(big), "the room for all of it is reserved"
    web.fail("/x.gguf")
    before = web.asked("/x.gguf")
    assert models.fetch(url, own_home).path.read_bytes() == big
    assert web.asked("/x.gguf") - before == len(big) - left.here_bytes
    assert models.unfinished(own_home) == []
    assert litter(own_home) == []


def test_what_was_cut_can_be_thrown_away(own_home: Home, web: FileServer, big: bytes) -> None:
    url = web.put("/x.gguf", big)
    web.fail("/x.gguf", FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(url, own_home)
    assert models.discard_unfinished(url, own_home) == len(big)
    assert litter(own_home) == []
    with pytest.raises(BadInput):
        models.discard_unfinished(url, own_home)


def test_a_server_that_nobody_vouches_for(
    own_home: Home, web: FileServer, big: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.put("/x.gguf", big)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadFailed, match=r"(?i)certificate"):
        models.fetch(url, own_home)
    assert web.requests == []


def test_a_split_model(own_home: Home, web: FileServer, tmp_path: Path) -> None:
    files = split_model(tmp_path / "split", 1_200_000)
    names = list(files)
    urls = [web.put(f"/m/{name}", data) for name, data in files.items()]
    web.fail(f"/m/{names[1]}", FileFault("drop", times=99, after=300_000))
    with pytest.raises(DownloadFailed):
        models.fetch(urls[1], own_home)
    assert models.installed(own_home) == []
    web.fail(f"/m/{names[1]}")
    found = models.fetch(urls[1], own_home)
    assert [part.path.read_bytes() for part in found.parts] == list(files.values())
    assert found.path == found.parts[0].path == own_home.models / "Big.F32" / names[0]
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}\n" for data in files.values())
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.size_bytes == sum(map(len, files.values()))
    assert web.ranges(f"/m/{names[0]}").count((0, 2**20 - 1)) == 1
    assert litter(own_home) == []
    assert models.find(urls[1], own_home) == found == models.verify(found)


def test_a_file_that_has_changed_since_it_was_first_seen(
    own_home: Home, web: FileServer, big: bytes, tmp_path: Path
) -> None:
    url = web.put("/x.gguf", big)
    first = models.fetch(url, own_home)
    first.path.unlink()
    other = random_model(tmp_path / "other.gguf", 2_000_000, seed=2)
    web.put("/x.gguf", other)
    with pytest.raises(ChecksumMismatch, match="another file than on") as caught:
        models.fetch(url, own_home)
    assert caught.value.fields["expected"] == first.sha256
    assert models.installed(own_home) == []
    # Accepting the change needs no second download.
    record = Path(caught.value.fix.partition("delete ")[2].partition(" and start")[0])
    asked = len(web.requests)
    record.unlink()
    assert models.fetch(url, own_home).path.read_bytes() == other
    assert len(web.requests) == asked
    assert litter(own_home) == []
