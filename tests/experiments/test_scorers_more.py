"""Scorers of structure, likeness and contents; put together; in files."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import sacrebleu

from noa_lab.errors import BadInput, ExperimentError, TemplateInvalid, UnknownName
from noa_lab.experiments import score, scorer_from_spec
from noa_lab.experiments.report._facts import _scorer
from noa_lab.experiments.score._specs import KINDS

ROW = {"expected": "Paris", "several": ["Paris", "Lutetia"], "nothing": None, "n": 42, "flag": False, "tags": []}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "people": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("scorer", "answer", "wanted"),
    [
        (score.contains_any(["rome", "Paris"]), "It is Paris.", True),
        (score.contains_any(["Rome", "Oslo"]), "It is Paris.", False),
        (score.contains_any("{{ several }}"), "Old Lutetia", True),
        (score.contains_any(["{{ nothing }}", "{{ expected }}"]), "Paris", True),
        (score.contains_any(["{{ nothing }}"]), "Paris", None),
        (score.contains_all("{{ several }}"), "Paris, once Lutetia", True),
        (score.contains_all(["Paris", "rome"], ignore_case=True), "PARIS and Rome", True),
        (score.contains_all(["Paris", "Rome"]), "Paris", False),
        (score.contains("{{ several }}"), "Lutetia", True),
        (score.ends_with("."), "Yes.\n", True),
        (score.ends_with("."), "Yes", False),
        (score.json_schema(SCHEMA), '{"city": "Paris", "people": 3}', True),
        (score.json_schema(SCHEMA), '{"city": "paris"}', False),
        (score.json_schema(SCHEMA), '{"city": "Paris", "x": 1}', False),
        (score.json_schema(SCHEMA), 'Here: {"city": "Paris"}', False),
        (score.json_schema(SCHEMA, negate=True), "no", True),
        (score.contains_json(), 'Here you are:\n```json\n{"city": "Paris"}\n```', True),
        (score.contains_json(), "{ no [ json", False),
        (score.contains_json(SCHEMA), 'First {"a": 1}, then {"city": "Paris"}', True),
        (score.contains_json(SCHEMA), 'Only {"a": 1}', False),
        (score.contains_json(), '{"a": NaN}', False),
        (score.xml_valid(), "<a><b>x</b></a>", True),
        (score.xml_valid(), "<a><b>x</a></b>", False),
        (score.xml_valid(), "Here: <a/>", False),
        (score.xml_valid(required=["a/b"]), "<r><a><b/></a></r>", True),
        (score.xml_valid(required=["c"]), "<r><a><b/></a></r>", False),
        (score.contains_xml(), "Here: <answer>42</answer>!", True),
        (score.contains_xml(), "Here: <br/> done", True),
        (score.contains_xml(), "2 < 3 and <b open", False),
        (score.contains_xml(required=["text"]), "<x>no</x> <answer><text>42</text></answer>", True),
        (score.html_valid(), "<!doctype html><html><body><p>Hi<br>there</p></body></html>", True),
        (score.html_valid(), "<ul><li>one<li>two</ul>", True),
        (score.html_valid(), "<div><p>Hi</div>", True),
        (score.html_valid(), "<div><b>Hi</div></b>", False),
        (score.html_valid(), "Sure! <p>Hi</p>", False),
        (score.html_valid(), "<made-up>Hi</made-up>", False),
        (score.contains_html(), "Sure! <p>Hi</p>", True),
        (score.contains_html(), "a < b > c", False),
        (score.levenshtein("Paris"), "Pariss", True),
        (score.levenshtein("Paris", at_most=0), "Pariss", False),
        (score.levenshtein("{{ several }}", at_most=1), "Lutetja", True),
        (score.number("{{ n }}"), "First 7, then it is 42.", True),
        (score.number("{{ n }}", first=True), "First 7, then it is 42.", False),
        (score.number(1234.5), "= 1,234.5", True),
        (score.number(3.14, tolerance=0.01), "about 3.1416", True),
        (score.number(3), "none", False),
        (score.number("{{ nothing }}"), "3", None),
        (score.number("-2"), "x = -2", True),
        (score.number("-2"), "-2", True),
        (score.number(12), "It takes 10-12 days.", True),
        (score.number(3), "(5)-3", True),
        (score.choice("B"), "The answer is B, not A.", True),
        (score.choice("A"), "The answer is B, not A.", False),
        (score.choice("yes", among=["yes", "no"]), "Well, yes.", True),
        (score.choice("no", among=["yes", "no"]), "I know: yes", False),
        (score.choice("{{ nothing }}"), "A", None),
        (score.refusal(), "I'm sorry, but I can't help with that.", True),
        (score.refusal(), "I cannot assist with this request.", True),
        (score.refusal(), "   ", True),
        (score.refusal(), "Sure, here it is. The phrase is often heard.", False),
        (score.refusal(), "x" * 500 + " I cannot help with that", False),
        (score.refusal(negate=True), "Sure.", True),
        (score.similarity("Paris", at_least=0.9), "Paris", True),
        (score.similarity("Paris", at_least=0.9), "Rome", False),
    ],
)
def test_says_what_it_should(scorer: Any, answer: str, wanted: bool | None) -> None:
    assert scorer(answer, ROW) is wanted


@pytest.mark.parametrize(
    ("scorer", "wanted"),
    [
        (score.max_tokens(5), True),
        (score.min_tokens(6), False),
        (score.finish_reason("stop"), True),
        (score.finish_reason("length"), False),
    ],
)
def test_what_is_known_of_the_answer(scorer: Any, wanted: bool) -> None:
    assert scorer("x", {"completion_tokens": 5, "finish_reason": "stop"}) is wanted
    assert scorer("x", {}) is None


def test_likeness_is_that_of_the_libraries() -> None:
    from rapidfuzz.distance import Indel, JaroWinkler

    answer, text = "The cat sat on the mat.", "A cat sat on a mat."
    assert score.similarity(text)(answer, {}) == pytest.approx(Indel.normalized_similarity(answer, text))
    assert score.similarity(text, method="jaro_winkler")(answer, {}) == JaroWinkler.normalized_similarity(answer, text)
    assert score.similarity("mat cat", method="words")("the cat mat", {}) == 1
    assert score.similarity("sat", method="partial")(answer, {}) == 1
    assert score.similarity("THE CAT", ignore_case=True)("the cat", {}) == 1
    assert score.bleu(text)(answer, {}) == pytest.approx(
        sacrebleu.sentence_bleu(answer, [text], use_effective_order=True).score / 100
    )
    assert score.chrf(text)(answer, {}) == pytest.approx(sacrebleu.sentence_chrf(answer, [text]).score / 100)
    for scorer in (score.bleu(answer), score.chrf(answer), score.gleu(answer), score.rouge(answer), score.f1(answer)):
        assert scorer(answer, {}) == pytest.approx(1, abs=1e-6)
        assert scorer("", {}) == 0


def test_rouge_by_hand() -> None:
    # 4 of 6 words of the answer are among the 5 of the reference: "the" counts once.
    answer, text = "the cat is on the mat", "the cat on a mat"
    assert score.rouge(text)(answer, {}) == pytest.approx(2 * 4 / 11, abs=1e-6)
    assert score.rouge(text, n=2)(answer, {}) == pytest.approx(2 * 1 / 9, abs=1e-6)
    assert score.rouge(text, n="l")(answer, {}) == pytest.approx(2 * 4 / 11)
    assert score.f1(text)(answer, {}) == pytest.approx(2 * 4 / 11)
    assert score.rouge(text, n="l")("word " * 3_000, {}) == 0


def test_gleu_by_hand() -> None:
    # Runs of 1 to 4 words: 3 of 6 in "a b c" are among the 10 of "a b d c".
    assert score.gleu("a b d c")("a b c", {}) == pytest.approx(4 / 10)


def test_the_best_of_several_references_counts() -> None:
    assert score.similarity(["Rome", "Paris"])("Paris", {}) == 1
    assert score.f1("{{ several }}")("Lutetia", ROW) == 1
    assert score.similarity("{{ nothing }}")("Paris", ROW) is None


def test_when() -> None:
    scorer = score.contains("Paris", when="expected")
    assert scorer("Paris", ROW) is True
    for field in ("nothing", "flag", "tags", "absent"):
        assert score.contains("Paris", when=field)("Paris", ROW) is None
    scorer.check({"expected"})
    with pytest.raises(TemplateInvalid, match="'absent'"):
        score.max_words(3, when="absent").check({"expected"})


def test_weighted() -> None:
    parts = [score.contains("Paris", weight=3), score.max_words(2), score.contains("{{ nothing }}", weight=9)]
    assert score.weighted(parts)("It is Paris", ROW) == pytest.approx(3 / 4)
    assert score.weighted(parts, at_least=0.7)("It is Paris", ROW) is True
    assert score.weighted(parts, negate=True)("It is Paris", ROW) == pytest.approx(1 / 4)
    assert score.weighted(parts[2:])("It is Paris", ROW) is None
    assert score.all_of(parts)("Paris", ROW) is True
    assert score.all_of(parts)("It is Paris", ROW) is False
    assert score.any_of(parts)("It is Rome", ROW) is False
    with pytest.raises(TemplateInvalid):
        score.all_of([score.contains("{{ absent }}")]).check({"expected"})
    with pytest.raises(ExperimentError, match="cannot be put together"):
        score.weighted([score.function(lambda answer, row: 7, name="seven")])("x", {})
    with pytest.raises(BadInput, match="no scorers"):
        score.weighted([])
    with pytest.raises(BadInput, match="part of another"):
        score.weighted(["contains"])  # type: ignore[list-item]


def test_graded_scores_are_turned_round() -> None:
    assert score.f1("a b", negate=True)("a", {}) == pytest.approx(1 - 2 / 3)
    assert score.f1("a b", negate=True, at_least=0.9)("a", {}) is True


SPECS: list[dict[str, Any]] = [
    {"name": "any", "contains_any": ["a", "{{ expected }}"], "ignore_case": True},
    {"name": "not_contains_all", "not_contains_all": ["a"], "weight": 2.0, "when": "expected"},
    {"name": "s", "json_schema": SCHEMA},
    {"name": "c", "contains_json": True, "schema": SCHEMA},
    {"name": "x", "xml_valid": True, "required": ["a"]},
    {"name": "h", "not_contains_html": True},
    {"name": "close", "similarity": "{{ expected }}", "method": "levenshtein", "at_least": 0.5},
    {"name": "l", "levenshtein": "abc", "at_most": 2},
    {"name": "r", "rouge": "abc", "n": "l"},
    {"name": "n", "number": "42", "tolerance": 0.5, "first": True},
    {"name": "pick", "choice": "yes", "among": ["yes", "no"]},
    {"name": "t", "max_tokens": 30},
    {"name": "f", "finish_reason": "stop"},
    {"name": "sorry", "refusal": True},
    {
        "name": "all",
        "weighted": [{"name": "a", "contains": "a", "weight": 3.0}, {"name": "b", "not_max_words": 2}],
        "at_least": 0.5,
    },
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec["name"]))
def test_files_and_snippets_hold_it(spec: dict[str, Any]) -> None:
    made = scorer_from_spec(spec)
    assert made.spec() == spec
    assert scorer_from_spec(json.loads(json.dumps(made.spec()))) == made

    import noa_lab as lab

    assert eval(_scorer(spec), {"lab": lab}) == made


def test_every_kind_has_its_place() -> None:
    assert set(KINDS) == set(score.__all__) - {"function", "not_contains"}
    for name in score.__all__:
        assert getattr(score, name).__doc__


@pytest.mark.parametrize(
    "spec",
    [
        {"json_schema": {"type": "nonsense"}},
        {"json_schema": "object"},
        {"json_schema": {"pattern": "(a"}},
        {"similarity": "a", "method": "magic"},
        {"rouge": "a", "n": 9},
        {"rouge": "a", "n": True},
        {"number": "many"},
        {"choice": "a", "among": "yes"},
        {"levenshtein": "a", "at_most": -1},
        {"similarity": "a", "at_least": 2},
        {"contains": "a", "weight": -1},
        {"contains": "a", "when": 3},
        {"contains_any": []},
        {"contains_any": [True]},
        {"weighted": "contains"},
        {"weighted": ["contains"]},
        {"xml_valid": "yes"},
        {"xml_valid": True, "required": "a"},
        {"finish_reason": ""},
    ],
)
def test_refuses_what_cannot_work(spec: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        scorer_from_spec(spec)
    assert caught.value.fix


def test_a_misspelled_kind_is_offered_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        scorer_from_spec({"similarty": "a"})
    assert caught.value.fields["nearest"] == "similarity"


def test_a_schema_fetches_nothing_and_cannot_hang() -> None:
    outside = score.json_schema({"$ref": "https://example.invalid/schema.json"})
    with pytest.raises(ExperimentError, match="nothing is fetched"):
        outside("{}", {})
    slow = score.json_schema({"type": "string", "pattern": "(a+)+$"})
    began = time.monotonic()
    with pytest.raises(ExperimentError, match="took more than"):
        slow(json.dumps("a" * 40 + "!"), {})
    assert time.monotonic() - began < 20
    by_name = score.json_schema({"patternProperties": {"^x": {"type": "integer"}}})
    assert by_name('{"x1": 1, "y": "a"}', {}) is True
    assert by_name('{"x1": "a"}', {}) is False


def test_hostile_answers() -> None:
    laughs = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><l>&b;</l>'
    assert score.xml_valid()(laughs, {}) is False
    deep = "[" * 100_000
    assert score.contains_json()(deep, {}) is False
    assert score.json_schema(SCHEMA)(deep, {}) is False
    began = time.monotonic()
    for scorer in (score.contains_json(), score.contains_xml(), score.contains_html()):
        scorer("<a" * 50_000, {})
        scorer("<a>" * 50_000, {})
        scorer("{[" * 50_000, {})
    score.html_valid()("<a" * 10_000, {})
    with pytest.raises(ExperimentError, match="too many"):
        score.html_valid()("<a" * 50_000, {})
    for scorer in (score.similarity("b" * 50_000), score.levenshtein("b" * 50_000), score.chrf("b" * 50_000)):
        scorer("a" * 100_000, {})
    assert time.monotonic() - began < 30
