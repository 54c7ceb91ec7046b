"""Comparisons on the real llama-server with the real model: answers, a killed server, a killed process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from comparison_rig import wait_for

from noa_lab.experiments import Grid, Prompt, load_comparison, score
from noa_lab.inference import EmbeddedEngine
from noa_lab.inference.batch import Prefixes, packed
from noa_lab.workbench import Lab

pytestmark = pytest.mark.real

DEMO = Path(__file__).parents[2] / "configs" / "experiments" / "demo.yaml"


@pytest.fixture
def lab(home, runtime, model):
    made = Lab(home)
    yield made
    made.store.close()


def test_an_estimate_of_short_prompts_is_near_what_the_tokenizer_counts(lab, model):
    prompts = {
        "plain": "Name a colour of {{ thing }}.",
        "system": Prompt(system="Be brief.", user="What is {{ thing }}?"),
    }
    things = [{"thing": thing} for thing in ("snow", "the sky", "grass")]
    grid = Grid(prompts, things, ["smollm2-135m"], [{"temperature": 0.0, "max_tokens": 4}])
    found = lab.estimate(grid)
    with EmbeddedEngine(model.path, context_size=256, threads=1) as engine:
        tokens = [engine.tokenize(engine.render(turns)) for turns in grid.render().values()]
    assert found.prompt_tokens == pytest.approx(sum(map(len, tokens)), rel=0.2)
    assert found.evaluated_tokens == pytest.approx(Prefixes([packed(each) for each in tokens]).minimum, rel=0.25)


def small_demo(inputs: int) -> tuple[Grid, tuple]:
    comparison = load_comparison(DEMO)
    return comparison.grid.replace(inputs=comparison.grid.inputs[:inputs]), comparison.scorers


def test_real_answers_are_scored_and_say_what_they_rest_on(lab):
    grid, scorers = small_demo(6)
    run = lab.compare(grid, scorers, name="real").result(timeout=240)
    frame = run.cells()
    assert run.status == "done"
    assert set(frame["finish_reason"]) <= {"stop", "length"}
    assert (frame["prompt_tokens"] > 20).all()
    assert (frame["completion_tokens"] <= 16).all()
    assert (frame[["ttft_ms", "decode_ms", "total_ms"]] > 0).all(axis=None)
    assert 0 < frame["score.contains"].mean() < 1
    row = lab.store.cells(run.run_id, raw=True)[0]
    assert "<|im_start|>" in row["request"]["prompt"]
    assert row["request"]["temperature"] == 0
    assert run.provenance["engines"]["smollm2-135m"]["build"].startswith("b11312")


def test_another_file_under_the_same_path_is_another_run(lab, model, tmp_path):
    file = tmp_path / "m.gguf"
    shutil.copyfile(model.path, file)
    grid = Grid({"a": "Say {{ w }}."}, [{"w": "yes"}], [str(file)], [{"temperature": 0, "max_tokens": 2}])
    before = lab.compare(grid).result(timeout=240)
    assert lab.compare(grid).run_id == before.run_id
    other = tmp_path / "other.gguf"
    shutil.copyfile(model.path, other)
    with other.open("ab") as stream:
        stream.write(bytes(32))
    other.replace(file)
    after = lab.compare(grid).result(timeout=240)
    assert after.run_id != before.run_id
    assert after.progress().cached == 0
    (was,) = before.provenance["engines"].values()
    (now,) = after.provenance["engines"].values()
    assert was["model_sha256"] != now["model_sha256"]


def test_sampled_arms_share_seeds_and_a_repeated_run_is_copied_not_asked(lab):
    grid = Grid(
        {"a": "Name a colour. {{ n }}", "b": "Name one colour. {{ n }}"},
        [{"n": 1}, {"n": 2}],
        sampling=[{"temperature": 1.0, "max_tokens": 4}],
        repeats=2,
    )
    first = lab.compare(grid).result(timeout=240).cells()
    sent = first.pivot_table(index=["input_id", "repeat"], columns="prompt", values="seed", aggfunc="first")
    assert (sent["a"] == sent["b"]).all()
    assert sent["a"].nunique() == 4
    edited = grid.replace(prompts={"a": grid.prompts["a"], "c": "Name any colour. {{ n }}"})
    second = lab.compare(edited, [score.max_words(9)]).result(timeout=240).cells()
    assert second.groupby("prompt")["cached"].all().to_dict() == {"a": True, "c": False}
    merged = first.merge(second, on=["prompt", "input_id", "repeat"])
    assert (merged["answer_x"] == merged["answer_y"]).all()


def test_a_killed_server_is_a_retried_cell_and_not_a_lost_run(lab):
    grid, scorers = small_demo(40)
    run = lab.compare(grid, scorers, name="server kill")
    wait_for(lambda: run.progress().done >= 3, 240)
    killed = [status.pid for status in lab.servers() if status.pid]
    assert killed
    for pid in killed:
        psutil.Process(pid).kill()
    assert run.result(timeout=240).status == "done"
    assert (run.cells()["status"] == "done").all()


def test_a_killed_process_takes_its_server_along_and_resume_does_the_rest(lab):
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(DEMO)]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(summary.done >= 5 for summary in lab.runs()), 240)
        servers = [status.pid for status in lab.servers() if status.pid]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    begun = time.monotonic()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in servers), 5)
    assert time.monotonic() - begun < 2.0
    summary = lab.runs()[0]
    assert summary.status == "paused"
    kept = {row["cell_id"]: row["finished"] for row in lab.store.cells(summary.run_id) if row["status"] == "done"}
    assert len(kept) >= summary.done >= 5
    run = lab.open_run(summary.run_id)
    run.resume()
    assert run.result(timeout=240).status == "done"
    after = {row["cell_id"]: row["finished"] for row in lab.store.cells(run.run_id)}
    assert len(after) == 80
    assert kept.items() <= after.items()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_ten_kills_on_the_real_server_lose_nothing(lab, tmp_path):
    draw = random.Random(4)
    inputs = "".join(f"  - {{n: {number}}}\n" for number in range(150))
    prompts = "{a: 'Write a sentence about the number {{ n }}.', b: 'What is {{ n }} plus one?'}"
    file = tmp_path / "numbers.yaml"
    file.write_text(
        f"name: numbers\nprompts: {prompts}\ninputs:\n{inputs}sampling: [{{temperature: 0, max_tokens: 24}}]\n"
    )
    command = [sys.executable, "-m", "noa_lab.cli", "compare", str(file)]
    kept: dict[str, tuple] = {}

    def answered() -> dict[str, tuple]:
        rows = [row for summary in lab.runs() for row in lab.store.cells(summary.run_id)]
        return {row["cell_id"]: (row["answer"], row["finished"]) for row in rows if row["status"] == "done"}

    for number in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            before = len(kept)
            wait_for(lambda before=before: len(answered()) >= before + 3, 240)
            if number % 2:  # the process lives, and starts another server
                servers = [status.pid for status in lab.servers() if status.pid]
                for pid in servers:
                    psutil.Process(pid).kill()
                now = len(answered())
                wait_for(lambda now=now: len(answered()) > now, 240)
            time.sleep(draw.uniform(0, 0.3))
        finally:
            process.kill()
            process.wait()
        found = answered()
        assert kept.items() <= found.items(), "a finished cell was lost, or asked again"
        assert len(found) < 300, "there was nothing left to be killed"
        kept = found
    assert subprocess.run(command, capture_output=True, check=False, timeout=400).returncode == 0
    (summary,) = lab.runs()
    assert (summary.status, summary.done, summary.total) == ("done", 300, 300)
    assert kept.items() <= answered().items()
    wait_for(lambda: not lab.servers(), 10)
