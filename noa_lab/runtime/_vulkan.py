"""Whether this machine's Vulkan headers are new enough for a llama.cpp, known before minutes of compiling.

Distributions carry headers of their own age: Debian 12's (1.3.239) lack what llama.cpp b11312 uses, and the compiler finds that out last.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from noa_lab.errors import ToolMissing

__all__ = ["check_vulkan_headers"]

_HEADER = Path("vulkan", "vulkan_core.h")
_SYSTEM = () if os.name == "nt" else (Path("/usr/local/include"), Path("/usr/include"))
_ADDRESS = "https://vulkan.lunarg.com/sdk/home"

_NEEDED = {"vk::LayerSettingEXT": "VK_EXT_layer_settings"}
"""What llama.cpp's source names, and the extension that a header must know for it."""


def check_vulkan_headers(source: Path) -> None:
    """Make sure that the headers know what a source uses; where no headers are found, CMake will say so.

    Args:
        source: Folder of llama.cpp's source.

    Raises:
        ToolMissing: With their version, their place, and where newer ones are.
    """
    header = next((place / _HEADER for place in _places() if (place / _HEADER).is_file()), None)
    if header is None:
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
            fix=f"Install the Vulkan SDK ({_ADDRESS}) and set VULKAN_SDK to its folder, or get a prebuilt llama.cpp: "
            "`noa-lab install --from release --backend vulkan`.",
            tool="vulkan headers",
        )


def _places() -> list[Path]:
    """Where CMake's FindVulkan looks first, and where systems keep headers."""
    named = os.environ.get("VULKAN_SDK", "")
    of_sdk = [Path(named, "include"), Path(named, "Include")] if named else []
    return [*of_sdk, *_SYSTEM]


def _version(header: str) -> str:
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", header)
    whole = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(\d+, *(\d+), *(\d+),", header)
    return f"{whole[1]}.{whole[2]}.{patch[1]}" if whole and patch else "of unknown version"
