"""Which file of a release is for which machine, over every era of names. The listings are reconstructed: see `release_assets.py`."""

from __future__ import annotations

import random
import re

import pytest
from release_assets import ERAS, assets

from noa_lab.errors import SetupError, UnknownName
from noa_lab.runtime._release import Asset, ReleaseBuild, canonical, resolve
from noa_lab.runtime._release_names import parse_companion, parse_program

SEED_URL = "https://github.com/ggerganov/llama.cpp/releases/download/b4315/llama-b4315-bin-win-cuda-cu12.2.0-x64.zip"
PLATFORMS = {
    "linux": ("Linux", "x86_64"),
    "linux-arm": ("Linux", "arm64"),
    "linux-z": ("Linux", "s390x"),
    "mac": ("Darwin", "arm64"),
    "mac-intel": ("Darwin", "x86_64"),
    "win": ("Windows", "x86_64"),
    "win-arm": ("Windows", "arm64"),
}
TABLE = """
b4315  linux     cpu              ubuntu-x64.zip
b4315  mac       metal            macos-arm64.zip
b4315  mac       cpu              macos-arm64.zip
b4315  mac-intel cpu              macos-x64.zip
b4315  win       cpu              win-avx2-x64.zip
b4315  win       avx512           win-avx512-x64.zip
b4315  win       noavx            win-noavx-x64.zip
b4315  win       cuda             win-cuda-cu11.7.1-x64.zip          cudart-llama-bin-win-cu11.7.1-x64.zip
b4315  win       cuda-12          win-cuda-cu12.2.0-x64.zip          cudart-llama-bin-win-cu12.2.0-x64.zip
b4315  win       cuda-12.2.0      win-cuda-cu12.2.0-x64.zip          cudart-llama-bin-win-cu12.2.0-x64.zip
b4315  win       cuda-cu12.2.0    win-cuda-cu12.2.0-x64.zip          cudart-llama-bin-win-cu12.2.0-x64.zip
b4315  win       vulkan           win-vulkan-x64.zip
b4315  win       sycl             win-sycl-x64.zip
b4315  win       kompute          win-kompute-x64.zip
b4315  win       openblas         win-openblas-x64.zip
b4315  win-arm   cpu              win-llvm-arm64.zip
b4315  win-arm   msvc             win-msvc-arm64.zip
b4585  win       cpu              win-avx2-x64.zip
b4585  win       cuda-12.4        win-cuda-cu12.4-x64.zip            cudart-llama-bin-win-cu12.4-x64.zip
b4585  win       hip              win-hip-x64-gfx1030.zip
b4585  win       rocm             win-hip-x64-gfx1030.zip
b5361  linux     cpu              ubuntu-x64.zip
b5361  linux     vulkan           ubuntu-vulkan-x64.zip
b5361  linux-arm cpu              ubuntu-arm64.zip
b5361  mac       metal            macos-arm64.zip
b5361  mac-intel cpu              macos-x64.zip
b5361  win       cpu              win-cpu-x64.zip
b5361  win       cuda             win-cuda-12.4-x64.zip              cudart-llama-bin-win-cuda-12.4-x64.zip
b5361  win       rocm-gfx1100     win-hip-x64-gfx1100.zip
b5361  win       hip-gfx1030      win-hip-x64-gfx1030.zip
b5361  win-arm   opencl           win-opencl-adreno-arm64.zip
b5361  win-arm   cpu              win-cpu-arm64.zip
b6000  linux     cpu              ubuntu-x64.zip
b6000  linux     vulkan           ubuntu-vulkan-x64.zip
b6000  win       rocm             win-hip-radeon-x64.zip
b6000  win       cuda             win-cuda-12.4-x64.zip              cudart-llama-bin-win-cuda-12.4-x64.zip
b7312  linux     cpu              ubuntu-x64.tar.gz
b7312  linux     vulkan           ubuntu-vulkan-x64.tar.gz
b7312  mac       metal            macos-arm64.tar.gz
b7312  mac-intel cpu              macos-x64.tar.gz
b7312  win       cuda             win-cuda-12.4-x64.zip              cudart-llama-bin-win-cuda-12.4-x64.zip
b7902  linux     cpu              ubuntu-x64.tar.gz
b7902  linux-z   cpu              ubuntu-s390x.tar.gz
b7902  win       cuda-13          win-cuda-13.1-x64.zip              cudart-llama-bin-win-cuda-13.1-x64.zip
b7902  win       hip-radeon       win-hip-radeon-x64.zip
b7902  win-arm   opencl-adreno    win-opencl-adreno-arm64.zip
b9000  mac       metal            macos-arm64.tar.gz
b9000  linux     cpu              ubuntu-x64.tar.gz
b10883 linux     cpu              ubuntu-x64.tar.gz
b10883 linux     rocm             ubuntu-rocm-10.0-x64.tar.gz
b10883 linux     openvino         ubuntu-openvino-2026.3.1-x64.tar.gz
b10883 win       cuda-13          win-cuda-13.3-x64.zip              cudart-llama-bin-win-cuda-13.3-x64.zip
b10883 win-arm   cuda             win-cuda-13.4-arm64.zip            cudart-llama-bin-win-cuda-13.4-arm64.zip
b11312 linux     cpu              ubuntu-x64.tar.gz
b11312 linux-arm cpu              ubuntu-arm64.tar.gz
b11312 linux-z   cpu              ubuntu-s390x.tar.gz
b11312 linux     vulkan           ubuntu-vulkan-x64.tar.gz
b11312 linux-arm vulkan           ubuntu-vulkan-arm64.tar.gz
b11312 linux     cuda             ubuntu-cuda-12.8-x64.tar.gz        cudart-llama-b11312-bin-ubuntu-cuda-12.8-x64.tar.gz
b11312 linux     cuda-13.4        ubuntu-cuda-13.4-x64.tar.gz        cudart-llama-b11312-bin-ubuntu-cuda-13.4-x64.tar.gz
b11312 linux-arm cuda             ubuntu-cuda-13.4-arm64.tar.gz      cudart-llama-b11312-bin-ubuntu-cuda-13.4-arm64.tar.gz
b11312 linux     rocm             ubuntu-rocm-10.0-x64.tar.gz
b11312 linux     hip              ubuntu-rocm-10.0-x64.tar.gz
b11312 linux     openvino         ubuntu-openvino-2026.4-x64.tar.gz
b11312 linux     sycl             ubuntu-sycl-fp32-x64.tar.gz
b11312 linux     sycl-fp16        ubuntu-sycl-fp16-x64.tar.gz
b11312 mac       metal            macos-arm64.tar.gz
b11312 mac       cpu              macos-arm64.tar.gz
b11312 mac-intel cpu              macos-x64.tar.gz
b11312 win       cpu              win-cpu-x64.zip
b11312 win-arm   cpu              win-cpu-arm64.zip
b11312 win       cuda             win-cuda-12.4-x64.zip              cudart-llama-bin-win-cuda-12.4-x64.zip
b11312 win       cuda-13          win-cuda-13.4-x64.zip              cudart-llama-bin-win-cuda-13.4-x64.zip
b11312 win-arm   cuda             win-cuda-13.4-arm64.zip            cudart-llama-bin-win-cuda-13.4-arm64.zip
b11312 win       vulkan           win-vulkan-x64.zip
b11312 win       rocm             win-rocm-10.0-x64.zip
b11312 win       sycl             win-sycl-x64.zip
b11312 win       openvino         win-openvino-2026.4-x64.zip
b11312 win-arm   opencl           win-opencl-adreno-arm64.zip
b11459 linux     cuda-12          ubuntu-cuda-12.8-x64.tar.gz        cudart-llama-b11459-bin-ubuntu-cuda-12.8-x64.tar.gz
b11459 win-arm   vulkan           win-vulkan-arm64.zip
b11459 linux     openvino-2026.4  ubuntu-openvino-2026.4.1-x64.tar.gz
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def choose(tag: str, platform: str, backend: str, **options: object) -> ReleaseBuild:
    system, architecture = PLATFORMS[platform]
    listed = assets(tag)
    # The order of a listing means nothing.
    random.Random(f"{tag}{platform}{backend}").shuffle(listed)
    return resolve(listed, tag=tag, system=system, architecture=architecture, backend=backend, **options)  # type: ignore[arg-type]


def test_the_table_is_large_enough() -> None:
    assert len(ROWS) >= 60
    assert {row[0] for row in ROWS} == set(ERAS) - {"v0.6.0"}
    assert {row[1] for row in ROWS} == set(PLATFORMS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_each_machine_gets_its_file(row: list[str]) -> None:
    tag, platform, backend, name, *companions = row
    found = choose(tag, platform, backend)
    assert found.asset.name == f"llama-{tag}-bin-{name}"
    assert [asset.name for asset in found.companions] == companions
    assert found.asset.url == f"https://github.com/ggml-org/llama.cpp/releases/download/{tag}/{found.asset.name}"
    assert found.tag == tag
    assert found.says.startswith(found.asset.name)


def test_the_seeds_own_address_comes_out() -> None:
    """With the repository's present name, to which GitHub redirects the old one."""
    by_driver = choose("b4315", "win", "cuda", driver="551.23")
    assert by_driver == choose("b4315", "win", "cuda-cu12.2.0", driver="551.23")
    assert by_driver.asset.url == canonical(SEED_URL) == SEED_URL.replace("ggerganov", "ggml-org")
    assert by_driver.companions[0].name == "cudart-llama-bin-win-cu12.2.0-x64.zip"
    assert (by_driver.backend, by_driver.variant) == ("cuda", "cuda-12.2.0")


def test_only_the_old_name_itself_is_replaced() -> None:
    for url in ("https://github.com/ggerganov/llama.cpp-fork/x", "https://example.org/ggerganov/llama.cpp/x"):
        assert canonical(url) == url


@pytest.mark.parametrize(
    ("tag", "platform", "driver", "capability", "variant"),
    [
        ("b11312", "linux", None, None, "cuda-12.8"),
        ("b11312", "linux", "580.65.06", None, "cuda-13.4"),
        ("b11312", "linux", "579.99", None, "cuda-12.8"),
        ("b11312", "linux", "525.60.13", None, "cuda-12.8"),
        ("b11312", "linux", "590.1", 6.1, "cuda-12.8"),
        ("b11312", "linux", "590.1", 8.9, "cuda-13.4"),
        ("b11312", "win", "581.15", None, "cuda-13.4"),
        ("b4315", "win", "472.12", None, "cuda-11.7.1"),
        ("b4315", "win", "525", None, "cuda-12.2.0"),
        ("b10883", "win", "999", None, "cuda-13.3"),
    ],
)
def test_the_driver_chooses_the_toolkit(
    tag: str, platform: str, driver: str | None, capability: float | None, variant: str
) -> None:
    found = choose(tag, platform, "cuda", driver=driver, compute_capability=capability)
    assert found.variant == variant
    assert found.companions
    if driver:
        assert driver in found.says


@pytest.mark.parametrize(
    ("tag", "platform", "options"),
    [
        ("b11312", "linux", {"driver": "470.82"}),
        ("b11312", "linux-arm", {"driver": "550.54"}),
        ("b11312", "linux-arm", {"driver": "590", "compute_capability": 7.0}),
        ("b4315", "win", {"driver": "390.1"}),
    ],
)
def test_a_driver_that_is_too_old_is_told_so(tag: str, platform: str, options: dict[str, object]) -> None:
    with pytest.raises(SetupError, match="No CUDA build") as caught:
        choose(tag, platform, "cuda", **options)
    assert "driver" in caught.value.fix
    assert caught.value.fields["available"]


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ((), "avx2"),
        (("sse42", "avx", "avx2", "fma", "f16c", "bmi2", "avx512f"), "avx2"),
        (("sse42", "avx"), "avx"),
        (("sse42", "avx", "avx2"), "avx"),
        (("sse42",), "noavx"),
    ],
)
def test_the_cpu_chooses_among_the_first_eras_builds(features: tuple[str, ...], name: str) -> None:
    assert choose("b4315", "win", "cpu", features=features).asset.name == f"llama-b4315-bin-win-{name}-x64.zip"


@pytest.mark.parametrize(
    ("tag", "platform", "backend", "available"),
    [
        ("b4315", "linux", "cuda", ["cpu"]),
        ("b4315", "linux", "vulkan", ["cpu"]),
        ("b10883", "linux", "cuda", ["cpu", "openvino-2026.3.1", "rocm-10.0", "sycl-fp16", "sycl-fp32", "vulkan"]),
        ("b11312", "mac-intel", "metal", ["cpu"]),
        ("b11312", "linux", "metal", None),
        ("b11312", "win", "cuda-11", None),
        ("b11312", "linux-z", "vulkan", ["cpu"]),
        ("b4315", "linux-arm", "cpu", []),
        ("b6000", "win-arm", "cpu", []),
        ("v0.6.0", "linux", "cpu", []),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    tag: str, platform: str, backend: str, available: list[str] | None
) -> None:
    with pytest.raises(SetupError) as caught:
        choose(tag, platform, backend)
    assert not isinstance(caught.value, UnknownName)
    assert tag in caught.value.message
    if available is not None:
        assert caught.value.fields["available"] == available
    for label in caught.value.fields["available"]:  # type: ignore[attr-defined]
        assert label in caught.value.message
        assert choose(tag, platform, label).variant == label


def test_several_graphics_processors_are_a_question() -> None:
    with pytest.raises(SetupError, match="one rocm build for each graphics processor") as caught:
        choose("b5361", "win", "rocm")
    assert "rocm-gfx1030, rocm-gfx1100" in caught.value.fix


def test_a_backend_that_nobody_knows() -> None:
    with pytest.raises(UnknownName) as caught:
        choose("b11312", "linux", "vulcan")
    assert caught.value.fields["nearest"] == "vulkan"


def test_a_backend_of_tomorrow_can_be_asked_for_by_its_name() -> None:
    name = "llama-b20000-bin-ubuntu-photon-3.1-x64.tar.gz"
    found = resolve(
        [Asset(name, "https://x/")], tag="b20000", system="Linux", architecture="x86_64", backend="photon-3.1"
    )
    assert (found.asset.name, found.backend) == (name, "photon-3.1")


@pytest.mark.parametrize("order", [1, -1])
def test_of_both_kinds_of_archive_the_one_that_keeps_links(order: int) -> None:
    for backend in ("cpu", "vulkan"):
        found = resolve(assets("b7312")[::order], tag="b7312", system="Linux", architecture="x86_64", backend=backend)
        assert found.asset.name.endswith(".tar.gz")


def test_files_of_another_release_are_not_taken() -> None:
    mixed = [*assets("b10883"), *assets("b11312")]
    found = resolve(mixed, tag="b11312", system="Linux", architecture="x86_64", backend="cpu")
    assert found.asset.name == "llama-b11312-bin-ubuntu-x64.tar.gz"
    with pytest.raises(SetupError):
        resolve(assets("b10883"), tag="b11312", system="Linux", architecture="x86_64", backend="cpu")


def test_cuda_without_its_libraries_says_so() -> None:
    listed = [asset for asset in assets("b11312") if not asset.name.startswith("cudart")]
    found = resolve(listed, tag="b11312", system="Windows", architecture="AMD64", backend="cuda")
    assert found.companions == ()
    assert "CUDA 12.4 must be installed" in found.says


def test_every_name_in_the_listings_is_read_or_is_known_to_be_something_else() -> None:
    other = re.compile(r".*(xcframework|-ui\.|android|snapdragon|openEuler|kleidiai|nightly-tag).*")
    for tag, names in ERAS.items():
        for name in names:
            program, companion = parse_program(name), parse_companion(name)
            if other.fullmatch(name):
                continue
            assert (program is None) != (companion is None), name
            assert program is None or program.tag == tag
            assert companion is None or companion.tag in ("", tag)
