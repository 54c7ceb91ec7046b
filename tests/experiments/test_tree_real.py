"""Comparisons by the executor "tree", on the real model: what they share, how they are stopped, and when "auto" takes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from comparison_rig import wait_for

from noa_lab.experiments import Grid
from noa_lab.workbench import Lab

pytestmark = pytest.mark.real

COLOURS = ("red", "blue", "green", "white", "black", "yellow")


@pytest.fixture
def lab(home, runtime, model):
    made = Lab(home)
    yield made
    made.store.close()


def documents(number: int, questions: int, tokens: int = 6, **changes) -> Grid:
    """Questions at the end of documents: small versions of grid A of the benchmarks."""
    texts = [" ".join(f"House {at} is {COLOURS[(at + place) % 6]}." for at in range(24)) for place in range(number)]
    return Grid(
        {"short": "{{ text }}\n\nIn one word: {{ q }}", "long": "Read this.\n\n{{ text }}\n\n{{ q }} Say why."},
        [{"text": text, "q": f"what colour has house {at}?"} for text in texts for at in range(questions)],
        **{"sampling": [{"temperature": 0.0, "max_tokens": tokens}], **changes},
    )


def tree_children(pid: int | None = None) -> list[psutil.Process]:
    return [each for each in psutil.Process(pid).children() if "_tree_child" in " ".join(each.cmdline())]


def test_a_small_grid_a_evaluates_what_it_must_and_says_how_it_was_run(lab, tmp_path):
    run = lab.compare(documents(2, 4), executor="tree").result(timeout=240)
    frame = run.cells()
    assert set(frame["status"]) == {"done"}
    assert set(frame["executor"]) == {"tree"}
    assert (frame["cached_tokens"] > 100).mean() > 0.7
    (plan,) = run.plan
    assert (plan.executor, plan.lanes, plan.copying, plan.answers) == ("tree", 8, True, 16)
    assert plan.evaluated <= 1.02 * plan.least_tokens
    assert lab.servers() == []
    (engine,) = run.provenance["engines"].values()
    assert engine["executor"] == "embedded tree"
    row = lab.store.cells(run.run_id, raw=True)[0]
    assert "<|im_start|>" in row["request"]["prompt"]
    assert "embedded tree" in run.report(tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_small_grid_b_evaluates_what_it_must(lab):
    shots = " ".join(f"Text: the {COLOURS[at % 6]} house. Label: {at % 2}." for at in range(20))
    grid = Grid(
        {"one": f"{shots}\n\nText: {{{{ t }}}} Label:", "two": f"Label them.\n\n{shots}\n\nText: {{{{ t }}}} Label:"},
        [{"t": f"a {colour} {thing}."} for colour in COLOURS for thing in ("cat", "dog")],
        sampling=[{"temperature": 0.0, "max_tokens": 2}],
    )
    (plan,) = lab.compare(grid, executor="tree").result(timeout=240).plan
    assert plan.evaluated <= 1.02 * plan.least_tokens


def test_auto_takes_a_tree_for_more_than_a_few_answers_and_says_why(lab):
    few = lab.compare(documents(1, 2)).result(timeout=240)
    assert few.plan[0].executor == "lanes"
    assert "second time" in few.plan[0].why
    many = lab.compare(documents(1, 50, tokens=1)).result(timeout=240)
    assert many.plan[0].executor == "tree"
    assert "side by side" in many.plan[0].why
    assert str(many.plan[0]).startswith("smollm2-135m: tree (")
    assert tree_children() == [], "the child ends with the run"


def test_a_killed_child_costs_nothing_but_its_unfinished_answers(lab):
    run = lab.compare(documents(1, 40, tokens=10), executor="tree")
    wait_for(lambda: run.progress().done >= 4, 120)
    (child,) = tree_children()
    os.kill(child.pid, signal.SIGKILL)
    run.result(timeout=240)
    frame = run.cells()
    assert run.status == "done"
    assert set(frame["status"]) == {"done"}
    assert frame["cell_id"].is_unique


def test_a_killed_process_takes_its_child_along_and_another_does_the_rest(lab, tmp_path):
    file = tmp_path / "houses.yaml"
    inputs = "".join(f"  - {{n: {number}}}\n" for number in range(40))
    text = " ".join(f"House {number} is {colour}." for number, colour in enumerate(COLOURS))
    file.write_text(
        f"name: houses\nprompts: {{a: '{text} Colour of {{{{ n }}}}?', b: '{text} House {{{{ n }}}}?'}}\ninputs:\n{inputs}"
        "executor: tree\nsampling: [{temperature: 0, max_tokens: 12}]\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(summary.done >= 3 for summary in lab.runs()), 120)
        (child,) = tree_children(process.pid)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not child.is_running(), 20)
    (summary,) = lab.runs()
    kept = {row["cell_id"]: row["finished"] for row in lab.store.cells(summary.run_id) if row["status"] == "done"}
    assert 3 <= len(kept) < 80
    run = lab.open_run(summary.run_id)
    run.resume()
    assert run.result(timeout=240).status == "done"
    after = {row["cell_id"]: row["finished"] for row in lab.store.cells(run.run_id)}
    assert len(after) == 80
    assert kept.items() <= after.items()
    assert set(run.cells()["executor"]) == {"tree"}


def test_a_paused_run_goes_on_as_it_began_and_a_cancelled_one_ends_its_child(lab):
    run = lab.compare(documents(1, 40, tokens=10), executor="tree")
    wait_for(lambda: run.progress().done >= 2, 120)
    run.pause()
    wait_for(lambda: run.status == "paused", 60)
    before = run.cells()
    finished = before[before["status"] == "done"]
    assert 2 <= len(finished) < 80
    run.resume()
    wait_for(lambda: run.progress().done > len(finished), 120)
    run.cancel()
    wait_for(lambda: run.status == "cancelled", 30)
    wait_for(lambda: not tree_children(), 10)
    run.resume()
    run.result(timeout=240)
    frame = run.cells()
    assert set(frame["executor"]) == {"tree"}
    kept = frame.set_index("cell_id").loc[finished["cell_id"], "answer"]
    assert list(kept) == list(finished["answer"])


def test_repeats_share_the_evaluation_of_their_prompt(lab):
    grid = documents(1, 2, sampling=[{"temperature": 1.0, "max_tokens": 6}], repeats=6)
    run = lab.compare(grid, executor="tree").result(timeout=240)
    (plan,) = run.plan
    assert plan.answers == 24
    assert plan.evaluated <= 1.02 * plan.least_tokens
    frame = run.cells()
    assert frame.groupby(["prompt", "input_id"])["answer"].nunique().max() > 2
    assert frame.groupby(["prompt", "input_id"])["seed"].nunique().eq(6).all()
