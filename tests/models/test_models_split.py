"""Split models by name, and at a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_rig import split_model

from noa_lab import models
from noa_lab.errors import ModelFileBroken
from noa_lab.models._split import is_later_part, part_names, whole_name
from noa_lab.paths import Home


def test_names() -> None:
    names = ("a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf")
    assert part_names(names[1]) == names
    assert [is_later_part(name) for name in names] == [False, True, True]
    assert whole_name(names[2]) == "a/m"
    assert whole_name("m.gguf") == "m"


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "m-00001-of-00001.gguf",
        "m-00004-of-00003.gguf",
        "m-00000-of-00003.gguf",
        "m-1-of-3.gguf",
        "m-00001-of-99999.gguf",
    ],
)
def test_what_is_no_part(name: str) -> None:
    assert part_names(name) == ()
    assert not is_later_part(name)


def test_a_split_model_at_a_path_is_used_in_place(own_home: Home, tmp_path: Path) -> None:
    files = split_model(tmp_path / "mine", 50_000)
    first, second, _ = (tmp_path / "mine" / name for name in files)
    assert models.find(second, own_home).sha256 == ""
    found = models.fetch(second, own_home)
    assert (found.path, found.name, len(found.parts)) == (first, "Big.F32", 3)
    assert found.sha256
    assert models.fetch(first, own_home) == found == models.verify(found)


def test_a_part_that_is_missing_is_named(own_home: Home, tmp_path: Path) -> None:
    files = split_model(tmp_path / "mine", 50_000)
    first, _, third = (tmp_path / "mine" / name for name in files)
    third.unlink()
    with pytest.raises(ModelFileBroken, match="00003-of-00003.gguf is not beside it"):
        models.fetch(first, own_home)


def test_parts_put_into_the_models_folder_by_hand_are_one_model(own_home: Home, tmp_path: Path) -> None:
    split_model(own_home.models, 50_000)
    (found,) = models.installed(own_home)
    assert (found.name, len(found.parts)) == ("Big.F32", 3)
