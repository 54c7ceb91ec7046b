"""Summary tables and files for other programs."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from verdict_data import cells_of

from noa_lab.errors import BadInput
from noa_lab.experiments.report._files import write_csv
from noa_lab.experiments.report._tables import arm_scores, markdown_table, summary_table


def test_summary_counts_and_means() -> None:
    cells = cells_of({"plain": [[0, 1], [1, 1]], "persona": [[1, 1], [1, 1]]})
    cells.loc[cells["cell_id"] == "plain-0-0", "status"] = "failed"
    cells.loc[cells["cell_id"] == "plain-1-0", "cached"] = True
    cells.loc[cells["cell_id"] == "plain-1-0", "total_ms"] = 9_999.0
    cells.loc[cells["cell_id"] == "persona-0-0", "status"] = "running"
    table = summary_table(cells).set_index("prompt")
    assert list(table.index) == ["plain", "persona"]
    plain = table.loc["plain"]
    assert (plain["inputs"], plain["done"], plain["failed"], plain["pending"], plain["cached"]) == (2, 3, 1, 0, 1)
    assert plain["score.contains"] == 1.0
    assert plain["cached_share"] == 0.5
    assert plain["share_ms"] == 20.0, "a copied answer took no time"
    assert table.loc["persona", "pending"] == 1


def test_repeats_are_averaged_within_inputs_first() -> None:
    cells = cells_of({"plain": [[0], [1, 1, 1]]})
    assert summary_table(cells)["score.contains"][0] == 0.5


def test_arms_of_several_models_and_samplings() -> None:
    cells = pd.concat([cells_of({"plain": [1] * 3}), cells_of({"plain": [0] * 3}).assign(model="n")])
    table = summary_table(cells)
    assert list(table.columns[:2]) == ["prompt", "model"]
    assert list(table["score.contains"]) == [1.0, 0.0]


def test_an_empty_run_has_the_same_columns() -> None:
    cells = cells_of({"plain": [1] * 3})
    assert list(summary_table(cells.iloc[:0]).columns) == list(summary_table(cells).columns)


def test_nullable_columns_of_real_runs() -> None:
    cells = cells_of({"plain": [1] * 3}).astype({"prompt_tokens": "Int64", "cached_tokens": "Int64"})
    cells.loc[0, ["prompt_tokens", "cached_tokens"]] = pd.NA
    assert summary_table(cells)["cached_share"][0] == 0.5


def test_arm_scores() -> None:
    found = arm_scores(cells_of({"plain": [1] * 7 + [0] * 17, "persona": [None] * 24}), "contains")
    assert found[0].mean == pytest.approx(7 / 24)
    assert "Wilson" in found[0].interval.method
    assert 0 < found[0].interval.low < 7 / 24 < found[0].interval.high < 1
    assert found[1].n == 0
    assert math.isnan(found[1].mean)


def test_csv_has_no_formulas(tmp_path: Path) -> None:
    dangerous = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]
    cells = cells_of({"plain": [1] * len(dangerous)})
    cells["answer"] = dangerous
    cells["total_ms"] = -5.0
    cells = cells.rename(columns={"input.text": "=input"})
    path = write_csv(cells, tmp_path / "cells.csv")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [f"'{each}" for each in dangerous]
    assert rows[0]["total_ms"] == "-5.0", "numbers stay numbers"
    assert "'=input" in rows[0]


def test_csv_keeps_everything_else(tmp_path: Path) -> None:
    cells = cells_of({"plain": [1, 0]})
    cells["answer"] = pd.Series(['say "hi",\nthen é', "\ud800"], dtype=object)
    with write_csv(cells, tmp_path / "cells.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["answer"] == 'say "hi",\nthen é'
    assert rows[1]["answer"] == "?"
    with pytest.raises(BadInput):
        write_csv(cells, tmp_path / "cells.xlsx")


def test_markdown_table() -> None:
    text = markdown_table(pd.DataFrame({"a|b": ["<x>", "*y*\nz"], "share_ms": [1234.5, math.nan]}))
    assert text.splitlines() == [
        "| a\\|b | time, ms (a share) |",
        "| --- | ---: |",
        "| &lt;x> | 1,234.5 |",
        "| \\*y\\* z |  |",
    ]
