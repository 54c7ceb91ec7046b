"""Installing releases from a local server that imitates GitHub, faults included: the old runtime works after every one of them."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs

from noa_lab import runtime as room
from noa_lab.errors import Cancelled, DownloadFailed, NoaLabError
from noa_lab.events import CancelToken, Progress
from noa_lab.models import ModelFile
from noa_lab.runtime import Runtime, _install_release, _release_find, _store, machine, smoke_test
from noa_lab.runtime._wish import Wish
from noa_lab.testing import FakeReleaseApi, Fault, pack_release

pytestmark = pytest.mark.skipif(
    (machine().system, machine().architecture) != ("Linux", "x86_64"),
    reason="the archives are those for Linux on x86-64",
)


@pytest.fixture
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeReleaseApi]:
    """GitHub, for an installation that knows no better; where it goes silent, one that is impatient."""
    is_silent = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name") in SILENT
    patience = 1.0 if is_silent else 60.0
    with FakeReleaseApi() as server:

        def find(tag: str, **options: object) -> object:
            address = {} if options.get("mirror") else {"api": server.base_url}
            return _release_find.find_release(
                tag, **options | address | {"allow_http_loopback": True, "patience": patience}
            )

        fetch = functools.partial(_install_release.fetch_release, stall_seconds=patience, pause_seconds=0.01)
        monkeypatch.setattr(_install_release, "find_release", find)
        monkeypatch.setattr(
            _install_release,
            "fetch_release",
            lambda *args, **options: fetch(*args, **options | {"allow_http_loopback": True}),
        )
        # The table's digests are those of the real files.
        monkeypatch.setattr(_release_find, "_pins", dict)
        yield server


def install(shop: SimpleNamespace, **options: object) -> Runtime:
    return room.install(shop.home, model=shop.model, **options)


def packed(folder: Path, tag: str, *, fault: str = "", name: str = "ubuntu-x64.tar.gz") -> Path:
    programs = fake_programs(folder / tag / "programs", fault, build=int(tag[1:]))
    layout = "tar.gz" if name.endswith(".tar.gz") else "build/bin zip"
    return pack_release(programs, folder / tag / f"llama-{tag}-bin-{name}", layout, tag=tag)


def publish(api: FakeReleaseApi, archive: Path, **options: bool) -> None:
    tag = archive.parent.name
    api.publish(tag, {archive.name: archive}, **options)


@pytest.mark.parametrize(
    ("tag", "name", "digests"),
    [("b4315", "ubuntu-x64.zip", False), ("b6987", "ubuntu-x64.zip", True), ("b11500", "ubuntu-x64.tar.gz", True)],
)
def test_a_release_of_each_era_is_installed_and_left_again(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path, tag: str, name: str, digests: bool
) -> None:
    pinned = install(workshop)
    publish(api, packed(tmp_path, tag, name=name), digests=digests)
    found = install(workshop, tag=tag)
    assert (found.tag, found.build_number, found.source, found.verified) == (tag, int(tag[1:]), "release", digests)
    assert found.url.endswith(f"/{tag}/llama-{tag}-bin-{name}")
    assert _store.hash_files(found.folder) == found.files
    assert (found.folder / "libllama.so").exists()
    assert room.rollback(workshop.home) == pinned
    assert room.rollback(workshop.home) == found
    assert list(workshop.home.downloads.iterdir()) == []


def test_the_latest_stable_one_is_the_nightly_that_it_names(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path
) -> None:
    publish(api, packed(tmp_path, "b11400"))
    publish(api, packed(tmp_path, "b11500"))
    api.publish_stable("v0.6.0", "b11400")
    assert install(workshop, tag="latest-stable").tag == "b11400"
    assert install(workshop, tag="latest-nightly").tag == "b11500"
    assert [runtime.tag for runtime in room.runtimes(workshop.home)] == ["b11500", "b11312", "b11400"]


def test_a_mirror_is_not_believed_but_used(workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path) -> None:
    publish(api, packed(tmp_path, "b11500"))
    found = install(workshop, tag="b11500", mirror=api.base_url)
    assert found.verified is False
    assert list(found.digests) == ["llama-b11500-bin-ubuntu-x64.tar.gz"]


def test_a_token_of_the_users_goes_to_github_and_to_no_mirror(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
    publish(api, packed(tmp_path, "b11500"))
    install(workshop, tag="b11500")
    sent = {request.path: request.headers.get("authorization") for request in api.requests}
    assert [value for path, value in sent.items() if "/repos/" in path] == ["Bearer t0ken"]
    assert {value for path, value in sent.items() if "/repos/" not in path} == {None}
    publish(api, packed(tmp_path, "b11600"))
    before = len(api.requests)
    install(workshop, tag="b11600", mirror=api.base_url)
    assert {request.headers.get("authorization") for request in api.requests[before:]} == {None}


FAULTS = {
    "truncated": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("truncated", after=700)),
    "wrong bytes": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("wrong bytes")),
    "redirect loop": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("redirect loop")),
    "leads to http": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("leads to http")),
    "file 404": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("404")),
    "web page": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("web page")),
    "slow": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("slow", seconds=5)),
    "stall": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("stall", after=700, seconds=5)),
    "server error": ("llama-b11500-bin-ubuntu-x64.tar.gz", Fault("server error")),
    "release 404": ("tags/b11500", Fault("404")),
    "rate limit": ("tags/b11500", Fault("rate limit")),
    "silent": ("tags/b11500", Fault("silent", seconds=5)),
    "garbage": ("tags/b11500", Fault("garbage")),
}


SILENT = {"slow", "stall", "silent"}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_a_named_error_and_the_old_one_works(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path, name: str
) -> None:
    old = install(workshop)
    publish(api, packed(tmp_path, "b11500"))
    what, fault = FAULTS[name]
    api.fail(what, fault)
    with pytest.raises(DownloadFailed) as caught:
        install(workshop, tag="b11500")
    assert caught.value.fix
    assert room.current(workshop.home) == old == room.embedded(workshop.home)
    assert smoke_test(old.folder, workshop.model).build_number == 11312
    assert [path.name for path in workshop.home.runtimes.iterdir() if path.is_dir()] == [old.id]
    api.fail(what, None)
    assert install(workshop, tag="b11500").tag == "b11500"


def test_one_that_is_cut_off_twice_is_continued(workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path) -> None:
    archive = packed(tmp_path, "b11500")
    publish(api, archive)
    api.fail(archive.name, Fault("truncated", times=2, after=900))
    assert install(workshop, tag="b11500").verified is True
    assert api.served_bytes(archive.name) < 2 * archive.stat().st_size + 2000


def test_what_had_arrived_when_a_trial_was_cancelled_is_not_fetched_again(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path
) -> None:
    install(workshop)
    archive = packed(tmp_path, "b11500")
    publish(api, archive)
    token = CancelToken()

    def cancel_at_the_trial(report: Progress) -> None:
        if report.step == "Test llama.cpp":
            token.cancel()

    with pytest.raises(Cancelled):
        install(workshop, tag="b11500", report=cancel_at_the_trial, cancel=token)
    assert install(workshop, tag="b11500").tag == "b11500"
    assert api.served_bytes(archive.name) == archive.stat().st_size
    assert list(workshop.home.downloads.iterdir()) == []


@pytest.mark.parametrize(
    ("mirror", "here"),
    [
        (None, False),
        *((f"http://{host}", True) for host in ("127.0.0.1:8000/x", "localhost", "localhost/x", "[::1]:8000")),
        *((f"http://{host}", False) for host in ("localhost.example.org", "127.0.0.1.example.org", "10.0.0.1:80")),
        ("https://127.0.0.1:8000", False),
        ("http://[::1", False),
    ],
)
def test_only_a_mirror_on_this_machine_may_do_without_tls(mirror: str | None, here: bool) -> None:
    assert _install_release._is_loopback(Wish("release", mirror=mirror)) is here


@pytest.mark.parametrize("fault", ["illegal instruction", "library", "foreign version", "old version"])
def test_a_release_that_does_not_work_here_is_rejected_by_name(
    workshop: SimpleNamespace, api: FakeReleaseApi, tmp_path: Path, fault: str
) -> None:
    old = install(workshop)
    publish(api, packed(tmp_path, "b11500", fault=fault))
    found = install(workshop, tag="b11500")
    assert found == old == room.current(workshop.home)
    words = {
        "illegal instruction": "SIGILL",
        "library": "libcudart",
        "foreign version": "edition nine",
        "old version": "4315",
    }
    assert words[fault] in found.notes[0]


def test_nothing_answers(workshop: SimpleNamespace, api: FakeReleaseApi) -> None:
    old = install(workshop)
    api.close()
    started = time.monotonic()
    with pytest.raises(NoaLabError) as caught:
        install(workshop, tag="b11500")
    assert time.monotonic() - started < 20
    assert caught.value.fix
    assert room.current(workshop.home) == old


@pytest.mark.real
@pytest.mark.usefixtures("known_threads")
@pytest.mark.parametrize("layout", ["tar.gz", "build/bin zip"])
def test_the_real_build_as_a_release(
    workshop: SimpleNamespace, api: FakeReleaseApi, runtime: Runtime, model: ModelFile, tmp_path: Path, layout: str
) -> None:
    shutil.copytree(runtime.folder, workshop.home.runtimes / runtime.id, symlinks=True)
    _store.point(workshop.home, runtime)
    _store.switch(workshop.home, runtime)
    workshop.model = model.path
    name = f"llama-b11312-bin-ubuntu-x64.{'tar.gz' if layout == 'tar.gz' else 'zip'}"
    api.publish("b11312", {name: pack_release(runtime.folder, tmp_path / name, layout)})
    found = install(workshop, source="release")
    assert (found.source, found.tag, found.commit, found.verified) == ("release", "b11312", runtime.commit, True)
    assert room.current(workshop.home) == found
    assert room.embedded(workshop.home).id == runtime.id
    assert set(found.tools) == set(runtime.tools)
    assert (found.folder / "libllama.so").is_symlink() == (layout == "tar.gz")
    assert room.rollback(workshop.home).id == runtime.id
