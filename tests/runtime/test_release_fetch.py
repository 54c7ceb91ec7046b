"""Getting a release from a local server that imitates GitHub: every fault ends in a named error, or in the right bytes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noa_lab.download import FetchedFile, Order, check_address, fetch_file, shown
from noa_lab.errors import ArchiveUnsafe, BadInput, ChecksumMismatch, DownloadFailed, SetupError
from noa_lab.events import Progress
from noa_lab.runtime import Runtime, _release_find
from noa_lab.runtime._release import Asset, FetchedRelease, fetch_release, find_release, pinned_sha256, resolve
from noa_lab.testing import FakeReleaseApi, Fault, pack_companion, pack_release

TAG = "b11312"
NAME = f"llama-{TAG}-bin-ubuntu-x64.tar.gz"
CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def api() -> Iterator[FakeReleaseApi]:
    with FakeReleaseApi() as server:
        server.publish(TAG, {NAME: CONTENT})
        yield server


def find(api: FakeReleaseApi, tag: str = TAG, **options: Any) -> tuple[str, tuple[Asset, ...]]:
    options = {"api": api.base_url, "patience": 60.0} | options
    return find_release(tag, allow_http_loopback=True, **options)


def get(api: FakeReleaseApi, folder: Path, **options: Any) -> FetchedFile:
    url = f"{api.base_url}/download/{TAG}/{NAME}"
    options = {"stall_seconds": 60.0, "pause_seconds": 0.01} | options
    told = {name: options.pop(name) for name in ("report", "cancel") if name in options}
    return fetch_file(Order(url, folder / NAME, allow_http_loopback=True, **options), **told)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---- finding the release


def test_a_tag(api: FakeReleaseApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_release_find, "_pins", lambda: {TAG: {NAME: "ab" * 32}})
    seen: list[Progress] = []
    tag, (asset,) = find(api, report=seen.append)
    assert tag == TAG
    assert (asset.name, asset.size_bytes, asset.sha256) == (NAME, len(CONTENT), pinned_sha256(TAG, NAME))
    assert asset.claimed_sha256 == SHA256
    assert seen[-1].finished


def test_latest_stable_leads_to_the_nightly_behind_it(api: FakeReleaseApi) -> None:
    api.publish("b11400", {"llama-b11400-bin-ubuntu-x64.tar.gz": b"newer"})
    api.publish_stable("v0.6.0", TAG)
    assert find(api, "latest-stable")[0] == TAG
    assert find(api, "v0.6.0")[0] == TAG


def test_an_old_latest_that_has_programs_itself(api: FakeReleaseApi) -> None:
    api.publish("b4315", {"llama-b4315-bin-ubuntu-x64.zip": b"zip"}, prerelease=False, digests=False)
    tag, (asset,) = find(api, "latest-stable")
    assert (tag, asset.sha256) == ("b4315", None)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, "b11500"),
        ({"system": "Linux", "architecture": "x86_64", "backend": "cpu"}, "b11312"),
        ({"system": "Windows", "architecture": "x86_64", "backend": "cpu"}, "b11500"),
    ],
)
def test_latest_nightly_is_the_newest_with_programs_for_the_machine(
    api: FakeReleaseApi, machine: dict[str, str], expected: str
) -> None:
    api.publish("b11600", {})
    api.publish("b11500", {"llama-b11500-bin-win-cpu-x64.zip": b"zip", "llama-b11500-ui.tar.gz": b"ui"})
    api.publish_stable("v0.7.0", "b11500")
    api.publish("b9999", {"llama-b9999-bin-ubuntu-x64.tar.gz": b"older"})
    assert find(api, "latest-nightly", **machine)[0] == expected
    with pytest.raises(DownloadFailed, match="programs for Linux on s390x") as caught:
        find(api, "latest-nightly", system="Linux", architecture="s390x")
    assert caught.value.fields["kind"] == "not found"


def test_latest_nightly_looks_further_than_the_first_page(api: FakeReleaseApi) -> None:
    for number in range(35):
        api.publish(f"b{11320 + number}", {})
    assert find(api, "latest-nightly")[0] == TAG
    asked = [request for request in api.requests if request.path.startswith("/repos/")]
    assert len(asked) == 2


@pytest.mark.parametrize("tag", ["", "11312", "latest", "b0", "b1/../x", "v1", "b11312\n"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(BadInput) as caught:
        find_release(tag)
    assert caught.value.fields["field"] == "tag"


def test_a_tag_that_has_no_files_yet(api: FakeReleaseApi) -> None:
    api.publish("b12000", {"llama-b12000-ui.tar.gz": b"ui"})
    with pytest.raises(DownloadFailed, match="has no files with programs") as caught:
        find(api, "b12000")
    assert caught.value.fields["kind"] == "no programs"


@pytest.mark.parametrize("pointer", [b"", b"../../etc", b"b11312; rm -rf", b"\xff\xfe"])
def test_a_pointer_that_points_nowhere(api: FakeReleaseApi, pointer: bytes) -> None:
    api.publish("v0.6.0", {"nightly-tag.txt": pointer}, prerelease=False)
    with pytest.raises(DownloadFailed) as caught:
        find(api, "latest-stable")
    assert caught.value.fields["kind"] == "unreadable"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("404", "not found"),
        ("rate limit", "rate limit"),
        ("server error", "server"),
        ("silent", "stalled"),
        ("slow", "stalled"),
        ("garbage", "unreadable"),
        ("redirect loop", "redirects"),
    ],
)
def test_each_fault_of_the_api_is_named(api: FakeReleaseApi, fault: Any, kind: str) -> None:
    api.fail(f"tags/{TAG}", Fault(fault))
    started = time.monotonic()
    with pytest.raises(DownloadFailed) as caught:
        find(api, patience=0.5 if kind == "stalled" else 60.0)
    assert time.monotonic() - started < 15
    assert caught.value.fields["kind"] == kind
    assert caught.value.fix
    if kind == "rate limit":
        assert time.time() + 1700 < caught.value.fields["resets_at"] < time.time() + 1900  # type: ignore[operator]
        assert "GITHUB_TOKEN" in caught.value.fix


def test_nobody_there() -> None:
    with pytest.raises(DownloadFailed) as caught:
        find_release(TAG, api="http://127.0.0.1:9", allow_http_loopback=True)
    assert caught.value.fields["kind"] == "unreachable"
    assert "--from source" in caught.value.fix


@pytest.mark.parametrize(
    "listing",
    [
        *([], "x", None, {}, {"tag_name": TAG}, {"tag_name": 3, "assets": []}, {"tag_name": "../x", "assets": []}),
        {
            "tag_name": TAG,
            "assets": [1, {}, {"name": None}, {"name": "../../x.zip"}, {"name": "a\\b.zip"}, {"name": "a" * 300}],
        },
    ],
)
def test_a_listing_of_nonsense_is_refused_or_empty(listing: object) -> None:
    own = _release_find._Api("https://x.example", False, 1.0)
    try:
        assert own._release("https://x.example", listing)[1] == ()
    except DownloadFailed as error:
        assert error.fields["kind"] == "unreadable"


def test_uploads_that_are_not_done_do_not_count() -> None:
    own = _release_find._Api("https://x.example", False, 1.0)
    listed = [
        {"name": NAME, "state": "starter", "size": 0},
        {"name": "good.zip", "state": "uploaded", "digest": "md5:x"},
    ]
    (asset,) = own._release("", {"tag_name": TAG, "assets": listed})[1]
    assert (asset.name, asset.sha256, asset.size_bytes) == ("good.zip", None, None)


def test_a_token_goes_to_the_api_and_nowhere_else(api: FakeReleaseApi, tmp_path: Path) -> None:
    api.publish_stable("v0.6.0", TAG)
    assert find(api, "latest-stable", token="secret-token")[0] == TAG
    get(api, tmp_path)
    asked = [request for request in api.requests if request.path.startswith("/repos/")]
    assert len(asked) == 2
    assert all(request.headers["authorization"] == "Bearer secret-token" for request in asked)
    others = [request for request in api.requests if not request.path.startswith("/repos/")]
    assert len(others) >= 4
    assert not any("authorization" in request.headers for request in others)


def test_a_token_stays_behind_when_the_api_leads_elsewhere(api: FakeReleaseApi) -> None:
    api.fail(f"tags/{TAG}", Fault("redirect away", times=1))
    assert find(api, token="secret-token")[0] == TAG
    first, second = api.requests
    assert first.headers["authorization"] == "Bearer secret-token"
    assert first.headers["host"] != second.headers["host"]
    assert "secret-token" not in str(second.headers)


# ---- mirrors


def test_a_mirrors_digests_prove_nothing(api: FakeReleaseApi) -> None:
    api.publish("b11400", {"llama-b11400-bin-ubuntu-x64.tar.gz": CONTENT})
    _, (asset,) = find(api, "b11400", mirror=api.base_url, token="mine")
    assert (asset.sha256, asset.claimed_sha256) == (None, SHA256)
    assert asset.url == f"{api.base_url}/download/b11400/{asset.name}"
    assert not any("authorization" in request.headers for request in api.requests)


def test_a_mirror_is_held_against_the_table(
    api: FakeReleaseApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_release_find, "_pins", lambda: {TAG: {NAME: "ab" * 32}})
    tag, assets = find(api, mirror=api.base_url)
    build = resolve(assets, tag=tag, system="Linux", architecture="x86_64", backend="cpu")
    assert build.asset.sha256 == "ab" * 32
    with pytest.raises(ChecksumMismatch) as caught:
        fetch_release(build, tmp_path, allow_http_loopback=True)
    assert caught.value.fields["found"] == SHA256
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "mirror",
    [
        *(
            "http://mirror.example/x",
            "ftp://mirror.example",
            "mirror.example",
            "https://",
            "https://u:secret@mirror.example",
        ),
        *("file:///etc", "https://mirror.example/?token=secret", "https://[::1", "http://127.0.0.1.example.org"),
    ],
)
def test_what_is_no_mirror(mirror: str) -> None:
    with pytest.raises(BadInput) as caught:
        find_release(TAG, mirror=mirror, allow_http_loopback=True)
    assert "secret" not in str(caught.value)


def test_plain_http_needs_the_flag_even_here(api: FakeReleaseApi, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        find_release(TAG, mirror=api.base_url)
    with pytest.raises(DownloadFailed) as caught:
        fetch_file(Order(f"{api.base_url}/download/{TAG}/{NAME}", tmp_path / NAME))
    assert caught.value.fields["kind"] == "not encrypted"
    assert api.requests == []


def test_addresses_are_shown_without_their_secrets() -> None:
    assert shown("https://u:p@host:8443/a/b?signature=x#y") == "https://host:8443/a/b"
    assert check_address("https://host/x/", field="The mirror", allow_http_loopback=False) == "https://host/x"


def test_every_pin_is_a_hash_of_a_file_of_its_release() -> None:
    for tag, names in _release_find._pins().items():
        for name, digest in names.items():
            assert name.startswith((f"llama-{tag}-", "cudart-llama-"))
            assert len(digest) == 64
            assert set(digest) <= set("0123456789abcdef")


# ---- one file


def test_a_file_arrives(api: FakeReleaseApi, tmp_path: Path) -> None:
    seen: list[Progress] = []
    found = get(api, tmp_path, sha256=SHA256, report=seen.append)
    assert (found.sha256, found.size_bytes, found.verified, found.continued_bytes) == (SHA256, len(CONTENT), True, 0)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]
    assert seen[-1].finished
    assert seen[-1].fraction == 1.0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("404"), "not found"),
        (Fault("rate limit"), "rate limit"),
        (Fault("server error"), "server"),
        (Fault("stall", after=5000), "stalled"),
        (Fault("silent"), "stalled"),
        (Fault("slow"), "stalled"),
        (Fault("truncated", after=0), "cut"),
        (Fault("redirect loop"), "redirects"),
        (Fault("leads to http"), "not encrypted"),
        (Fault("web page"), "web page"),
        (Fault("compressed"), "encoded"),
        (Fault("wrong bytes"), "wrong digest"),
        (Fault("too long"), "bad range"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_each_fault_of_a_file_is_named(api: FakeReleaseApi, tmp_path: Path, fault: Fault, kind: str) -> None:
    api.fail(NAME, fault)
    started = time.monotonic()
    stall = {"stall_seconds": 0.5} if kind == "stalled" else {}
    with pytest.raises(DownloadFailed) as caught:
        get(api, tmp_path, sha256=SHA256, size_bytes=len(CONTENT), attempts=2, **stall)
    assert time.monotonic() - started < 15
    assert caught.value.fields["kind"] == kind
    assert caught.value.fix
    assert "signature" not in str(caught.value)
    assert NAME not in left(tmp_path)
    api.fail(NAME, None)
    assert get(api, tmp_path, sha256=SHA256).sha256 == SHA256
    assert left(tmp_path) == [NAME]


# ---- a whole release, from the real build


@pytest.fixture(scope="module")
def packed(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The real build in each era's layout."""
    folder = tmp_path_factory.mktemp("packed")
    layouts = {
        "llama-b4315-bin-ubuntu-x64.zip": "build/bin zip",
        "llama-b6000-bin-ubuntu-x64.zip": "flat zip",
        NAME: "tar.gz",
    }
    made = {name: pack_release(runtime.folder, folder / name, layout) for name, layout in layouts.items()}  # type: ignore[arg-type]
    name = f"llama-{TAG}-bin-ubuntu-cuda-12.8-x64.tar.gz"
    made[name] = shutil.copy(made[NAME], folder / name)
    name = f"cudart-llama-{TAG}-bin-ubuntu-cuda-12.8-x64.tar.gz"
    made[name] = pack_companion(folder / name, {"libcudart.so.12": b"\x7fELF dummy", "LICENSE": b"text"})
    return made


def fetch(api: FakeReleaseApi, tag: str, folder: Path, backend: str = "cpu", **options: Any) -> FetchedRelease:
    found, assets = find(api, tag, **options)
    build = resolve(assets, tag=found, system="Linux", architecture="x86_64", backend=backend)
    return fetch_release(build, folder, stall_seconds=60.0, pause_seconds=0.01, allow_http_loopback=True)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "inside"),
    [("llama-b4315-bin-ubuntu-x64.zip", "build/bin"), ("llama-b6000-bin-ubuntu-x64.zip", ""), (NAME, f"llama-{TAG}")],
)
def test_each_eras_archive_gives_a_server_that_runs(
    packed: dict[str, Path], runtime: Runtime, tmp_path: Path, name: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_release_find, "_pins", dict)
    tag = name.split("-")[1]
    with FakeReleaseApi() as api:
        api.publish(tag, {name: packed[name]})
        found = fetch(api, tag, tmp_path)
    assert str(found.folder).endswith(inside or "release-b6000-cpu")
    assert found.verified
    assert found.sha256 == {name: hashlib.sha256(packed[name].read_bytes()).hexdigest()}
    done = subprocess.run([found.folder / "llama-server", "--version"], capture_output=True, text=True, check=True)
    assert "build 11312" in done.stderr
    for path in runtime.folder.iterdir():
        if path.name != "manifest.json":
            assert (found.folder / path.name).read_bytes() == path.read_bytes()
            assert os.access(found.folder / path.name, os.X_OK) or ".so" in path.name
    links = [path for path in found.folder.iterdir() if path.is_symlink()]
    assert bool(links) == name.endswith(".tar.gz")
    assert all(link.resolve().is_file() and not os.path.isabs(os.readlink(link)) for link in links)


@pytest.mark.real
def test_the_companions_libraries_lie_beside_the_programs(
    packed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_release_find, "_pins", dict)
    with FakeReleaseApi() as api:
        api.publish(TAG, {name: path for name, path in packed.items() if "cuda" in name}, digests=False)
        found = fetch(api, TAG, tmp_path, "cuda")
        assert (found.folder / "libcudart.so.12").read_bytes() == b"\x7fELF dummy"
        assert not (found.folder / "LICENSE").exists()
        assert not found.verified
        assert set(found.unverified) == set(found.sha256) == {name for name in packed if "cuda" in name}
        served = sum(api.served_bytes(name) for name in packed)
        again = fetch(api, TAG, tmp_path, "cuda")
        assert again == found
        assert sum(api.served_bytes(name) for name in packed) == 2 * served, (
            "without a hash to check it is fetched again"
        )


@pytest.mark.parametrize(
    ("libraries", "reason"),
    [({"README": b"x"}, "no libraries"), ({"libllama.so": b"evil"}, "another one"), ({}, "no libraries")],
)
def test_a_companion_may_replace_nothing(tmp_path: Path, libraries: dict[str, bytes], reason: str) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("llama-server", "libllama.so"):
        (programs / name).write_bytes(b"\x7fELF")
    main = f"llama-{TAG}-bin-ubuntu-cuda-12.8-x64.tar.gz"
    companion = f"cudart-llama-{TAG}-bin-ubuntu-cuda-12.8-x64.tar.gz"
    with FakeReleaseApi() as api:
        files = {main: pack_release(programs, tmp_path / main, "tar.gz")}
        files[companion] = pack_companion(tmp_path / companion, libraries)
        api.publish(TAG, files)
        with pytest.raises(DownloadFailed, match=reason) as caught:
            fetch(api, TAG, tmp_path / "work", "cuda")
    assert caught.value.fields["kind"] == "unfit archive"


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b rest", b"PK\x03\x04 rest", CONTENT[:1000]])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_release_find, "_pins", dict)
    with FakeReleaseApi() as api:
        api.publish(TAG, {NAME: content})
        with pytest.raises(DownloadFailed) as caught:
            fetch(api, TAG, tmp_path)
    assert caught.value.fields["kind"] == "damaged archive"
    assert not isinstance(caught.value, ArchiveUnsafe)
    assert left(tmp_path) == [NAME]


def test_programs_of_another_system_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_release_find, "_pins", dict)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "llama-server.exe").write_bytes(b"MZ")
    with FakeReleaseApi() as api:
        api.publish(TAG, {NAME: pack_release(programs, tmp_path / "x.tar.gz", "tar.gz")})
        with pytest.raises(SetupError, match="programs for Windows"):
            fetch(api, TAG, tmp_path / "work")
