"""Scorers: what they say, what they refuse, and that files can spell them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from noa_lab.errors import BadInput, ExperimentError, TemplateInvalid, UnknownName
from noa_lab.experiments import score
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._specs import declared_range, scorer_from_spec

ROW = {"expected": "Paris", "n": 4, "empty": "", "nothing": None, "nan": math.nan}


@pytest.mark.parametrize(
    ("scorer", "answer", "wanted"),
    [
        (score.contains("{{ expected }}"), "It is Paris.", True),
        (score.contains("{{ expected }}"), "It is paris.", False),
        (score.contains("{{ expected }}", ignore_case=True), "It is PARIS.", True),
        (score.icontains("PARIS"), "paris", True),
        (score.icontains("STRASSE"), "Hauptstraße", True),
        (score.contains("{{ n }}"), "2 + 2 = 4", True),
        (score.contains("caf\u00e9"), "cafe\u0301 noir", True),
        (score.not_contains("sorry"), "Sure.", True),
        (score.not_contains("sorry", ignore_case=True), "Sorry.", False),
        (score.equals("{{ expected }}"), " Paris\n", True),
        (score.equals("{{ expected }}"), "Paris.", False),
        (score.equals("{{ empty }}"), "  ", True),
        (score.starts_with("Pa"), "\nParis", True),
        (score.starts_with("ris"), "Paris", False),
        (score.regex(r"^\w+$"), "Paris", True),
        (score.regex(r"^\w+$"), "Paris!", False),
        (score.regex(r"(?i)\b{{ expected }}\b"), "in PARIS now", True),
        (score.regex("aris"), "Paris", True),
        (score.regex("[0-9]+", negate=True), "none", True),
        (score.json_valid(), '  {"a": [1, null]} ', True),
        (score.json_valid(), '{"a": NaN}', False),
        (score.json_valid(), "```json\n{}\n```", False),
        (score.json_valid(), "[" * 100_000, False),
        (score.json_valid(), "9" * 10_000, False),
        (score.json_valid(required=["a"]), '{"a": 1, "b": 2}', True),
        (score.json_valid(required=["a", "c"]), '{"a": 1}', False),
        (score.json_valid(required=["a"]), "[1]", False),
        (score.max_words(2), "one two", True),
        (score.max_words(2), "one two  three", False),
        (score.min_words(1), " \n", False),
        (score.max_characters(3), " abc\n", True),
        (score.max_characters(3), "abcd", False),
        (score.min_characters(3), "ab", False),
        (score.max_words(2, negate=True), "one two three", True),
    ],
)
def test_says_what_it_should(scorer: Scorer, answer: str, wanted: bool) -> None:
    assert scorer(answer, ROW) is wanted


@pytest.mark.parametrize("variable", ["nothing", "nan", "absent", "empty"])
def test_an_input_without_the_field_is_not_scored(variable: str) -> None:
    for negate in (False, True):
        assert score.contains(f"{{{{ {variable} }}}}", negate=negate)("anything", ROW) is None


def test_check_names_a_field_that_no_input_has() -> None:
    score.contains("{{ expected }}").check({"expected", "text"})
    with pytest.raises(TemplateInvalid, match="expcted") as caught:
        score.contains("{{ expcted }}", name="right").check({"expected"})
    assert caught.value.fields["variable"] == "expcted"
    assert "'right'" in caught.value.message


def test_names() -> None:
    assert [
        s.name for s in (score.contains("a"), score.icontains("a"), score.not_contains("a"), score.max_words(3))
    ] == [
        "contains",
        "icontains",
        "not_contains",
        "max_words",
    ]
    assert score.regex("a", name="letter").name == "letter"


@pytest.mark.parametrize(
    "make",
    [
        lambda: score.contains(""),
        lambda: score.contains(None),  # type: ignore[arg-type]
        lambda: score.contains(["a"]),  # type: ignore[arg-type]
        lambda: score.contains("a", name=" padded "),
        lambda: score.contains("a", name="x" * 81),
        lambda: score.contains("a", ignore_case="yes"),  # type: ignore[arg-type]
        lambda: score.contains("{{ a"),
        lambda: score.regex("(a"),
        lambda: score.regex("a" * 3_000),
        lambda: score.max_words(-1),
        lambda: score.max_words(True),
        lambda: score.max_words("3"),  # type: ignore[arg-type]
        lambda: score.json_valid(required="title"),
        lambda: score.function(lambda answer, row: True),
        lambda: score.function("len"),  # type: ignore[arg-type]
    ],
)
def test_refuses_what_cannot_work(make: Any) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert caught.value.fix


def test_function_values() -> None:
    def length(answer: str, row: Any) -> Any:
        return row["value"]

    mine = score.function(length)
    assert mine.name == "length"
    assert mine("", {"value": 0.25}) == 0.25
    assert mine("", {"value": np.float32(0.5)}) == 0.5
    assert mine("", {"value": np.bool_(True)}) is True
    assert mine("", {"value": None}) is None
    negated = score.function(length, negate=True)
    assert negated.name == "not_length"
    assert negated("", {"value": True}) is False
    assert negated("", {"value": 0.25}) == 0.75
    for wrong in ("yes", math.nan, math.inf, [1]):
        with pytest.raises(ExperimentError, match="returned"):
            mine("", {"value": wrong})


def test_function_range() -> None:
    def stars(answer: str, row: Mapping[str, Any]) -> float:
        return float(answer)

    mine = score.function(stars, low=1, high=5)
    assert mine("5", {}) == 5
    assert score.function(stars, low=1, high=5, negate=True)("5", {}) == 1
    with pytest.raises(ExperimentError, match="outside of its range from 1 to 5"):
        mine("6", {})
    assert (mine.spec()["low"], mine.spec()["high"]) == (1, 5)
    assert "low" not in score.function(stars).spec()
    assert declared_range([score.function(stars).spec(), mine.spec()], "score.stars") == (1.0, 5.0)
    assert declared_range([score.max_words(3).spec()], "max_words") is None


@pytest.mark.parametrize("ends", [{"low": 1}, {"high": 1}, {"low": 5, "high": 1}, {"low": 0, "high": math.inf}])
def test_a_wrong_range_is_refused(ends: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="is no range"):
        score.function(max, name="m", **ends)  # type: ignore[arg-type]


def test_function_spec_tells_versions_apart_but_cannot_be_made_again() -> None:
    def one(answer: str, row: Any) -> bool:
        return len(answer) > 1

    def two(answer: str, row: Any) -> bool:
        return len(answer) > 2

    first, second = score.function(one, name="f").spec(), score.function(two, name="f").spec()
    assert json.loads(json.dumps(first)) == first
    assert first["source_sha256"] != second["source_sha256"]
    with pytest.raises(BadInput, match="Python function"):
        scorer_from_spec(first)


@pytest.mark.parametrize(
    "scorer",
    [
        score.contains("{{ expected }}"),
        score.contains("a", name="x", ignore_case=True, negate=True),
        score.icontains("a"),
        score.icontains("a", negate=True),
        score.equals("a"),
        score.starts_with("a", negate=True),
        score.regex("a+", ignore_case=True),
        score.json_valid(),
        score.json_valid(required=("a", "b"), negate=True),
        score.max_words(3, name="short"),
        score.min_words(0),
        score.max_characters(3, negate=True),
        score.min_characters(3),
    ],
    ids=lambda scorer: scorer.name,
)
def test_spec_makes_an_equal_scorer(scorer: Scorer) -> None:
    spec = json.loads(json.dumps(scorer.spec()))
    again = scorer_from_spec(spec)
    assert again == scorer
    assert again.spec() == scorer.spec()
    assert isinstance(again, Scorer)


def test_specs_of_the_design() -> None:
    assert scorer_from_spec({"contains": "{{ expected }}"}) == score.contains("{{ expected }}")
    assert scorer_from_spec({"name": "short", "max_words": 30}) == score.max_words(30, name="short")
    assert scorer_from_spec({"not_contains": "a"}) == score.not_contains("a")
    assert scorer_from_spec({"json_valid": False}) == score.json_valid(negate=True)
    assert scorer_from_spec({"contains": 4}) == score.contains("4")


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ({"contians": "a"}, "contains"),
        ({"max_word": 3}, "max_words"),
        ({"not_contans": "a"}, "contains"),
        ({"contains": "a", "ignorecase": True}, "ignore_case"),
        ({"max_words": 3, "nam": "short"}, "name"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(spec: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UnknownName) as caught:
        scorer_from_spec(spec)
    assert caught.value.fields["nearest"] == nearest


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"name": "x"},
        {"contains": "a", "equals": "b"},
        {"not_contains": "a", "negate": True},
        {"json_valid": ["a"]},
        {"max_words": 3, "ignore_case": True},
        {"contains": None},
        {1: 2},
        "contains",
    ],
)
def test_other_wrong_specs(spec: Any) -> None:
    with pytest.raises(BadInput) as caught:
        scorer_from_spec(spec)
    assert caught.value.fix
