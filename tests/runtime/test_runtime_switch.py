"""Switching and going back: the pointers, their history, the marks, the programs by their old and new names."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from runtime_fakes import fake_programs

from noa_lab import runtime as room
from noa_lab.errors import RuntimeMissing, UnknownName
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, RuntimeList, _store


def placed(home: Home, name: str, build: int = 1) -> Runtime:
    """A runtime with a name, in place."""
    staging = home.runtimes / f".staging-{name}"
    fake_programs(staging, build=build)
    files = _store.hash_files(staging)
    draft = Runtime(
        name, staging, "release", f"b{build}", build, "c", tools=("llama-server", "llama-quantize"), files=files
    )
    return _store.place(staging, draft, home)


@pytest.fixture
def three(tmp_path: Path) -> SimpleNamespace:
    """Three runtimes, switched to one after the other; the first is the embedded one."""
    home = Home(tmp_path / "home")
    a, b, c = (placed(home, name, build) for build, name in enumerate("abc", start=100))
    _store.point(home, a)
    for each in (a, b, c):
        _store.switch(home, each)
    return SimpleNamespace(home=home, a=a, b=b, c=c)


def marks(home: Home) -> dict[str, tuple[str, ...]]:
    return {runtime.id: runtime.marks for runtime in room.runtimes(home)}


def test_marks(three: SimpleNamespace) -> None:
    assert marks(three.home) == {"c": ("current",), "a": ("embedded",), "b": ("previous",)}
    assert list(marks(three.home)) == ["c", "a", "b"]
    assert room.current(three.home).marks == ("current",)
    assert room.embedded(three.home).marks == ("embedded",)


def test_the_list_is_a_table_in_a_notebook_and_for_pandas(three: SimpleNamespace) -> None:
    import pandas as pd

    found = room.runtimes(three.home)
    assert pd.DataFrame(found)["id"].tolist() == [runtime.id for runtime in found] == ["c", "a", "b"]
    shown = found._repr_html_()
    assert [len(re.findall(f"<{tag}[ >]", shown)) for tag in ("table", "tr", "th")] == [1, 4, 8]
    assert "<td>c</td><td>current</td><td>b102</td><td>102</td>" in re.sub(r"<td [^>]*>", "<td>", shown)
    evil = RuntimeList([replace(three.c, tag="<img src=x>")])._repr_html_()
    assert "<img" not in evil
    assert "lab.install()" in RuntimeList()._repr_html_()


def test_a_copy_of_a_runtimes_folder_goes_by_its_own_name(three: SimpleNamespace) -> None:
    shutil.copytree(three.c.folder, three.home.runtimes / "mine", symlinks=True)
    assert marks(three.home) == {"c": ("current",), "a": ("embedded",), "b": ("previous",), "mine": ()}


def test_going_back_twice_leads_back_to_where_one_was(three: SimpleNamespace) -> None:
    assert [room.rollback(three.home).id for _ in range(4)] == ["b", "c", "b", "c"]
    assert marks(three.home) == {"c": ("current",), "a": ("embedded",), "b": ("previous",)}


def test_going_back_takes_no_time_and_no_network(three: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(socket, "socket", None)
    started = time.thread_time()
    room.rollback(three.home)
    assert time.thread_time() - started < 1


def test_one_whose_files_are_gone_is_passed_over(three: SimpleNamespace) -> None:
    (three.b.folder / "llama-server").unlink()
    assert marks(three.home) == {"c": ("current",), "a": ("embedded", "previous")}
    assert room.rollback(three.home).id == "a"
    assert room.rollback(three.home).id == "c"


def test_a_current_one_that_is_broken_can_be_left(three: SimpleNamespace) -> None:
    shutil.rmtree(three.c.folder)
    with pytest.raises(RuntimeMissing):
        room.current(three.home)
    assert room.rollback(three.home).id == "b"


def test_without_an_earlier_one_the_fix_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(RuntimeMissing, match="no earlier") as caught:
        room.rollback(home)
    assert "--tag" in caught.value.fix
    only = placed(home, "only")
    _store.switch(home, only)
    with pytest.raises(RuntimeMissing):
        room.rollback(home)
    assert room.current(home) == only


def test_switching_to_the_same_one_forgets_nothing(three: SimpleNamespace) -> None:
    _store.switch(three.home, three.c)
    assert room.rollback(three.home).id == "b"


def test_the_embedded_one_is_never_touched(three: SimpleNamespace) -> None:
    before = (three.home.runtimes / "embedded.json").read_bytes()
    for _ in range(3):
        room.rollback(three.home)
    assert (three.home.runtimes / "embedded.json").read_bytes() == before


def test_the_pointer_file_of_the_first_version_is_understood(three: SimpleNamespace) -> None:
    (three.home.runtimes / "current.json").write_text('{"id": "b"}\n')
    assert room.current(three.home).id == "b"
    _store.switch(three.home, three.a)
    assert room.rollback(three.home).id == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"id": 3}',
        '{"id": "../a"}',
        '{"id": ".."}',
        '{"id": "b", "previous": "a"}',
        '{"id": "b", "previous": [["a"], "../a", ".x"]}',
    ],
)
def test_a_pointer_file_that_makes_no_sense_leads_nowhere(three: SimpleNamespace, text: str) -> None:
    (three.home.runtimes / "current.json").write_text(text)
    with pytest.raises(RuntimeMissing):
        room.rollback(three.home)
    assert room.runtimes(three.home)


def test_readers_see_the_old_one_or_the_new_one(three: SimpleNamespace) -> None:
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(room.current(three.home).id)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(30):
        room.rollback(three.home)
    done.set()
    for reader in readers:
        reader.join()
    assert seen <= {"b", "c"}


def test_an_even_number_of_rollbacks_at_once_ends_where_it_began(three: SimpleNamespace) -> None:
    threads = [threading.Thread(target=room.rollback, args=(three.home,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert room.current(three.home).id == "c"


# ---- placing


def test_equal_bytes_are_placed_once(three: SimpleNamespace) -> None:
    again = placed(three.home, "b", 101)
    assert again.id == "b"
    assert again.folder == three.b.folder
    assert not list(three.home.runtimes.glob(".old-*"))


def test_other_bytes_under_the_same_name_never_replace_what_works(three: SimpleNamespace) -> None:
    before = _store.hash_files(three.c.folder)
    other = placed(three.home, "c", 999)
    assert other.id == "c-2"
    assert _store.hash_files(three.c.folder) == before
    assert room.current(three.home) == three.c


def test_what_lacks_files_is_replaced_whole(three: SimpleNamespace) -> None:
    (three.c.folder / "llama-server").unlink()
    again = placed(three.home, "c", 102)
    assert again.id == "c"
    assert room.current(three.home) == again


def test_marks_and_notes_are_no_part_of_the_manifest(three: SimpleNamespace) -> None:
    runtime = replace(three.c, marks=("current",), notes=("x",))
    assert {"marks", "notes"} & set(runtime.as_dict()) == {"marks", "notes"}
    kept = json.loads((three.c.folder / "manifest.json").read_text())
    assert not {"marks", "notes"} & set(kept)
    assert kept["installed"].endswith("+00:00")


# ---- programs by name


def test_programs_by_the_names_of_every_age(three: SimpleNamespace) -> None:
    assert three.c.tool("quantize") == three.c.tool("llama-quantize") == three.c.folder / "llama-quantize"
    assert three.c.tool("server") == three.c.folder / "llama-server"
    old = replace(three.c, tools=("server", "quantize", "main"))
    assert old.tool("llama-quantize") == old.folder / "quantize"
    assert old.tool("llama-cli") == old.folder / "main"
    with pytest.raises(UnknownName, match="llama-quantise") as caught:
        three.c.tool("llama-quantise")
    assert "llama-quantize" in caught.value.fix
    with pytest.raises(UnknownName):
        three.c.tool("main")
