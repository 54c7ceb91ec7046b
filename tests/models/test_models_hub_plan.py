"""Which of a repository's files a reference means, and that what a hub calls them leads nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noa_lab.errors import UnknownModel
from noa_lab.models._hub_cache import HubCache
from noa_lab.models._hub_plan import choose
from noa_lab.models._reference import HubFile, HubQuant

LISTED = [
    "README.md",
    "model-Q4_K_M.gguf",
    "model-Q8_0-00001-of-00002.gguf",
    "model-Q8_0-00002-of-00002.gguf",
    "mmproj-model-Q4_K_M.gguf",
    "BF16/model-BF16-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (HubQuant("a/b", "q4_k_m"), ("model-Q4_K_M.gguf",)),
        (HubQuant("a/b", "Q8_0"), ("model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf")),
        (
            HubFile("a/b", "model-Q8_0-00002-of-00002.gguf"),
            ("model-Q8_0-00001-of-00002.gguf", "model-Q8_0-00002-of-00002.gguf"),
        ),
        (HubFile("a/b", "mmproj-model-Q4_K_M.gguf"), ("mmproj-model-Q4_K_M.gguf",)),
    ],
)
def test_the_file_that_is_meant(ref: Any, expected: tuple[str, ...]) -> None:
    assert choose(ref, LISTED) == expected


@pytest.mark.parametrize(
    ("ref", "nearest"),
    [
        (HubFile("a/b", "model-Q4_K_S.gguf"), "model-Q4_K_M.gguf"),
        (HubQuant("a/b", "Q2_K"), None),
        (HubQuant("a/b", "BF16"), "BF16/model-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_file_that_is_not_there(ref: Any, nearest: str | None) -> None:
    with pytest.raises(UnknownModel, match="a/b") as caught:
        choose(ref, LISTED)
    assert caught.value.fields["nearest"] == nearest


@pytest.mark.parametrize("etag", ["../x", "a" * 63, "A" * 64, ""])
def test_a_hostile_hash_is_no_path(tmp_path: Path, etag: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        HubCache(tmp_path, "a/b").blob(etag)
