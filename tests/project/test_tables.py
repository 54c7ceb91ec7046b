"""Lists that read as tables: a list for code, a table in a notebook, lines of 80 columns in a terminal, rows for pandas."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.cells import cell_len

from noa_lab.experiments import RunList, RunSummary
from noa_lab.models import ModelListing, StoredModel
from noa_lab.models._listing import ModelList
from noa_lab.models.stores import StoredModels
from noa_lab.runtime import Runtime, RuntimeList
from noa_lab.server import CheckList, CheckResult, ServerList, ServerStatus
from noa_lab.tables import TableList

HOSTILE = "<img src=x onerror=y> \x1b[2J\x1b]0;owned\x07 [red]x[/red] \u202eabc 模型模型 " + "long words " * 12


@dataclass(frozen=True)
class Fruit:
    name: str
    count: int = 1


class Fruits(TableList[Fruit]):
    _heads = ("Name", "Count")
    _empty = "No fruit: buy <some>."

    def _cells(self, row: Fruit) -> tuple[object, ...]:
        return (row.name, row.count)


RUN = RunSummary(
    "r-2f9c81d4", HOSTILE, "done", 20, 4, 24, "2026-11-26T04:40:00+00:00", ("smollm2-135m", HOSTILE), ("plain", HOSTILE),
    tags=(HOSTILE,), note=HOSTILE,
)  # fmt: skip
SERVER = ServerStatus(
    HOSTILE, "starting", HOSTILE, 1, "http://127.0.0.1:40123", slots_busy=1, slots_total=2, tokens_per_second=71.3,
    memory_bytes=412_300_000, uptime_seconds=3725, loaded=0.4, holders=2, settings={"slots": 2}, slots=({"id": 0},),
)  # fmt: skip
MODEL = ModelListing(
    HOSTILE, True, True, 98_362_432, "98.4 MB", "Q4_1", 8192, HOSTILE, HOSTILE, "fits", tags=(HOSTILE,)
)
RUNTIME = Runtime(HOSTILE, Path("/x"), "sdist", HOSTILE, 11312, "0c1e57098", marks=("current", "embedded"))
TABLES: list[TableList[Any]] = [
    RunList([RUN]),
    ServerList([SERVER]),
    ModelList([MODEL]),
    RuntimeList([RUNTIME]),
    StoredModels([StoredModel("Ollama", HOSTILE, (Path("/x"),), 2_000_000_000)]),
    CheckList([CheckResult("completion", False, HOSTILE, 81.4)]),
]
by_name = pytest.mark.parametrize("table", TABLES, ids=[type(each).__name__ for each in TABLES])


@by_name
def test_what_comes_from_outside_is_text_and_fits(table: TableList[Any]) -> None:
    page, lines = table._repr_html_(), repr(table).splitlines()
    assert set(re.findall(r"<(/?\w+)", page)) <= {f"{end}{tag}" for tag in ("table", "thead", "tbody", "tr", "th", "td") for end in ("", "/")}  # fmt: skip
    assert "&lt;img src=x" in page
    assert page.count("<td") == page.count("<th ")
    assert len(lines) == 2
    assert max(map(cell_len, lines)) <= 80
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", "".join(lines))
    assert all(head in type(table)._heads for head in type(table)._short)


@by_name
def test_pandas_gets_every_field(table: TableList[Any]) -> None:
    frame = pd.DataFrame(table)
    assert list(frame.columns) == [field.name for field in dataclasses.fields(table[0])]
    assert len(frame) == 1


@by_name
def test_nothing_is_said_in_a_sentence(table: TableList[Any]) -> None:
    empty = type(table)()
    assert repr(empty).endswith(".")
    assert repr(empty) in empty._repr_html_()
    assert pd.DataFrame(empty).empty


def test_it_is_a_list_for_code() -> None:
    rows = [Fruit("fig", 3), Fruit("apple")]
    fruits = Fruits(rows)
    assert fruits == rows
    assert [*fruits] == rows
    assert fruits[-1] == rows[-1]
    assert [fruit.name for fruit in sorted(fruits, key=lambda fruit: fruit.name)] == ["apple", "fig"]
    assert Fruit("fig", 3) in fruits
    assert json.loads(json.dumps(fruits, default=dataclasses.asdict))[0] == {"name": "fig", "count": 3}
    for again in (pickle.loads(pickle.dumps(fruits)), copy.deepcopy(fruits)):
        assert (type(again), again) == (Fruits, rows)
    assert not Fruits()
    assert Fruits() == []


def test_a_slice_is_a_table_again() -> None:
    fruits = Fruits(map(Fruit, "abc"))
    assert isinstance(fruits[:2], Fruits)
    assert repr(fruits[:2]).split() == ["Name", "Count", "a", "1", "b", "1"]


def test_the_columns_stand_below_each_other_and_short_ones_are_whole() -> None:
    fruits = Fruits([Fruit("fig"), Fruit("a name that takes very much more room than there is for it " * 3, 2_000_000)])
    assert repr(fruits).splitlines()[1] == "fig" + " " * 70 + "1"
    assert repr(fruits).splitlines()[2].endswith("…  2000000")


def test_of_very_many_rows_the_first_are_shown_and_the_others_counted() -> None:
    fruits = Fruits(Fruit(f"f{number}") for number in range(230))
    for shown in (repr(fruits), fruits._repr_html_()):
        assert "f99" in shown
        assert "f100" not in shown
        assert "130 more" in shown
    assert len(pd.DataFrame(fruits)) == 230
