"""Whether the Vulkan headers that CMake has chosen are new enough for a llama.cpp, known before minutes of compiling.

Distributions carry headers of their own age: Debian 12's (1.3.239) lack what llama.cpp b11312 uses, and the compiler finds that out last.
"""

from __future__ import annotations

import re
from pathlib import Path

from noa_lab.errors import ToolMissing

__all__ = ["SDK_ADDRESS", "check_vulkan_headers"]

SDK_ADDRESS = "https://vulkan.lunarg.com/sdk/home"

_CHOSEN = re.compile(r"^Vulkan_INCLUDE_DIR:\w+=(.+)$", re.MULTILINE)

_NEEDED = {"vk::LayerSettingEXT": "VK_EXT_layer_settings"}
"""What llama.cpp's source names, and the extension that a header must know for it."""


def check_vulkan_headers(source: Path, folder: Path) -> None:
    """Make sure that the headers know what a source uses.

    Args:
        source: Folder of llama.cpp's source.
        folder: Build folder, configured.

    Raises:
        ToolMissing: With their version, their place, and where newer ones are.
    """
    chosen = _CHOSEN.search((folder / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace"))
    header = Path(chosen[1] if chosen else "", "vulkan", "vulkan_core.h")
    if not header.is_file():
        return
    known = header.read_text(encoding="utf-8", errors="replace")
    used = "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(source.glob("ggml/src/ggml-vulkan/*.cpp"))
    )
    lacking = sorted({extension for name, extension in _NEEDED.items() if name in used and extension not in known})
    if lacking:
        raise ToolMissing(
            f"The Vulkan headers on this machine ({_version(known)}, {header}) are too old for this llama.cpp: "
            f"they lack {', '.join(lacking)}.",
            fix=f"Install the Vulkan SDK ({SDK_ADDRESS}) and set VULKAN_SDK to its folder, or get a prebuilt llama.cpp: "
            "`noa-lab install --from release --backend vulkan`.",
            tool="vulkan headers",
        )


def _version(header: str) -> str:
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", header)
    whole = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(\d+, *(\d+), *(\d+),", header)
    return f"{whole[1]}.{whole[2]}.{patch[1]}" if whole and patch else "of unknown version"
