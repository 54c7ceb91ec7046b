"""Models from a hub: a local one that huggingface_hub itself is pointed at, and the cache that all its tools share."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, try_to_load_from_cache
from model_rig import entry, litter, random_model, split_model, write_model

from noa_lab import models
from noa_lab.errors import ChecksumMismatch, DiskFull, DownloadFailed, NoaLabError, UnknownModel
from noa_lab.events import CancelToken, Progress
from noa_lab.models._arrived import SPARE_BYTES
from noa_lab.paths import Home
from noa_lab.testing import FakeHub, FileFault

REPO = "owner/tiny-GGUF"
FILE = "Tiny.F32.gguf"
REF = f"hf://{REPO}/{FILE}"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return random_model(tmp_path_factory.mktemp("big") / "x.gguf", 3_500_000)


@pytest.fixture
def pushed(hub: FakeHub, big: bytes) -> FakeHub:
    hub.push(REPO, {FILE: big, "README.md": b"a model"})
    return hub


def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--owner--tiny-GGUF"


def leftovers(tmp_path: Path) -> list[str]:
    """What is in the cache beside blobs, links, references and locks."""
    blobs = cache(tmp_path) / "blobs"
    return [path.name for path in blobs.iterdir() if len(path.name) not in (40, 64)] if blobs.is_dir() else []


# ---- getting one


@pytest.mark.parametrize("ref", [REF, f"{REPO}:F32", f"{REPO}:f32", f"hf://{REPO}@main/{FILE}"])
def test_a_model_from_the_hub(own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path, ref: str) -> None:
    seen: list[Progress] = []
    found = models.fetch(ref, own_home, report=seen.append)
    assert found.path.read_bytes() == big
    assert found.path == own_home.models / FILE
    assert found.path.resolve() == cache(tmp_path) / "blobs" / found.sha256
    assert (found.name, found.verified, found.source) == ("Tiny.F32", True, ref)
    assert pushed.sent(big) == len(big)
    assert any(progress.finished and progress.fraction == 1.0 for progress in seen)
    assert litter(own_home) == []
    assert leftovers(tmp_path) == []
    asked = len(pushed.requests)
    assert models.find(ref, own_home) == found == models.fetch(ref, own_home)
    assert len(pushed.requests) == asked


def test_other_tools_find_it_and_do_not_fetch_it_again(
    own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path
) -> None:
    models.fetch(REF, own_home)
    sent = pushed.sent(big)
    place = try_to_load_from_cache(REPO, FILE, cache_dir=constants.HF_HUB_CACHE)
    assert isinstance(place, str)
    assert Path(place).read_bytes() == big
    assert hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE) == place
    assert hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE, local_files_only=True) == place
    assert pushed.sent(big) == sent
    scanned = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not scanned.warnings
    (repo,) = scanned.repos
    assert (repo.repo_id, repo.size_on_disk, set(repo.refs)) == (REPO, len(big), {"main"})


def test_what_another_tool_has_fetched_is_linked(own_home: Home, pushed: FakeHub, big: bytes) -> None:
    hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE)
    sent = pushed.sent(big)
    found = models.fetch(REF, own_home)
    assert found.verified
    assert found.path.read_bytes() == big
    assert pushed.sent(big) == sent


def test_a_scan_of_the_cache_finds_nothing_amiss_meanwhile(own_home: Home, pushed: FakeHub, big: bytes) -> None:
    pushed.fail(big, FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(REF, own_home)
    assert not scan_cache_dir(constants.HF_HUB_CACHE).warnings


def test_a_damaged_file_in_the_cache_is_refused_and_left_alone(own_home: Home, pushed: FakeHub, big: bytes) -> None:
    place = Path(hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE)).resolve()
    place.write_bytes(big[:-1] + b"\x00")
    with pytest.raises(ChecksumMismatch) as caught:
        models.fetch(REF, own_home)
    assert str(place) in caught.value.fix
    assert place.exists()
    assert models.installed(own_home) == []


def test_what_was_cut_is_continued(own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path) -> None:
    pushed.fail(big, FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(REF, own_home)
    (left,) = models.unfinished(own_home)
    assert (left.source, left.total_bytes) == (REF, len(big))
    assert left.here_bytes >= 2**20
    pushed.fail(big)
    before = pushed.asked(big)
    assert models.fetch(REF, own_home).path.read_bytes() == big
    assert pushed.asked(big) - before == len(big) - left.here_bytes
    assert models.unfinished(own_home) == []
    assert leftovers(tmp_path) == litter(own_home) == []


def test_what_was_cut_can_be_thrown_away(own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path) -> None:
    pushed.fail(big, FileFault("drop", first=1, times=99, after=50_000))
    with pytest.raises(DownloadFailed):
        models.fetch(REF, own_home)
    assert models.discard_unfinished(REF, own_home) >= 2**20
    assert leftovers(tmp_path) == litter(own_home) == []


# ---- revisions


def test_a_revision_is_pinned(own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path) -> None:
    other = random_model(tmp_path / "other.gguf", 2_000_000, seed=2)
    old = pushed.push(REPO, {FILE: big})
    pushed.push(REPO, {FILE: other})
    pushed.push(REPO, {FILE: other}, branch="v2")
    assert models.fetch(f"hf://{REPO}@{old}/{FILE}", own_home).path.read_bytes() == big
    assert models.fetch(f"hf://{REPO}@v2/{FILE}", own_home).path.read_bytes() == other
    assert len(models.installed(own_home)) == 2


def test_a_file_that_was_replaced_upstream_is_noticed_before_it_is_fetched(
    own_home: Home, pushed: FakeHub, tmp_path: Path
) -> None:
    first = models.fetch(REF, own_home)
    first.path.unlink()
    other = random_model(tmp_path / "other.gguf", 2_000_000, seed=2)
    pushed.push(REPO, {FILE: other})
    with pytest.raises(ChecksumMismatch, match="It was version [0-9a-f]{40}"):
        models.fetch(REF, own_home)
    assert pushed.sent(other) == 0


def test_a_catalogues_hash_is_held_against_the_hubs_before_the_first_byte(
    own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path
) -> None:
    entry(tmp_path, REF, sha256="0" * 64)
    with pytest.raises(ChecksumMismatch):
        models.fetch("tiny", own_home)
    assert pushed.sent(big) == 0
    entry(tmp_path, REF, sha256=hashlib.sha256(big).hexdigest())
    assert models.fetch("tiny", own_home).verified


def test_a_known_hash_that_is_in_the_cache_needs_no_hub(
    own_home: Home, pushed: FakeHub, big: bytes, tmp_path: Path
) -> None:
    hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE)
    entry(tmp_path, REF, sha256=hashlib.sha256(big).hexdigest())
    pushed.fault = "down"
    asked = len(pushed.requests)
    assert models.fetch("tiny", own_home).verified
    assert len(pushed.requests) == asked


# ---- split models, small files


def test_a_split_model_is_one_model(own_home: Home, hub: FakeHub, tmp_path: Path) -> None:
    files = split_model(tmp_path / "split", 1_200_000)
    names = list(files)
    hub.push(REPO, {f"sub/{name}": data for name, data in files.items()})
    seen: list[Progress] = []
    found = models.fetch(f"{REPO}:F32", own_home, report=seen.append)
    assert [path.name for path in found.files] == names
    assert [path.read_bytes() for path in found.files] == list(files.values())
    assert found.path == own_home.models / "Big.F32" / names[0]
    assert found.metadata.tensors == 3
    assert found.verified
    assert found.size_bytes == sum(map(len, files.values()))
    assert {progress.total for progress in seen if progress.total} == {found.size_bytes}
    assert models.installed(own_home) == [found]
    assert models.find("Big.F32", own_home) == found == models.verify(found)
    # By any of its parts, too.
    assert models.fetch(f"hf://{REPO}/sub/{names[1]}", own_home).sha256 == found.sha256


def test_a_split_model_shows_up_only_whole(own_home: Home, hub: FakeHub, tmp_path: Path) -> None:
    files = split_model(tmp_path / "split", 1_200_000)
    hub.push(REPO, files)
    last = list(files.values())[2]
    hub.fail(last, FileFault("404", times=99))
    with pytest.raises(DownloadFailed):
        models.fetch(f"{REPO}:F32", own_home)
    assert models.installed(own_home) == []
    assert list(own_home.models.glob("*.gguf")) == []
    hub.fail(last)
    sent = [hub.sent(data) for data in files.values()][:2]
    assert models.fetch(f"{REPO}:F32", own_home).verified
    assert [hub.sent(data) for data in files.values()][:2] == sent


def test_a_split_model_that_changed_is_not_the_model_any_more(own_home: Home, hub: FakeHub, tmp_path: Path) -> None:
    files = split_model(tmp_path / "split", 100_000)
    hub.push(REPO, files)
    found = models.fetch(f"{REPO}:F32", own_home)
    part = found.files[1].resolve()
    part.write_bytes(part.read_bytes()[:-1] + b"\x00")
    os.utime(part, ns=(1, 1))
    assert models.find(f"{REPO}:F32", own_home) is None
    with pytest.raises(ChecksumMismatch, match="00002-of-00003"):
        models.verify(found)


def test_a_small_file_is_known_by_gits_hash(own_home: Home, hub: FakeHub, tmp_path: Path) -> None:
    small = write_model(tmp_path / "small.gguf")
    assert len(small) < 1000
    hub.push(REPO, {FILE: small})
    found = models.fetch(REF, own_home)
    assert (found.path.read_bytes(), found.verified) == (small, False)
    assert found.path.resolve().name == hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest()


def test_room_for_all_parts_is_asked_for_before_the_first(
    own_home: Home, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = split_model(tmp_path / "split", 1_200_000)
    hub.push(REPO, files)
    usage = shutil.disk_usage("/")._replace(free=SPARE_BYTES + 2_500_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DiskFull, match="are needed") as caught:
            models.fetch(f"{REPO}:F32", own_home)
    assert caught.value.fields["needed_bytes"] == sum(map(len, files.values())) + SPARE_BYTES
    assert "HF_HOME" in caught.value.fix, "that is where the bytes go"
    assert hub.storage.requests == []
    assert models.fetch(f"{REPO}:F32", own_home).verified


# ---- names that lead elsewhere


@pytest.mark.parametrize("file", ["../../x.gguf", "a/../../x.gguf", "..\\x.gguf", "/etc/x.gguf"])
def test_a_hostile_name_stays_in_the_cache(own_home: Home, hub: FakeHub, big: bytes, tmp_path: Path, file: str) -> None:
    hub.push(REPO, {file: big})
    before = sorted(path for path in tmp_path.rglob("*") if path.suffix == ".gguf")
    with pytest.raises(NoaLabError):
        models.fetch(f"{REPO}:x", own_home)
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix == ".gguf") == before


# ---- who may have it


def test_a_token_goes_to_the_hub_and_never_to_the_storage(
    own_home: Home, pushed: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", pushed.token)
    models.fetch(REF, own_home)
    assert all(request.headers["authorization"] == "Bearer hf_secret" for request in pushed.requests)
    assert pushed.storage.requests
    assert not any("authorization" in request.headers for request in pushed.storage.requests)
    assert not any("hf_secret" in path.read_text() for path in own_home.models.rglob("*.json"))


def test_a_gated_model_names_the_page(
    own_home: Home, hub: FakeHub, big: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(REPO, {FILE: big}, gated=True)
    for token in ("", hub.token):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(DownloadFailed) as caught:
            models.fetch(REF, own_home)
        assert caught.value.fields["kind"] == "gated"
        assert f"{hub.url}/{REPO}" in caught.value.fix
    hub.accept()
    assert models.fetch(REF, own_home).verified


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("hf://owner/none/x.gguf", "no repository"),
        (f"hf://{REPO}@v9/{FILE}", "no revision"),
        (f"hf://{REPO}/Tiny.F23.gguf", "no file"),
        (f"{REPO}:Q8_0", "no file"),
    ],
)
def test_what_is_not_on_the_hub(own_home: Home, pushed: FakeHub, ref: str, words: str) -> None:
    with pytest.raises(UnknownModel, match=words) as caught:
        models.fetch(ref, own_home)
    assert caught.value.fix
    assert litter(own_home) == []


def test_a_private_model_needs_the_token(
    own_home: Home, hub: FakeHub, big: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(REPO, {FILE: big}, private=True)
    with pytest.raises(UnknownModel, match="HF_TOKEN"):
        models.fetch(REF, own_home)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert models.fetch(REF, own_home).verified


# ---- a hub that is not there


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("down", "server"), ("busy", "rate limit"), ("nonsense", "unreachable"), ("no commit", "unreadable")],
)
def test_each_fault_of_the_hub_is_named(own_home: Home, pushed: FakeHub, fault: Any, kind: str) -> None:
    pushed.fault = fault
    with pytest.raises(DownloadFailed) as caught:
        models.fetch(REF, own_home)
    assert caught.value.fields["kind"] == kind
    assert litter(own_home) == []


def test_a_hub_that_is_busy_for_a_moment_is_waited_for(
    own_home: Home, pushed: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    seen: list[Progress] = []
    monkeypatch.setattr(CancelToken, "wait", lambda self, seconds: waited.append(seconds))
    pushed.fault = "down"
    with pytest.raises(DownloadFailed):
        models.fetch(REF, own_home, report=seen.append)
    assert waited == [0.5, 1.0]
    assert any("next attempt" in progress.message for progress in seen)


def test_a_repository_that_is_gone_leads_to_the_next_source(own_home: Home, pushed: FakeHub, tmp_path: Path) -> None:
    entry(tmp_path, "hf://owner/gone/x.gguf", f"hf://{REPO}/Renamed.gguf", REF)
    assert models.fetch("tiny", own_home).source == REF
    entry(tmp_path, "hf://owner/gone/x.gguf", "hf://owner/moved/x.gguf", file="Other.gguf")
    with pytest.raises(DownloadFailed, match="owner/gone.*owner/moved"):
        models.fetch("tiny", own_home)
    assert litter(own_home) == []


def test_without_a_hub_the_cache_is_used(own_home: Home, pushed: FakeHub, big: bytes) -> None:
    hf_hub_download(REPO, FILE, cache_dir=constants.HF_HUB_CACHE)
    pushed.close()
    assert models.fetch(REF, own_home).path.read_bytes() == big


def test_without_a_hub_it_ends_at_once_and_says_so(
    own_home: Home, pushed: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(CancelToken, "wait", lambda self, seconds: waited.append(seconds))
    pushed.close()
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        models.fetch(REF, own_home)
    assert waited == []


def test_offline_is_offline(own_home: Home, pushed: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE") as caught:
        models.fetch(REF, own_home)
    assert "Unset" in caught.value.fix
    assert pushed.requests == []


def test_a_hub_that_is_not_encrypted_gets_no_token(
    own_home: Home, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example.invalid")
    with pytest.raises(DownloadFailed) as caught:
        models.fetch(REF, own_home)
    assert caught.value.fields["kind"] == "not encrypted"


CHILD = """
import sys
from noa_lab import models
from noa_lab.paths import Home
print(models.fetch(sys.argv[1], Home.default()).path.resolve())
"""


def test_the_environment_is_respected(pushed: FakeHub, big: bytes, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE, in a process of its own as a user has it."""
    pushed.push(REPO, {FILE: big}, private=True)
    environment = os.environ | {
        "HF_ENDPOINT": pushed.url,
        "HF_HOME": str(tmp_path / "hf"),
        "NOA_LAB_HOME": str(tmp_path / "h"),
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CHILD, REF]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=120)

    offline = run(HF_HUB_OFFLINE="1", HF_TOKEN=pushed.token)
    assert offline.returncode != 0
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert pushed.requests == []
    done = run(HF_TOKEN=pushed.token)
    assert done.returncode == 0, done.stderr
    blob = Path(done.stdout.strip())
    assert blob.parent == tmp_path / "hf" / "hub" / "models--owner--tiny-GGUF" / "blobs"
    assert blob.read_bytes() == big


def test_the_version_of_huggingface_hub() -> None:
    """The layout of the cache and what the hub answers were looked up for this one."""
    assert huggingface_hub.__version__.startswith("2.")
