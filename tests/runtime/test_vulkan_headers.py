"""Vulkan headers that are too old for a source are named before anything is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from noa_lab.errors import ToolMissing
from noa_lab.runtime import _vulkan as vulkan

OLD = "#define VK_HEADER_VERSION 239\n#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n"
NEW = OLD.replace("239", "309").replace("1, 3,", "1, 4,") + "#define VK_EXT_layer_settings 1\n"


def headers(place: Path, text: str) -> Path:
    path = place / "vulkan" / "vulkan_core.h"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "ggml" / "src" / "ggml-vulkan"
    folder.mkdir(parents=True)
    (folder / "ggml-vulkan.cpp").write_text("std::vector<vk::LayerSettingEXT> settings;")
    return tmp_path / "source"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of headers that CMake has found."""
    return chosen(tmp_path, tmp_path / "system")


def chosen(build: Path, place: Path) -> Path:
    (build / "CMakeCache.txt").write_text(f"CC:STRING=cc\nVulkan_INCLUDE_DIR:PATH={place.as_posix()}\nX:BOOL=ON\n")
    return place


def test_headers_that_lack_what_the_source_uses(source: Path, place: Path, tmp_path: Path) -> None:
    found = headers(place, OLD)
    with pytest.raises(ToolMissing, match="VK_EXT_layer_settings") as caught:
        vulkan.check_vulkan_headers(source, tmp_path)
    assert "1.3.239" in caught.value.message
    assert str(found) in caught.value.message
    assert "VULKAN_SDK" in caught.value.fix


def test_headers_that_know_it_and_source_that_does_not_use_it(source: Path, place: Path, tmp_path: Path) -> None:
    found = headers(place, NEW)
    vulkan.check_vulkan_headers(source, tmp_path)
    found.write_text(OLD)
    (source / "ggml/src/ggml-vulkan/ggml-vulkan.cpp").write_text("int main() {}")
    vulkan.check_vulkan_headers(source, tmp_path)


def test_the_headers_count_that_cmake_has_chosen(source: Path, place: Path, tmp_path: Path) -> None:
    headers(place, OLD)
    headers(chosen(tmp_path, tmp_path / "sdk" / "include"), NEW)
    vulkan.check_vulkan_headers(source, tmp_path)


def test_without_headers_cmake_has_the_word(source: Path, place: Path, tmp_path: Path) -> None:
    assert not place.exists()
    vulkan.check_vulkan_headers(source, tmp_path)
    (tmp_path / "CMakeCache.txt").write_text("CC:STRING=cc\n")
    vulkan.check_vulkan_headers(source, tmp_path)
