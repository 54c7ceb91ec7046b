"""Files as git sees them, with git and without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from repositories import git, write

from noa_lab.agents import _git as git_module
from noa_lab.agents._files import list_files

TREE: dict[str, str | bytes] = {
    ".gitignore": "/build\n*.log\n!keep.log\n\\#odd\nfolder/\ndoc/**/gen\n",
    "build/out.py": "",
    "src/build/real.py": "",
    "x.log": "",
    "keep.log": "",
    "#odd": "",
    "folder/a.py": "",
    "src/folder": "a file of that name",
    "a/.gitignore": "*.tmp\n!important.tmp\n",
    "a/sub/u.tmp": "",
    "a/sub/important.tmp": "",
    "a/sub/deep.log": "",
    "b/u.tmp": "",
    "doc/x/y/gen": "",
    "doc/gen.md": "",
    "name with spaces/ü.py": "",
}
EXPECTED = {
    ".gitignore", "src/build/real.py", "keep.log", "src/folder", "a/.gitignore", "a/sub/important.tmp", "b/u.tmp", "doc/gen.md",
    "name with spaces/ü.py",
}  # fmt: skip


def names(folder: Path) -> set[str]:
    return {file.path for file in list_files(folder).files}


def test_the_walk_agrees_with_git(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", TREE)
    repo = write(tmp_path / "repo", TREE)
    git(repo, "init")
    assert list_files(plain).source == "walk"
    assert list_files(repo).source == "git"
    assert names(plain) == names(repo) == EXPECTED


def test_tracked_files_count_even_when_ignored(tmp_path: Path) -> None:
    repo = write(tmp_path, TREE)
    git(repo, "init")
    git(repo, "add", "-f", "x.log")
    assert names(repo) == EXPECTED | {"x.log"}


def test_a_folder_inside_a_repository(tmp_path: Path) -> None:
    repo = write(tmp_path, TREE)
    git(repo, "init")
    assert names(repo / "a") == {".gitignore", "sub/important.tmp"}
    ignored = list_files(repo / "build")
    assert [file.path for file in ignored.files] == ["out.py"]
    assert "ignores it" in ignored.warnings[0]


def test_a_repository_inside_the_repository_is_named_and_not_entered(tmp_path: Path) -> None:
    repo = write(tmp_path, {"a.py": "", "inner/b.py": ""})
    git(repo, "init")
    git(repo / "inner", "init")
    git(repo / "inner", "add", ".")
    git(repo / "inner", "commit", "-m", "x")
    listing = list_files(repo)
    assert [file.path for file in listing.files] == ["a.py"]
    assert list(listing.skipped.values()) == ["a repository inside the repository"]


def test_worktrees_and_broken_repositories(tmp_path: Path) -> None:
    repo = write(tmp_path / "repo", {"a.py": ""})
    git(repo, "init")
    git(repo, "add", ".")
    git(repo, "commit", "-m", "x")
    git(repo, "worktree", "add", str(tmp_path / "tree"))
    assert list_files(tmp_path / "tree").source == "git"
    assert names(tmp_path / "tree") == {"a.py"}
    broken = write(tmp_path / "broken", {"a.py": "", ".git/HEAD": "nonsense"})
    listing = list_files(broken)
    assert ([file.path for file in listing.files], listing.source) == (["a.py"], "walk")
    assert "exit code 128" in listing.warnings[0]


def test_without_git(tmp_path: Path, monkeypatch) -> None:
    repo = write(tmp_path, TREE)
    git(repo, "init")
    monkeypatch.setattr(git_module.shutil, "which", lambda _: None)
    listing = list_files(repo)
    assert {file.path for file in listing.files} == EXPECTED
    assert "git is not installed" in listing.warnings[0]


@pytest.mark.parametrize("pattern", ["!", "[", "a/**b", "***", "\\", "*.log ", "/", "**/", "[!x].log", "\ufeff*.log"])
def test_odd_patterns(tmp_path: Path, pattern: str) -> None:
    files: dict[str, str | bytes] = {
        ".gitignore": f"{pattern}\n*.tmp\n",
        "x.log": "",
        "y.log": "",
        "x.tmp": "",
        "a/b/x.py": "",
    }
    plain = write(tmp_path / "plain", files)
    repo = write(tmp_path / "repo", files)
    git(repo, "init")
    assert names(plain) == names(repo)
