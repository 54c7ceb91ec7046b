"""Comparing prompts in a panel: filling in, running, watching, pausing, exporting; against the fake and against the real engine room."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from test_panels import block, blocks, button, eventually, send

import noa_lab
from noa_lab.errors import RuntimeMissing, ServerExited
from noa_lab.experiments import RunProgress, Store, estimate, open_run, score, start
from noa_lab.inference import InferenceConfig
from noa_lab.testing import ScriptedEngine
from noa_lab.widgets import ComparePanel, RunView, show_run


def flat(panel):
    return json.dumps([panel.view, panel.parts])


def test_ready_at_once_and_says_how_many_answers(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    assert panel.settle()
    assert panel.view["status"] == "Ready to run: 6 answers"
    assert button(panel, "run")["primary"]


def test_run_with_what_was_typed_in_the_same_message(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    send(
        panel,
        "run",
        {
            "inputs": "a\nb",
            "prompt0.user": "Say {{ text }}",
            "temperature": "0",
            "scorers": "max_words: 5",
            "name": "mine",
        },
    )
    assert panel.settle()
    ((verb, grid, scorers, fresh, name),) = lab.calls
    assert (verb, fresh, name) == ("compare", False, "mine")
    assert grid.prompts["plain"].user == "Say {{ text }}"
    assert [found.variables["text"] for found in grid.inputs] == ["a", "b"]
    assert grid.sampling == (InferenceConfig(temperature=0.0, max_tokens=48),)
    assert scorers == (score.max_words(5),)
    assert panel.run is lab.run


def test_answers_scores_means_and_verdicts_appear(lab, opened):
    panel = opened(ComparePanel(scorers=[score.contains("Paris")], lab=lab))
    send(panel, "run")
    assert panel.settle()
    assert block(panel, "run-progress")["fraction"] == 0
    lab.run.answer(3, "Paris <script>alert(1)</script>")
    lab.run.answer(1, "London", 0.0)
    send(panel, "refresh", seq=2)
    rows = block(panel, "answers-table")["rows"]
    assert rows[0][1] == {"text": "Paris <script>alert(1)</script>", "marks": [["ok", "contains: yes"]]}
    assert rows[1][2]["marks"] == [["error", "contains: no"]]
    assert rows[0][0] == "1: What is the capital of France?"
    assert [row[0] for row in block(panel, "means-table")["rows"]] == ["plain", "brief"]
    assert block(panel, "means-table")["rows"][1] == ["brief", "2", "2", "0.500"]
    assert block(panel, "verdict-wait")
    lab.run.answer(9)
    send(panel, "refresh", seq=3)
    assert "brief is better than plain on contains" in block(panel, "verdict0")["text"]
    assert panel.view["state"] == "ok"


def test_a_model_that_is_fetched_first_is_seen(lab, opened, monkeypatch):
    panel = opened(ComparePanel(lab=lab))
    send(panel, "run")
    assert panel.settle()
    progress = lab.run.progress
    monkeypatch.setattr(lab.run, "progress", lambda: replace(progress(), opening="Download m 43%"))
    send(panel, "refresh", seq=2)
    assert block(panel, "run-progress")["text"].endswith("Download m 43%")


def test_failed_cells_and_cut_answers_are_marked(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    send(panel, "run")
    assert panel.settle()
    lab.run.answer(1, error="Unreachable: nothing answers")
    lab.run.answer(1)
    lab.run._cells[1]["finish_reason"] = "length"
    send(panel, "refresh", seq=2)
    row = block(panel, "answers-table")["rows"][0]
    assert row[1]["marks"] == [["error", "failed"]]
    assert "Unreachable" in row[1]["text"]
    assert ["info", "cut at its length"] in row[2]["marks"]
    assert "1 failed" in block(panel, "run-progress")["text"]


def test_repeats_are_averaged(lab, opened):
    panel = opened(ComparePanel(scorers=[score.contains("x")], repeats=4, lab=lab))
    send(panel, "run")
    assert panel.settle()
    lab.run.answer(1, score=1.0)
    lab.run.answer(3, score=0.0)
    send(panel, "refresh", seq=2)
    assert block(panel, "answers-table")["rows"][0][1]["marks"] == [["info", "contains: 0.25 over 4 repeats"]]


def test_pause_continue_cancel(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    send(panel, "run")
    assert panel.settle()
    assert not button(panel, "run")["enabled"]
    send(panel, "pause", seq=2)
    assert panel.settle()
    assert (lab.run.status, panel.view["status"]) == ("paused", "paused")
    send(panel, "resume", seq=3)
    assert panel.settle()
    assert lab.run.status == "running"
    send(panel, "cancel_run", seq=4)
    assert panel.settle()
    assert lab.run.status == "cancelled"
    assert button(panel, "run")["enabled"]
    send(panel, "run", seq=5, fresh=True)
    assert panel.settle()
    assert lab.calls[-1][3] is True


def test_an_error_of_the_run_is_shown(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    lab.error = ServerExited("llama-server ended.", fix="See its log.")
    send(panel, "run")
    assert panel.settle()
    assert panel.view["messages"] == [{"kind": "error", "text": "llama-server ended.", "fix": "See its log."}]
    assert panel.run is None
    lab.error = None
    send(panel, "run", seq=2)
    assert panel.settle()
    lab.run.status, lab.run.error = "failed", "The model could not be loaded."
    send(panel, "refresh", seq=3)
    assert block(panel, "run-error")["text"] == "The model could not be loaded."


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"repeats": "0"}, "repeats", "1 to"),
        ({"temperature": "hot"}, "temperature", "not a number"),
        ({"max_tokens": "-1"}, "max_tokens", "max_tokens"),
        ({"prompt0.user": "{{ text"}, "prompt0.user", "template"),
        ({"prompt1.name": "plain"}, "prompt1.name", "Two prompts"),
        ({"prompt1.name": " "}, "prompt1.name", "no name"),
        ({"inputs": ""}, "inputs", "no inputs"),
        ({"inputs": "{", "inputs_as": "jsonl"}, "inputs", "Line 1"),
        ({"inputs": "a,b\n1", "inputs_as": "csv"}, "inputs", "Row 2"),
        ({"inputs": "id,text\n1,a\n1,b", "inputs_as": "csv"}, "mistake", "id"),
        ({"scorers": "contain: x"}, "scorers", "'contains'"),
        ({"scorers": "max_words: many"}, "scorers", "whole number"),
    ],
)
def test_each_mistake_is_marked_where_it_is_and_nothing_runs(lab, opened, values, field, says):
    panel = opened(ComparePanel(lab=lab))
    send(panel, "edit", values)
    found = block(panel, field)
    assert says in found.get("error", "") + found.get("text", "")
    assert panel.view["state"] == "warn"
    assert not button(panel, "run")["enabled"]
    send(panel, "run", seq=2)
    assert panel.settle()
    assert lab.calls == []
    assert panel.view["messages"][0]["kind"] == "error"


def test_prompts_are_added_and_removed(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    send(panel, "add_prompt")
    send(panel, "edit", {"prompt2.user": "third {{ text }}"}, seq=2)
    assert panel.settle()
    assert list(panel.grid.prompts) == ["plain", "brief", "prompt 3"]
    send(panel, "remove_prompt", seq=3, prompt="prompt0")
    assert panel.settle()
    assert list(panel.grid.prompts) == ["brief", "prompt 3"]
    send(panel, "remove_prompt", seq=4, prompt="prompt1")
    send(panel, "remove_prompt", seq=5, prompt="prompt2")
    assert panel.settle()
    assert list(panel.grid.prompts) == ["prompt 3"]


def test_exports_are_written_and_their_place_is_said(lab, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel = opened(ComparePanel(lab=lab))
    send(panel, "run")
    assert panel.settle()
    lab.run.answer(2)
    send(panel, "csv", seq=2)
    assert panel.settle()
    assert str(tmp_path / "compare-r-2f9c81d4.csv") in panel.view["messages"][0]["text"]
    assert "An answer." in (tmp_path / "compare-r-2f9c81d4.csv").read_text()
    send(panel, "report", seq=3)
    assert panel.settle()
    assert (tmp_path / "compare-r-2f9c81d4.html").exists()
    lab.run.report = lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    send(panel, "report", seq=4)
    assert panel.settle()
    assert "No space left" in panel.view["messages"][0]["text"]


def test_a_big_run_sends_a_page_and_reads_only_what_changed(lab, opened):
    panel = opened(ComparePanel(inputs=[{"text": f"t{number}"} for number in range(500)], lab=lab))
    send(panel, "run")
    assert panel.settle()
    lab.run.answer(2000, "words " * 200)
    send(panel, "refresh", seq=2)
    assert panel.settle()
    state = len(json.dumps(panel.get_state(), default=str))
    assert state < 120_000
    reads = lab.run.reads
    for seq in range(3, 8):
        send(panel, "refresh", seq=seq)
        assert panel.settle()
    assert lab.run.reads == reads
    send(panel, "page", seq=9, table="answers-table", by=1)
    assert block(panel, "answers-table")["rows"][0][0] == "21: t20"
    assert block(panel, "answers-table")["total"] == 500


def test_a_run_view_follows_a_run_and_another_view_shows_the_same(lab, opened, monkeypatch):
    monkeypatch.setattr("noa_lab.widgets._run._RUNNING_SECONDS", 0.05)
    monkeypatch.setattr("noa_lab.widgets._looker._REST", 0)
    run = lab.compare(
        noa_lab.Grid({"a": "x {{ text }}", "b": "{{ text }}"}, [{"text": "one"}, {"text": "two"}]), name="tone"
    )
    first, second = opened(RunView(run, lab=lab)), opened(RunView(run, lab=lab))
    send(first, "here", seq=0)
    send(second, "here", seq=0)
    assert first.settle()
    assert first.view["status"] == "tone · r-2f9c81d4: running"
    run.answer(4)
    eventually(lambda: "done" in first.view["status"] and "done" in second.view["status"])
    assert first.settle()
    assert second.settle()
    assert first.parts["answers-table"] == second.parts["answers-table"]


def test_show_run_outside_of_a_notebook_shows_nothing(lab):
    assert show_run(lab.compare(noa_lab.Grid({"a": "x"}, [{"text": "y"}]))) is None


class RealRoom:
    """A Lab whose comparisons run in the real experiments room on a scripted engine."""

    def __init__(self, fake, path, gate):
        self._fake, self.gate = fake, gate
        self.models, self.home = fake.models, fake.home
        self.store = Store(path)

    def engine_for(self, ref, wish=None):
        from contextlib import nullcontext

        def answer(*_):
            self.gate.wait(60)
            return "Paris, of course"

        return nullcontext(ScriptedEngine(answer, model_name=ref))

    def estimate(self, grid):
        return estimate(grid.with_default_model("smollm2-135m"))

    def newest_run(self, grid):
        found = self.store.newest_run(grid.with_default_model("smollm2-135m"), "auto", {})
        return found and open_run(self.store, found, engine_for=self.engine_for)

    def compare(self, grid, scorers=(), *, fresh=False, name=""):
        grid = grid.with_default_model("smollm2-135m")
        return start(grid, tuple(scorers), store=self.store, engine_for=self.engine_for, fresh=fresh, name=name)


def test_with_the_real_experiments_room(lab, opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gate = threading.Event()
    room = RealRoom(lab, tmp_path / "runs.db", gate)
    panel = opened(ComparePanel(scorers=[score.contains("Paris")], lab=room))
    send(panel, "run")
    eventually(lambda: panel.run is not None)
    gate.set()
    panel.run.result(60)
    send(panel, "refresh", seq=2)
    assert panel.settle()
    assert panel.view["status"] == "done"
    assert block(panel, "run-progress")["fraction"] == 1
    assert block(panel, "answers-table")["rows"][0][1] == {
        "text": "Paris, of course",
        "marks": [["ok", "contains: yes"]],
    }
    assert block(panel, "means-table")["rows"][0] == ["plain", "3", "3", "1.000"]
    assert "Not enough data" in block(panel, "verdict0")["text"]
    first = panel.run.run_id
    send(panel, "csv", seq=3)
    assert panel.settle()
    assert len((tmp_path / f"compare-{first}.csv").read_text().splitlines()) == 7
    again = opened(ComparePanel(scorers=[score.contains("Paris")], lab=room))
    eventually(lambda: again.view.get("status") == "done")
    assert again.run.run_id == first
    send(again, "run")
    assert again.settle()
    assert again.run.run_id == first
    assert blocks(again, "table")[1]["rows"] == blocks(panel, "table")[1]["rows"]


def test_what_a_run_takes_is_said_before_it_starts(lab, opened):
    panel = opened(ComparePanel(lab=lab))
    assert panel.settle()
    assert block(panel, "plan")["text"].startswith("6 answers; about ")
    assert "at most 290 tokens of answers" in block(panel, "plan")["text"]
    send(panel, "edit", {"repeats": "10"})
    assert panel.settle()
    assert block(panel, "plan")["text"].startswith("60 answers; about ")
    send(panel, "run", seq=2)
    assert panel.settle()
    assert not [one for one in blocks(panel, "text") if one["id"] == "plan"]


def test_a_machine_without_llama_cpp_says_so_in_place_of_the_estimate(lab, opened, monkeypatch):
    def missing(grid):
        raise RuntimeMissing("llama.cpp is not installed.", fix="Run noa-lab install.")

    monkeypatch.setattr(lab, "estimate", missing)
    panel = opened(ComparePanel(lab=lab))
    assert panel.settle()
    assert block(panel, "plan")["text"] == "llama.cpp is not installed. Run noa-lab install."


def test_a_new_panel_shows_the_run_of_its_settings_without_a_press_of_run(lab, opened, tmp_path):
    gate = threading.Event()
    room = RealRoom(lab, tmp_path / "runs.db", gate)
    panel = opened(ComparePanel(scorers=[score.contains("Paris")], lab=room))
    send(panel, "run")
    eventually(lambda: panel.run is not None and panel.run.progress().running > 0)
    send(panel, "pause", seq=2)
    eventually(lambda: panel.run.status == "pausing")
    gate.set()
    eventually(lambda: panel.run.status == "paused")
    run_id, done = panel.run.run_id, panel.run.progress().done
    assert 0 < done < 6
    panel.close()
    again = opened(ComparePanel(scorers=[score.contains("Paris")], lab=room))
    eventually(lambda: again.view.get("status") == "paused")
    assert again.run.run_id == run_id
    assert block(again, "run-progress")["text"].startswith(f"{done} of 6")
    other = opened(ComparePanel(scorers=[score.contains("Paris")], seed=2, lab=room))
    assert other.settle()
    assert other.run is None
    send(other, "edit", {"seed": "1"})
    eventually(lambda: other.run is not None and other.run.run_id == run_id)
    send(again, "resume", seq=2)
    eventually(lambda: again.run.status == "done")
    assert again.run.progress().cached == 0


def test_the_fake_run_has_the_names_of_the_real_one(lab):
    from noa_lab.experiments import Run

    run = lab.compare(noa_lab.Grid({"a": "x"}, [{"text": "y"}]))
    for name in ("cells", "progress", "pause", "resume", "cancel", "report", "verdicts"):
        assert callable(getattr(Run, name))
        assert callable(getattr(run, name))
    for name in ("prompts", "scorers", "grid", "status"):
        assert hasattr(Run, name)
        assert hasattr(run, name)
    assert isinstance(run.progress(), RunProgress)
    assert time.monotonic()


def test_samplings_are_told_apart_by_what_differs():
    from noa_lab.inference import InferenceConfig
    from noa_lab.widgets._run_facts import _sampling

    cold, warm = (InferenceConfig(**InferenceConfig(temperature=each).model_dump()) for each in (0.0, 1.0))
    assert [_sampling(each, (cold, warm)) for each in (cold, warm)] == ["temperature 0.0", "temperature 1.0"]
