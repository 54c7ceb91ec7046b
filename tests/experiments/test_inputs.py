"""Inputs from lists, DataFrames and files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from noa_lab.errors import BadInput
from noa_lab.experiments import load_inputs


def refused(source, *parts: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load_inputs(source)
    for part in parts:
        assert part in caught.value.message + " " + caught.value.fix
    assert caught.value.fix
    assert "field" in caught.value.fields
    return caught.value


def test_ids_are_counted_where_none_are_given_and_ours_are_not_variables():
    found = load_inputs([{"text": "a"}, {"id": "x", "text": "b", "cluster": 7, "tags": "short, easy", "expected": "e"}])
    assert [each.id for each in found] == ["1", "x"]
    assert found[1].variables == {"text": "b", "expected": "e"}
    assert (found[1].cluster, found[1].tags) == ("7", ("short", "easy"))


def test_the_seed_key_follows_the_content_unless_an_id_is_given():
    first = load_inputs([{"text": "a"}, {"text": "b"}])
    second = load_inputs([{"text": "new"}, {"text": "a"}, {"id": "k", "text": "b"}])
    assert first[0].seed_key == second[1].seed_key
    assert second[2].seed_key == "k"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ([], ["no inputs"]),
        ({}, ["dict"]),
        (None, ["NoneType"]),
        (["text"], ["Input 1", "'text'"]),
        ([{"id": "a", "t": 1}, {"id": "a", "t": 2}], ["Input 2", "'a'", "Input 1"]),
        ([{"id": "2", "t": 1}, {"t": 2}], ["Input 2", "'2'"]),
        ([{"t": 1}, {"t": 1}], ["Input 2 is the same as Input 1"]),
        ([{1: 2}], ["named 1"]),
        ([{"": 2}], ["named ''"]),
        ([{"__budget__": 2}], ["__budget__"]),
        ([{"finish_reason": 2}], ["finish_reason"]),
        ([{"completion_tokens": 2}], ["completion_tokens"]),
        ([{"t": object()}], ["t = <object", "JSON"]),
        ([{"t": float("inf")}], ["t = inf"]),
        ([{"t": {"a": {1, 2}}}], ["t.a"]),
        ([{"t": b"bytes"}], ["t = b'bytes'"]),
        ([{"id": ["a"], "t": 1}], ["id = ['a']"]),
        ([{"id": " ", "t": 1}], ["id = ' '"]),
        ([{"tags": 3, "t": 1}], ["tags = 3"]),
        ("missing.csv", ["no file missing.csv"]),
        ("inputs.xlsx", [".xlsx", ".csv, .jsonl"]),
    ],
)
def test_bad_inputs_are_named(source, parts):
    refused(source, *parts)


def test_a_data_frame_gives_plain_values_and_its_gaps_are_missing_fields():
    frame = pd.DataFrame(
        {
            "text": ["a", None, "c"],
            "n": np.array([1, 2, 3], dtype="int64"),
            "x": [0.5, float("nan"), 1.5],
            "when": pd.to_datetime(["2026-01-02", None, "2026-01-03"]),
            "flag": pd.array([True, None, False], dtype="boolean"),
        }
    )
    found = load_inputs(frame)
    assert found[0].variables == {"text": "a", "n": 1, "x": 0.5, "when": "2026-01-02T00:00:00", "flag": True}
    assert found[1].variables == {"n": 2}
    json.dumps([each.as_dict() for each in found])


def test_csv_with_everything_that_csv_can_hold(tmp_path):
    path = tmp_path / "inputs.csv"
    long = "x" * 300_000
    path.write_bytes(
        b'\xef\xbb\xbfid, text ,expected\r\na,"one, ""two""\nthree",yes\r\n\r\n,"line\x0bwith \xe2\x80\xa8 breaks",\r\n'
        + f"c,{long},ü\r\n".encode()
    )
    found = load_inputs(path)
    assert [each.id for each in found] == ["a", "2", "c"]
    assert found[0].variables == {"text": 'one, "two"\nthree', "expected": "yes"}
    assert found[1].variables == {"text": "line\x0bwith \u2028 breaks", "expected": ""}
    assert found[2].variables == {"text": long, "expected": "ü"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["no header"]),
        (b"\n", ["no header"]),
        (b"text\n", ["no inputs"]),
        (b"a,a\n1,2\n", ["line 1", "'a' 2 times"]),
        (b"a,\n1,2\n", ["no name"]),
        (b"a,b\n1,2\n1,2,3\n", ["line 3", "3 fields", "header 2"]),
        (b"a,b\n1\n", ["line 2", "1 fields"]),
        (b'a\n"open\n', ["no valid CSV"]),
        (b'a\n"x"y\n', ["line 2", "no valid CSV"]),
        (b"a\n\xff\xfe\n", ["not UTF-8"]),
        (b"a\nx\0y\n", []),
    ],
)
def test_broken_csv_is_named_with_its_line(tmp_path, content, parts):
    path = tmp_path / "inputs.csv"
    path.write_bytes(content)
    if not parts:
        assert load_inputs(path)[0].variables == {"a": "x\0y"}
        return
    refused(path, *parts)


def test_jsonl(tmp_path):
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"id": 1, "text": "a\u2028b", "gap": null}\n\n{"text": {"deep": [1, null]}}', encoding="utf-8")
    found = load_inputs(str(path))
    assert [(each.id, each.variables) for each in found] == [
        ("1", {"text": "a\u2028b"}),
        ("2", {"text": {"deep": [1, None]}}),
    ]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"a": 1}\n{"a": \n', ["line 2", "no JSON"]),
        ("[1]\n", ["line 1", "[1]"]),
        ("[" * 100_000, ["line 1"]),
        ("\n\n", ["no inputs"]),
        ('{"a": NaN}', []),
    ],
)
def test_broken_jsonl_is_named_with_its_line(tmp_path, content, parts):
    path = tmp_path / "inputs.jsonl"
    path.write_text(content)
    if not parts:
        assert load_inputs(path)[0].variables == {}
        return
    refused(path, *parts)


def test_parquet_without_pyarrow_says_so(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "inputs.parquet"
    path.write_bytes(b"PAR1 not really")
    refused(path, "arquet")


def test_a_relative_path_starts_from_the_given_folder(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"a": 1}\n')
    assert load_inputs("data.jsonl", tmp_path)[0].variables == {"a": 1}
