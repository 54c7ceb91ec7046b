"""Releases: fetched, tried, switched to; what fails is rejected by name, the ladder followed, and the old one keeps working."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import REJECTED, fake_programs

from noa_lab import runtime as room
from noa_lab.errors import DownloadFailed, ToolMissing
from noa_lab.events import Progress
from noa_lab.runtime import Runtime, _install_release, _install_source, _store, machine
from noa_lab.runtime._backends import Choice, Gpu
from noa_lab.runtime._release import Asset, FetchedRelease, ReleaseBuild

X86 = pytest.mark.skipif(machine().architecture != "x86_64", reason="the ladder has two rungs on x86-64")


def install(shop: SimpleNamespace, **options: object) -> Runtime:
    return room.install(shop.home, model=shop.model, **options)


def whole(runtime: Runtime) -> bool:
    return _store.hash_files(runtime.folder, runtime.files) == runtime.files


NVIDIA = Choice(
    "cuda",
    "cuda: RTX 4090 (driver 580.65 runs CUDA 13)",
    (Gpu("cuda", "RTX 4090", "580.65", why="driver 580.65 runs CUDA 13", compute_capability=8.9),),
)


def test_a_gpu_whose_release_cannot_be_reached_ends_at_the_cpu_build_and_says_so(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.choice = NVIDIA

    def unreachable(*args: object, **options: object) -> None:
        raise DownloadFailed("api.github.com cannot be reached.", fix="x", source="x", reason="no route to host")

    monkeypatch.setattr(_install_release, "find_release", unreachable)
    seen: list[Progress] = []
    found = install(workshop, report=seen.append)
    assert found.backend == "cpu"
    assert "no route to host" in found.notes[0]
    assert "noa-lab install --from source --backend cuda" in found.notes[0]
    assert any("RTX 4090" in report.message for report in seen)
    assert install(workshop).notes == ()


@pytest.fixture
def releases(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Releases that are listed and fetched without a network: faults by asset name, devices by asset name."""
    names = ["ubuntu-x64.tar.gz", "ubuntu-arm64.tar.gz", "ubuntu-vulkan-x64.tar.gz", "ubuntu-cuda-12.8-x64.tar.gz"]
    state = SimpleNamespace(
        names=[*names, "ubuntu-cuda-13.4-x64.tar.gz", "macos-arm64.tar.gz"], faults={}, devices={}, fetched=[]
    )

    def find(tag: str, **options: object) -> tuple[str, tuple[Asset, ...]]:
        number = {"latest-nightly": "b11500", "latest-stable": "b11400"}.get(tag, tag)
        files = [f"llama-{number}-bin-{name}" for name in state.names]
        return number, tuple(Asset(name, f"https://example.org/{number}/{name}", sha256="0" * 64) for name in files)

    def fetch(build: ReleaseBuild, into: Path, **options: object) -> FetchedRelease:
        state.fetched.append(build.asset.name)
        key = build.variant or build.backend
        fault = state.faults.get(key, "")
        if fault == "unreachable":
            raise DownloadFailed("It did not arrive.", fix="Again.", source=build.asset.url, reason="cut off")
        folder = fake_programs(
            into / f"llama-{build.tag}", fault, build=int(build.tag[1:]), devices=state.devices.get(key, ())
        )
        return FetchedRelease(folder, {build.asset.name: "0" * 64}, verified=True, unverified=(), urls={})

    monkeypatch.setattr(_install_release, "find_release", find)
    monkeypatch.setattr(_install_release, "fetch_release", fetch)
    monkeypatch.setattr(_install_release, "architecture", lambda: "x86_64")
    here = machine()
    monkeypatch.setattr(
        _install_release, "machine", lambda: SimpleNamespace(system="Linux", features=here.features, cores=here.cores)
    )
    return state


def test_a_release_is_fetched_tried_and_used(workshop: SimpleNamespace, releases: SimpleNamespace) -> None:
    pinned = install(workshop)
    found = install(workshop, source="release", tag="b11500")
    assert (found.source, found.tag, found.build_number, found.backend) == ("release", "b11500", 11500, "cpu")
    assert found.verified is True
    assert found.url == "https://example.org/b11500/llama-b11500-bin-ubuntu-x64.tar.gz"
    assert found.digests == {"llama-b11500-bin-ubuntu-x64.tar.gz": "0" * 64}
    assert whole(found)
    assert room.embedded(workshop.home) == pinned
    assert list(workshop.home.downloads.iterdir()) == []


def test_a_release_that_is_here_needs_no_network(
    workshop: SimpleNamespace, releases: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(workshop)
    first = install(workshop, tag="b11500")
    install(workshop, tag="b11400")
    monkeypatch.setattr(_install_release, "find_release", None)
    started = time.thread_time()
    assert install(workshop, tag="b11500") == first
    assert time.thread_time() - started < 1
    assert room.rollback(workshop.home).tag == "b11400"


def test_the_newest_that_is_here_is_not_fetched_again(workshop: SimpleNamespace, releases: SimpleNamespace) -> None:
    install(workshop, tag="b11500")
    assert install(workshop, tag="latest-nightly").tag == "b11500"
    assert len(releases.fetched) == 1


@X86
def test_a_gpus_build_that_sees_no_gpu_is_rejected_and_the_cpu_build_taken(
    workshop: SimpleNamespace, releases: SimpleNamespace
) -> None:
    install(workshop)
    found = install(workshop, source="release", backend="cuda")
    assert (found.source, found.backend) == ("release", "cpu")
    assert "sees no such device" in found.notes[0]
    assert releases.fetched == ["llama-b11312-bin-ubuntu-cuda-12.8-x64.tar.gz", "llama-b11312-bin-ubuntu-x64.tar.gz"]


def test_the_driver_chooses_the_toolkit(workshop: SimpleNamespace, releases: SimpleNamespace) -> None:
    workshop.choice = NVIDIA
    releases.devices["cuda-13.4"] = ("CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB)",)
    found = install(workshop, source="release")
    assert (found.backend, found.flags) == ("cuda", ("cuda-13.4",))
    assert room.embedded(workshop.home).backend == "cpu"


def test_with_a_gpu_a_fresh_machine_gets_the_release_for_it(
    workshop: SimpleNamespace, releases: SimpleNamespace
) -> None:
    workshop.choice = NVIDIA
    releases.devices["cuda-13.4"] = ("CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB)",)
    found = install(workshop)
    assert (found.source, found.backend, found.tag) == ("release", "cuda", "b11312")
    assert room.embedded(workshop.home).source == "sdist"
    assert install(workshop) == found


@pytest.mark.parametrize("fault", REJECTED)
def test_a_release_that_fails_is_rejected_by_name_and_the_ladder_followed(
    workshop: SimpleNamespace, releases: SimpleNamespace, fault: str, impatient: None
) -> None:
    old = install(workshop)
    releases.faults["vulkan"] = fault
    releases.faults["cpu"] = "illegal instruction"
    found = install(workshop, source="release", backend="vulkan")
    assert found == old == room.current(workshop.home)
    assert [REJECTED[fault] in found.notes[0], "SIGILL" in found.notes[1]] == [True, True]
    assert len(releases.fetched) == 2
    assert [path.name for path in workshop.home.runtimes.iterdir() if path.is_dir()] == [old.id]


def test_a_release_that_calls_itself_another_is_rejected(workshop: SimpleNamespace, releases: SimpleNamespace) -> None:
    install(workshop)
    releases.faults["cpu"] = "old version"
    found = install(workshop, tag="b11500")
    assert found.source == "sdist"
    assert "it calls itself build 4315" in found.notes[0]


def test_a_download_that_fails_is_an_error_and_the_old_one_stays(
    workshop: SimpleNamespace, releases: SimpleNamespace
) -> None:
    old = install(workshop)
    releases.faults["cpu"] = "unreachable"
    with pytest.raises(DownloadFailed):
        install(workshop, tag="b11500")
    assert room.current(workshop.home) == old


def test_without_a_compiler_a_release_is_all_that_is_needed(
    workshop: SimpleNamespace, releases: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ToolMissing("There is no C++ compiler on this machine.", fix="Install one.", tool="c++")

    monkeypatch.setattr(_install_source, "find_toolchain", missing)
    found = install(workshop, tag="b11500")
    assert found.tag == "b11500"
    assert "EmbeddedEngine does not work" in found.notes[0]
    # The bindings' own commit serves them too.
    found = install(workshop)
    assert found.tag == "b11500"
    found = install(workshop, tag="b11312")
    assert found.tag == "b11312"
    assert room.embedded(workshop.home) == found
    assert (workshop.package / "libllama.so").exists()


def test_a_fresh_machine_without_a_compiler_gets_the_release(
    workshop: SimpleNamespace, releases: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ToolMissing("There is no C++ compiler on this machine.", fix="Install one.", tool="c++")

    monkeypatch.setattr(_install_source, "find_toolchain", missing)
    assert install(workshop).source == "release"
    shutil.rmtree(workshop.home.root)
    releases.faults["cpu"] = "unreachable"
    with pytest.raises(ToolMissing):
        install(workshop)


def test_a_backend_by_name_prefers_what_is_here(workshop: SimpleNamespace, releases: SimpleNamespace) -> None:
    releases.devices["vulkan"] = ("Vulkan0: AMD Radeon 780M (RADV PHOENIX) (16384 MiB)",)
    pinned = install(workshop)
    first = install(workshop, backend="vulkan")
    assert (first.source, first.backend) == ("release", "vulkan")
    assert install(workshop, backend="cpu") == pinned
    assert install(workshop, backend="vulkan") == first
    assert len(releases.fetched) == 1
