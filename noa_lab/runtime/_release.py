"""llama.cpp's own binaries: which release, which of its files, and getting them here. The front of the `_release_*` modules."""

from noa_lab.runtime._release_fetch import FetchedRelease, fetch_release
from noa_lab.runtime._release_find import GITHUB_API, REPOSITORY, canonical, find_release, pinned_sha256
from noa_lab.runtime._release_names import Asset
from noa_lab.runtime._release_resolve import BACKENDS, ReleaseBuild, resolve

__all__ = [
    "BACKENDS",
    "GITHUB_API",
    "REPOSITORY",
    "Asset",
    "FetchedRelease",
    "ReleaseBuild",
    "canonical",
    "fetch_release",
    "find_release",
    "pinned_sha256",
    "resolve",
]
