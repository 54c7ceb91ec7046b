"""Word diffs, where prompts differ, Parquet, charts for notebooks, and large runs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_report import Page, _facts
from verdict_data import cells_of

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.report import write_parquet
from noa_lab.experiments.report._altair import chart, inputs_chart, means_chart, verdicts_chart
from noa_lab.experiments.report._diff import word_diff
from noa_lab.experiments.report._differences import wins
from noa_lab.experiments.report._page import report_html
from noa_lab.experiments.statistics import verdicts


def test_word_diff() -> None:
    found = word_diff("The cat sat on the mat.", "The dog sat on a mat!")
    assert found == ("The <del>cat</del><ins>dog</ins> sat on <del>the</del><ins>a</ins> mat<del>.</del><ins>!</ins>")
    assert word_diff("same", " same ") == ""
    assert word_diff("", "new <b>") == "<ins>new &lt;b&gt;</ins>"
    assert word_diff("a " * 3_000, "b") == ""
    long = "word " * 500
    assert len(word_diff(f"{long} x {long}", f"{long} y {long}")) < 600


def test_a_diff_reads_as_the_new_text_without_what_went() -> None:
    rng = np.random.default_rng(1)
    words = ["alpha", "beta", ",", "gamma", "<i>", "&"]
    for _ in range(50):
        old, new = (" ".join(rng.choice(words, 12)) for _ in range(2))
        found = word_diff(old, new)
        after = re.sub(r"<del>.*?</del>", "", found).replace("<ins>", "").replace("</ins>", "")
        assert after.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == new or old == new


def test_wins_are_per_input() -> None:
    found = wins(
        cells_of({"plain": [[0, 0], [1, 1], [1, 0]], "persona": [[1, 0], [0, 0], [0, 1]]}),
        "persona",
        "plain",
        "contains",
    )
    assert list(found.items()) == [("i0", 0.5), ("i2", 0.0), ("i1", -1.0)]


def test_the_page_says_where_prompts_differ() -> None:
    cells = cells_of({"plain": [0] * 12 + [1] * 12, "persona": [1] * 20 + [0] * 4})
    cells["answer"] = [f"{prompt} says <b>{number}</b>" for number, prompt in enumerate(cells["prompt"])]
    text = report_html(cells, _facts())
    page = Page(text)
    words = " ".join(page.text)
    assert "better than plain" in words
    assert "the inputs that differ most" in words
    assert page.tags["ins"] > 0
    assert page.tags["b"] == 24, "the labels of the inputs' fields"
    assert page.tags["details"] >= 1
    counts = re.search(r'data-label="better">(\d+)</td><td role="cell" data-label="worse">(\d+)', text)
    assert counts is not None
    assert counts.groups() == ("12", "4")


def test_parquet_keeps_kinds_and_facts(tmp_path: Path) -> None:
    cells = cells_of({"plain": [1, 0], "persona": [1, None]}).astype({"prompt_tokens": "Int64"})
    cells["input.n"] = pd.Series([1, 2, 3, None], dtype=object)
    cells["input.mixed"] = pd.Series([1, "a", [1, 2], None], dtype=object)
    cells["answer"] = pd.Series(["=1", "\ud800", "x", None], dtype=object)
    path = write_parquet(cells, tmp_path / "cells.parquet", {"run_id": "r-1", "scorers": [{"name": "contains"}]})
    back = pd.read_parquet(path)
    assert list(back.columns) == list(cells.columns)
    assert back.attrs["noa_lab"]["run_id"] == "r-1"
    assert back["input.n"].tolist()[:3] == [1, 2, 3]
    assert back["input.mixed"].tolist()[:3] == ["1", "a", "[1, 2]"]
    assert back["answer"].tolist()[:3] == ["=1", "?", "x"]
    assert back["score.contains"].tolist()[:3] == [1, 0, 1]
    assert back["score.contains"].isna().tolist()[3]
    assert pd.read_parquet(write_parquet(cells.iloc[:0], tmp_path / "empty.pq")).empty
    with pytest.raises(BadInput):
        write_parquet(cells, tmp_path / "cells.csv")


def _mime(chart: Any) -> dict[str, Any]:
    bundle = chart._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.vegalite.v5+json", "text/plain"}
    found: dict[str, Any] = json.loads(json.dumps(bundle["application/vnd.vegalite.v5+json"]))
    assert found["$schema"].endswith("/v5.json")
    return found


def test_charts_need_no_network() -> None:
    cells = cells_of({"plain": [0] * 12 + [1] * 12, "persona": [1] * 24, "third": [0, 1] * 12})
    found = verdicts(cells)
    drawn = _mime(verdicts_chart(found))
    rows = [row for rows in drawn["datasets"].values() for row in rows if "comparison" in row]
    assert {row["outcome"] for row in rows} == {each.outcome for each in found}
    assert rows[0]["low"] == pytest.approx(found[0].interval[0])
    assert _mime(means_chart(cells, "contains"))
    assert _mime(inputs_chart(cells, "persona", "plain", "contains"))
    assert _mime(verdicts_chart(found).properties(width=200))["width"] == 200
    for kind in ("verdicts", "means", "inputs"):
        assert _mime(chart(cells, kind, found))  # type: ignore[arg-type]
    assert "third" in json.dumps(_mime(chart(cells, "inputs", found, arm="third")))


def test_charts_that_cannot_be() -> None:
    cells = cells_of({"plain": [0] * 12, "persona": [1] * 12})
    found = verdicts(cells)
    with pytest.raises(UnknownName):
        chart(cells, "pie", found)  # type: ignore[arg-type]
    with pytest.raises(UnknownName):
        chart(cells, "inputs", found, arm="nobody")
    with pytest.raises(BadInput):
        verdicts_chart(found[:0])


def test_ten_thousand_cells_make_a_small_page_quickly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cells = cells_of({prompt: list(map(int, rng.random(2_500) < 0.5)) for prompt in "abcd"})
    cells["answer"] = [" ".join(rng.choice(["some", "words", "of", "an", "answer"], 60)) for _ in range(len(cells))]
    began = time.process_time()
    text = report_html(cells, _facts(prompts=dict.fromkeys("abcd", "x")))
    write_parquet(cells, tmp_path / "cells.parquet")
    assert time.process_time() - began < 30
    assert len(text) < 5_000_000
    assert (tmp_path / "cells.parquet").stat().st_size < 2_000_000
    Page(text)
