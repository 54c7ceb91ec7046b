"""A run in one process, on scripted engines: what is asked, what it gives, what is checked before it starts."""

from __future__ import annotations

import asyncio
import gc
import json
import threading

import pytest
from comparison_rig import CONTAINS, GREEDY, WARM, Held, Rig, grid, run_to_end, wait_for

from noa_lab.errors import BadInput, RequestRefused, TemplateInvalid
from noa_lab.experiments import Store, list_runs, score, start
from noa_lab.experiments._run_table import COLUMNS

# What a run gives


def test_a_run_answers_every_cell_once_and_gives_the_promised_table(store):
    rig = Rig()
    run = run_to_end(
        store,
        grid(4, inputs=[{"q": "a", "expected": "yes"}, {"q": "b", "expected": "no", "cluster": "k", "tags": ["t"]}]),
        rig,
    )
    frame = run.cells()
    assert tuple(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert list(frame.columns[len(COLUMNS) :]) == [
        "score.contains",
        "input.q",
        "input.expected",
        "input.cluster",
        "input.tags",
    ]
    assert set(rig.asked.values()) == {1}
    assert list(frame["status"]) == ["done"] * 4
    assert dict(zip(frame["input_id"], frame["score.contains"], strict=True)) == {"1": 1.0, "2": 0.0}
    assert set(frame["executor"]) == {"plain"}
    assert not frame["cached"].any()
    assert (frame["total_ms"] > 0).all()
    assert frame["seed"].isna().all()
    assert (rig.opened, rig.closed) == (["m"], ["m"])


def test_every_cell_is_sent_its_own_seed_and_sampling(store):
    rig = Rig()
    made = grid(3, sampling=[GREEDY, WARM], repeats=3)
    frame = run_to_end(store, made, rig).cells()
    sent = sorted((call.prompt[-1].content, call.config.temperature, call.config.seed or 0) for call in rig.calls)
    rendered = made.render()
    wanted = [
        (rendered[cell.prompt, cell.input_id][-1].content, made.sampling[cell.sampling].temperature, cell.seed or 0)
        for cell in made.cells()
    ]
    assert sent == sorted(wanted)
    assert sorted(frame["seed"].dropna()) == sorted(cell.seed for cell in made.cells() if cell.seed is not None)


def test_what_was_sent_and_received_is_kept_with_what_served_it(store):
    rig = Rig()
    run = run_to_end(store, grid(1), rig)
    row = store.cells(run.run_id, raw=True)[0]
    assert row["request"]["prompt"].startswith("System") or "Say yes" in row["request"]["prompt"]
    assert row["response"]["content"] == "yes"
    assert run.provenance["engines"]["m"]["executor"] == "scripted"
    assert run.provenance["noa_lab"]
    assert store.run(run.run_id)["scorers"] == [CONTAINS.spec()]


def test_as_many_cells_at_once_as_the_engine_has_slots(store):
    rig = Rig(slots=3, delay=0.01)
    run_to_end(store, grid(12), rig)
    assert rig.engines[0].peak == 3


def test_models_are_opened_one_after_the_other(store):
    open_now: list[str] = []

    class Watched(Rig):
        def __call__(self, model, wish=None):
            assert sorted(self.opened) == sorted(self.closed)
            open_now.append(model)
            return super().__call__(model, wish)

    rig = Watched()
    run = run_to_end(store, grid(3, models=["m", "n"]), rig)
    assert (open_now, rig.closed) == (["m", "n"], ["m", "n"])
    assert set(run.cells()["model"]) == {"m", "n"}


def test_listeners_hear_of_a_cell_when_it_can_be_read_from_the_store(store):
    seen: list[str] = []
    problems: list[object] = []
    held = Held(after=1)
    run = start(grid(20), [CONTAINS], store=store, engine_for=Rig(held, delay=0.002))

    def listener(progress):
        with Store(store.path) as other:
            done = other.counts(run.run_id)["done"]
        seen.append(progress.status)
        if done < progress.done:
            problems.append((done, progress))

    run.subscribe(listener)
    run.subscribe(lambda progress: 1 / 0)
    held.go.set()
    run.result(timeout=30)
    wait_for(lambda: "done" in seen)
    assert not problems
    assert seen[-1] == "done"


def test_a_subscription_can_be_ended(store):
    seen: list[object] = []
    held = Held(after=1)
    run = start(grid(20), store=store, engine_for=Rig(held, delay=0.005))
    end = run.subscribe(seen.append)
    held.go.set()
    wait_for(lambda: len(seen) > 0)
    end()
    count = len(seen)
    run.result(timeout=30)
    assert len(seen) <= count + 1


def test_progress_counts_and_estimates(store):
    held = Held(after=20)
    run = start(grid(40), store=store, engine_for=Rig(held))
    wait_for(lambda: run.progress().done > 10)
    now = run.progress()
    assert now.total == 80
    assert now.done + now.failed + now.running + now.pending == 80
    assert 0 < now.eta_seconds < 60
    held.go.set()
    run.result(timeout=30)
    assert run.progress().done == 80
    assert run.progress().eta_seconds is None
    json.dumps(run.progress().as_dict())


def test_await_works_in_a_running_loop_and_gives_the_run(store):
    async def main():
        run = start(grid(4), store=store, engine_for=Rig(delay=0.01))
        assert (await run) is run
        return run.status

    assert asyncio.run(main()) == "done"


def test_a_cancelled_await_cancels_the_run(store):
    async def main():
        rig = Rig(delay=30)
        run = start(grid(4), store=store, engine_for=rig)
        task = asyncio.ensure_future(_await(run))
        while not rig.calls:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return run

    run = asyncio.run(main())
    wait_for(lambda: not run.running)
    assert run.status == "cancelled"


async def _await(run):
    return await run


def test_a_run_as_plain_data_has_the_columns_of_the_table(store):
    run = run_to_end(store, grid(2), Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"]))
    data = json.loads(json.dumps(run.as_dict(), allow_nan=False))
    assert list(data["cells"][0]) == list(run.cells().columns)
    assert data["status"] == "failed"
    assert data["run_id"] == run.run_id


def test_its_html_escapes_names_and_errors(store):
    made = grid(1, prompts={"<script>alert(1)</script>": "{{ q }}"})
    run = run_to_end(store, made, Rig(), name="<img src=x>")
    page = run._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "contains" in page


# What is checked before anything starts


@pytest.mark.parametrize(
    ("made", "scorers", "error"),
    [
        (grid(2, prompts={"p": "{{ nope }}"}), (), TemplateInvalid),
        (grid(2), (score.contains("{{ nope }}"),), TemplateInvalid),
        (grid(2), (CONTAINS, CONTAINS), BadInput),
        (grid(2, models=None), (), BadInput),
    ],
)
def test_nothing_starts_when_something_is_wrong(store, made, scorers, error):
    rig = Rig()
    with pytest.raises(error):
        start(made, scorers, store=store, engine_for=rig)
    assert rig.opened == []
    assert list_runs(store) == []


# What it leaves behind


def test_threads_and_connections_end_with_the_run(tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    with Store(tmp_path / "runs.db") as store:
        run_to_end(store, grid(5), Rig())
    wait_for(lambda: not [t for t in threading.enumerate() if t.name not in before and "noa-lab r" in t.name])
    gc.collect()  # a connection left open would warn here, and warnings of noa_lab are errors


def test_hostile_answers_are_stored_as_they_are(store):
    nasty = "<script>\x00\ud800 {{ x }} '; DROP TABLE cells; --\u202e"
    run = run_to_end(store, grid(1, sampling=[{"temperature": 0, "max_tokens": 500}]), Rig(nasty))
    assert run.cells()["answer"].iloc[0] == nasty.replace("\ud800", "\\ud800")
