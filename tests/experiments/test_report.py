"""The report: opens anywhere, runs nothing, shows hostile texts as texts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from verdict_data import cells_of

from noa_lab.errors import BadInput
from noa_lab.experiments import Grid, Prompt, score
from noa_lab.experiments.report._answers import MAX_CELLS
from noa_lab.experiments.report._facts import RunFacts, facts_of
from noa_lab.experiments.report._page import POLICY, all_verdicts, report_html, write_markdown, write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><style>body{display:none}</style>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "<!-- ",
    "]]></svg><script>x</script>",
    "&lt;b&gt;",
    "\x00\x1b[31m\ud800\u202e",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
]
VOID = {"meta", "br", "img", "link", "input", "hr", "path", "circle", "rect"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order, and everything seen is remembered."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def values(self, name: str) -> list[str | None]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def _facts(**changes: Any) -> RunFacts:
    facts = RunFacts(
        run_id="r-2f9c81d4",
        name="capitals",
        created="2026-11-22T14:03:11+00:00",
        prompts={"plain": "Capital of {{ text }}?", "persona": [{"role": "system", "content": "Be brief."}]},
        sampling=[{"temperature": 0.7, "max_tokens": 24}],
        models=["m"],
        scorers=[{"name": "contains", "contains": "{{ expected }}"}],
        provenance={"noa_lab": "0.1.0", "engines": {"m": {"model_sha256": "b179c952", "build": "b11312"}}},
        snippet="import noa_lab as lab",
    )
    return replace(facts, **changes)


def _cells() -> pd.DataFrame:
    return cells_of({"plain": [0] * 12 + [1] * 12, "persona": [1] * 24})


def test_is_one_valid_page_without_anything_from_outside() -> None:
    text = report_html(_cells(), _facts())
    page = Page(text)
    assert text.startswith("<!doctype html>\n")
    assert (
        page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == page.tags["object"] == 0
    )
    assert ("meta", "content", POLICY) in page.attributes
    assert POLICY.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert not re.search(r"(https?:)?//[a-z]|url\(|@import", text)
    assert all(value and value.startswith("#") for value in page.values("href"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    # The policy stands before anything that it could forbid.
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_can_be_read_by_everybody() -> None:
    page = Page(report_html(_cells(), _facts()))
    assert ("html", "lang", "en") in page.attributes
    assert page.tags["h1"] == page.tags["main"] == page.tags["header"] == page.tags["footer"] == page.tags["nav"] == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "href"):
        for value in page.values(name):
            assert all(each.lstrip("#") in ids for each in (value or "").split())
    pictures = [value for tag, name, value in page.attributes if tag == "svg" and name == "role"]
    assert pictures == ["img"] * page.tags["svg"]
    assert page.tags["svg"] == page.tags["desc"] == 2
    assert page.tags["title"] == 3


def test_says_what_a_reader_needs() -> None:
    facts = _facts()
    text = " ".join(Page(report_html(_cells(), facts)).text)
    verdict = all_verdicts(_cells(), facts)[0]
    assert verdict.outcome == "better"
    for wanted in (
        verdict.sentence,
        "▲ Better",
        "✓ contains: pass",
        "✗ contains: fail",
        "text 3",
        "Be brief.",
        "temperature 0.7, max_tokens 24",
        "b179c952",
        "b11312",
        "import noa_lab as lab",
        "ms (share)",
        "not comparable between prompts",
    ):
        assert wanted in text, wanted


def _latency_cells() -> pd.DataFrame:
    cells = _cells()
    slow = cells["prompt"].map({"plain": 1.0, "persona": 1.5})
    return cells.assign(executor="latency", total_ms=slow * (100 + cells["input_id"].str[1:].astype(int)))


def test_times_of_a_latency_pass_are_compared_and_others_are_called_shares(tmp_path: Path) -> None:
    texts = [" ".join(Page(report_html(cells, _facts())).text) for cells in (_cells(), _latency_cells())]
    assert ["ms (share)" in text for text in texts] == [True, False]
    assert ["latency pass" in text for text in texts] == [False, True]
    assert ["persona is slower than plain on total_ms" in text for text in texts] == [False, True]
    run = _run()
    run._cells = _latency_cells()
    written = write_markdown(run, tmp_path / "times.md").read_text(encoding="utf-8")
    assert "| time, ms |" in written
    assert "share" not in written.replace("cached_share", "").replace("cached\\_share", "")
    assert "slower" in written


def test_hostile_texts_stay_texts() -> None:
    cells = _cells()
    for place in ("answer", "input.text", "error"):
        cells[place] = pd.Series([HOSTILE[number % len(HOSTILE)] for number in range(len(cells))], dtype=object)
    cells.loc[cells.index % 5 == 0, "status"] = "failed"
    name = HOSTILE[0]
    cells["prompt"] = cells["prompt"].replace("persona", name)
    cells = cells.rename(columns={"score.contains": f"score.{HOSTILE[1]}", "input.text": f"input.{HOSTILE[3]}"})
    facts = _facts(
        name=HOSTILE[2],
        prompts={"plain": HOSTILE[5], name: [{"role": HOSTILE[3], "content": HOSTILE[1]}]},
        provenance={HOSTILE[0]: HOSTILE[1], "engines": {HOSTILE[2]: {HOSTILE[3]: HOSTILE[4]}}},
        sampling=[{HOSTILE[0]: HOSTILE[3]}],
        scorers=[{"name": HOSTILE[0], "regex": HOSTILE[3]}],
        models=[HOSTILE[1]],
        snippet=HOSTILE[5],
    )
    page = Page(report_html(cells, facts))
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.tags["style"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    text = "".join(page.text)
    for each in HOSTILE[:7]:
        assert each in text
    assert "\x00" not in text
    assert "\ufffd" in text


def test_tells_what_is_missing() -> None:
    cells = _cells()
    cells.loc[cells.index[:2], "status"] = "failed"
    cells.loc[cells.index[2:5], "status"] = "pending"
    text = " ".join(Page(report_html(cells, _facts())).text)
    assert "2 failed and 3 not run yet of 48" in text
    assert "5 of 24 inputs left out (no score in both)" in text
    assert "pending: no answer yet" in text


def test_equal_scores_are_drawn_with_an_interval_only_where_their_range_is_known() -> None:
    cells = cells_of({"plain": [5] * 24, "persona": [5] * 24}, name="stars")
    page = Page(report_html(cells, _facts()))
    assert page.tags["svg"] == 1
    assert re.search(r"5\.0+\s+\(not known\)", " ".join(page.text))
    declared = _facts(scorers=[{"name": "stars", "function": "m:stars", "low": 1, "high": 5}])
    assert Page(report_html(cells, declared)).tags["svg"] == 2
    assert not re.search(r"\bnan\b", report_html(cells, _facts()))


def test_without_scores_or_answers() -> None:
    bare = _cells().drop(columns="score.contains")
    assert "nothing to compare" in report_html(bare, _facts())
    one = _cells().query("prompt == 'plain'")
    assert "Only one prompt" in report_html(one, _facts())
    waiting = _cells().assign(status="pending", answer=None, **{"score.contains": None})
    Page(report_html(waiting, _facts()))
    Page(report_html(_cells().iloc[:0], _facts()))


def test_repeats_with_equal_answers_are_shown_once() -> None:
    cells = cells_of({"plain": [[1, 1, 0]] * 10, "persona": [[0, 0, 0]] * 10})
    text = " ".join(Page(report_html(cells, _facts())).text)
    assert "repeats 1, 2, 3" in text
    assert "repeats 1, 2 " in text
    assert "repeat 3" in text


def test_a_scorer_that_failed_says_so() -> None:
    cells = _cells().assign(**{"score_error.contains": "ExperimentError: too slow"})
    cells["score.contains"] = float("nan")
    assert "contains: scorer failed: ExperimentError: too slow" in report_html(cells, _facts())


def test_a_long_table_is_cut_and_says_so() -> None:
    inputs = MAX_CELLS // 2 + 100
    text = report_html(cells_of({"plain": [0] * inputs, "persona": [1] * inputs}), _facts())
    page = Page(text)
    assert f"first {MAX_CELLS // 2:,} of {inputs:,} inputs" in " ".join(page.text)
    assert text.count('<div class="answer">') == MAX_CELLS


def test_rows_come_in_the_grids_order() -> None:
    cells = _cells().sample(frac=1, random_state=1)
    text = report_html(cells, _facts(inputs=[f"i{number}" for number in range(24)]))
    found = re.findall(r'<div class="id">(i\d+)</div>', text)
    assert found == [f"i{number}" for number in range(24)]


# Files


class FakeRun:
    """Has what a report needs of a run."""

    def __init__(self, grid: Grid, cells: pd.DataFrame, scorers: list[Any]) -> None:
        self.grid, self._cells, self._scorers = grid, cells, scorers

    def cells(self) -> pd.DataFrame:
        return self._cells

    def as_dict(self) -> dict[str, Any]:
        return {
            "run_id": "r-1",
            "name": "tone",
            "created": "2026-11-22",
            "prompts": {name: prompt.turns() for name, prompt in self.grid.prompts.items()},
            "models": list(self.grid.models),
            "sampling": [config.model_dump(mode="json") for config in self.grid.sampling],
            "repeats": self.grid.repeats,
            "seed": self.grid.seed,
            "exclude": self.grid.exclude.as_list(),
            "executor": "strict",
            "scorers": [scorer.spec() for scorer in self._scorers],
            "provenance": {},
        }


def _run(inputs: int = 24) -> FakeRun:
    grid = Grid(
        prompts={
            "plain": "Say '{{ text }}'\n\"now\"",
            "persona": Prompt(system="You are\nan editor.", user="{{ text }}"),
        },
        inputs=[
            {"id": f"i{n}", "text": f"text {n}", "expected": n, "cluster": f"c{n % 12}", "tags": ["a"]}
            for n in range(inputs)
        ],
        models=["m"],
        sampling=[{"temperature": 0.5, "max_tokens": 9, "seed": 3}],
        repeats=2,
        seed=5,
        exclude=[{"prompt": "plain", "input": ["i1", "i2"]}],
    )
    scorers = [
        score.contains("{{ expected }}"),
        score.not_contains("sorry", name="polite", ignore_case=True),
        score.max_words(30, name="short"),
        score.json_valid(required=["a"], negate=True),
    ]
    return FakeRun(grid, cells_of({"plain": [0] * inputs, "persona": [1] * inputs}), scorers)


def test_the_snippet_is_the_same_grid_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import noa_lab as lab
    from noa_lab.inference import InferenceConfig

    run = _run()
    asked: dict[str, Any] = {}

    def compare(grid: Grid, **rest: Any) -> Any:
        asked.update(rest, grid=grid)
        return SimpleNamespace(result=lambda: None)

    for name, value in {"Grid": Grid, "InferenceConfig": InferenceConfig, "score": score, "compare": compare}.items():
        monkeypatch.setattr(lab, name, value, raising=False)
    exec(compile(facts_of(run).snippet, "snippet", "exec"), {})
    assert asked["grid"] == run.grid
    assert asked["scorers"] == run._scorers
    assert asked["name"] == "tone"
    assert asked["executor"] == "strict"


def test_a_function_is_a_place_to_be_filled_in_with_all_that_was_said_of_it() -> None:
    run = _run()
    run._scorers.append(score.function(len, name="letters", low=0, high=9, weight=2.0, when="text"))
    assert "lab.score.function(..., name='letters', low=0, high=9, weight=2.0, when='text')" in facts_of(run).snippet


def test_a_long_snippet_takes_the_inputs_from_the_store() -> None:
    snippet = facts_of(_run(60)).snippet
    assert "inputs=lab.open_run('r-1').grid.inputs," in snippet
    assert len(snippet) < 2_000


def test_write_report(tmp_path: Path) -> None:
    path = write_report(_run(), tmp_path / "compare.html")
    assert path == tmp_path / "compare.html"
    Page(path.read_text(encoding="utf-8"))
    assert [each.name for each in tmp_path.iterdir()] == ["compare.html"]


def test_write_markdown(tmp_path: Path) -> None:
    run = _run()
    run._cells["prompt"] = run._cells["prompt"].replace("persona", "<i>|x|</i>")
    text = write_markdown(run, tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "| prompt | inputs |" in text
    assert "&lt;i>\\|x\\|&lt;/i>" in text
    assert "<i>" not in text
    assert "not comparable between prompts" in text


@pytest.mark.parametrize("name", ["report", "report.txt", "missing/report.html", "folder.html"])
def test_a_path_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(BadInput) as caught:
        write_report(_run(), tmp_path / name)
    assert caught.value.fix
