"""Running, pausing, cancelling, retrying, reusing: in one process, on scripted engines."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import threading
import time

import pytest
from comparison_rig import GREEDY, WARM, Rig, grid, wait_for

from noa_lab.errors import (
    BadInput,
    Cancelled,
    ExperimentError,
    RequestRefused,
    RunBusy,
    RunUnfinished,
    ServerExited,
    StreamBroken,
    TemplateInvalid,
    Unreachable,
)
from noa_lab.experiments import Store, list_runs, open_run, score, start
from noa_lab.experiments._run_table import COLUMNS
from noa_lab.testing import Reply

CONTAINS = score.contains("{{ expected }}")


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "runs.db") as opened:
        yield opened


def run_to_end(store, made, rig, scorers=(CONTAINS,), **options):
    return start(made, scorers, store=store, engine_for=rig, **options).result(timeout=30)


def lost(kind=Unreachable):
    return kind("Gone.", fix="Start it.", url="x")


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
    run = start(grid(20), [CONTAINS], store=store, engine_for=Rig(delay=0.002))

    def listener(progress):
        with Store(store.path) as other:
            done = other.counts(run.run_id)["done"]
        seen.append(progress.status)
        if done < progress.done:
            problems.append((done, progress))

    run.subscribe(listener)
    run.subscribe(lambda progress: 1 / 0)
    run.result(timeout=30)
    wait_for(lambda: "done" in seen)
    assert not problems
    assert seen[-1] == "done"


def test_a_subscription_can_be_ended(store):
    seen: list[object] = []
    run = start(grid(20), store=store, engine_for=Rig(delay=0.005))
    end = run.subscribe(seen.append)
    wait_for(lambda: len(seen) > 0)
    end()
    count = len(seen)
    run.result(timeout=30)
    assert len(seen) <= count + 1


def test_progress_counts_and_estimates(store):
    run = start(grid(40), store=store, engine_for=Rig(delay=0.01))
    wait_for(lambda: run.progress().done > 10)
    now = run.progress()
    assert now.total == 80
    assert now.done + now.failed + now.running + now.pending == 80
    assert 0 < now.eta_seconds < 10
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
        run = start(grid(4), store=store, engine_for=Rig(delay=30))
        task = asyncio.ensure_future(_await(run))
        await asyncio.sleep(0.1)
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


# The same grid, an edited grid, a fresh one


def test_the_same_grid_continues_its_run_and_asks_nothing_again(store):
    first, second = Rig(), Rig()
    made = grid(3, sampling=[WARM], repeats=2)
    run = run_to_end(store, made, first)
    again = run_to_end(store, grid(3, sampling=[WARM], repeats=2), second)
    assert again.run_id == run.run_id
    assert second.opened == []


def test_an_edited_grid_asks_only_what_is_new_and_marks_the_rest(store):
    first, second = Rig(), Rig()
    made = grid(3, sampling=[GREEDY, WARM], repeats=2)
    run = run_to_end(store, made, first)
    edited = made.replace(prompts={**made.prompts, "new": "New {{ q }}"})
    other = run_to_end(store, edited, second)
    assert other.run_id != run.run_id
    assert set(second.asked) == {f"New item {number}" for number in range(3)}
    frame = other.cells()
    assert frame["cached"].sum() == len(made)
    assert other.progress().cached == len(made)
    cached = frame[frame["cached"]]
    assert cached[["queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms"]].isna().all(axis=None)
    assert (cached["score.contains"] == 1.0).all()
    assert {row["cached_from"] for row in store.cells(other.run_id) if row["cached"]} == {run.run_id}


def test_more_repeats_are_asked_for_and_never_copied_from_others(store):
    first, second = Rig(), Rig()
    run_to_end(store, grid(2, sampling=[WARM], repeats=2), first)
    run = run_to_end(store, grid(2, sampling=[WARM], repeats=4), second)
    assert len(second.calls) == 2 * 2 * 2
    assert sorted(set(run.cells().query("not cached")["repeat"])) == [2, 3]


def test_another_engine_is_another_question(store):
    first, second = Rig(), Rig()
    made = grid(2)
    run_to_end(store, made, first)
    second.fingerprint = {"build": "b2"}
    run = run_to_end(store, made.replace(seed=9), second)
    assert len(second.calls) == 4
    assert not run.cells()["cached"].any()


def test_fresh_starts_anew_and_takes_over_nothing(store):
    first, second, third = Rig(), Rig(), Rig(delay=0.02)
    made = grid(3)
    run = run_to_end(store, made, first)
    fresh = run_to_end(store, made, second, fresh=True)
    assert fresh.run_id != run.run_id
    assert len(second.calls) == 6
    paused = start(made, [CONTAINS], store=store, engine_for=third, fresh=True)
    paused.pause()
    wait_for(lambda: not paused.running)
    paused.resume()
    assert paused.result(timeout=30).progress().cached == 0


def test_a_run_does_not_mix_answers_of_two_engines(store):
    rig = Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"])
    run = run_to_end(store, grid(2), rig)
    other = Rig()
    other.fingerprint = {"build": "b2"}
    with pytest.raises(ExperimentError, match="build changed") as caught:
        run_to_end(store, grid(2), other)
    assert "fresh=True" in caught.value.fix
    assert other.calls == []
    assert run.progress().done == 3
    assert run.status == "failed"
    assert "build changed" in run.progress().error


# A model that has changed under its name


def model(sha256, runtime="b1"):
    return lambda name: {"model_sha256": sha256, "runtime": runtime}


def test_a_finished_run_is_not_the_answer_for_another_model(store):
    made, first, second, third = grid(3), Rig("old"), Rig("new"), Rig("new")
    before = run_to_end(store, made, first, identity_for=model("a"))
    assert run_to_end(store, made, Rig(), identity_for=model("a")).run_id == before.run_id
    second.fingerprint = third.fingerprint = {"model_sha256": "b"}
    run = run_to_end(store, made, second, identity_for=model("b"))
    assert run.run_id != before.run_id
    assert set(run.cells()["answer"]) == {"new"}
    assert len(second.calls) == 6
    assert set(before.cells()["answer"]) == {"old"}
    assert run.provenance["identities"] == {"m": {"model_sha256": "b", "runtime": "b1"}}
    # Another runtime is another run too; what its engine says decides what is taken over.
    other = run_to_end(store, made, third, identity_for=model("b", "b2"))
    assert other.run_id not in {before.run_id, run.run_id}
    assert (third.calls, other.progress().cached) == ([], 6)


def test_runs_without_a_recorded_identity_continue_as_before(store):
    made, rig = grid(2), Rig()
    run = run_to_end(store, made, rig)
    assert "identities" not in run.provenance
    assert run_to_end(store, made, rig, identity_for=model("a")).run_id == run.run_id
    other = made.replace(seed=9)
    known = run_to_end(store, other, rig, identity_for=model("a"))
    assert run_to_end(store, other, rig).run_id == known.run_id


def test_a_file_that_was_fetched_by_the_run_itself_is_known_from_its_engine(store):
    made, rig = grid(2), Rig()
    rig.fingerprint = {"model_sha256": "a"}
    run = run_to_end(store, made, rig, identity_for=lambda name: {"runtime": "b1"})
    assert run_to_end(store, made, rig, identity_for=model("a")).run_id == run.run_id
    rig.fingerprint = {"model_sha256": "b"}
    assert run_to_end(store, made, rig, identity_for=model("b")).run_id != run.run_id


def test_a_run_is_not_resumed_on_another_model(store):
    rig = Rig(delay=0.02)
    run = start(grid(20), [CONTAINS], store=store, engine_for=rig, identity_for=model("a"))
    wait_for(lambda: run.progress().done > 0)
    run.pause()
    wait_for(lambda: not run.running)
    unasked = Rig()
    changed = open_run(store, run.run_id, engine_for=unasked, identity_for=model("b"))
    with pytest.raises(ExperimentError, match=r"'m' is not what it was .*model_sha256 changed") as caught:
        changed.resume()
    assert caught.value.fields["changed"] == ["model_sha256"]
    assert unasked.opened == []
    assert run.status == "paused"
    open_run(store, run.run_id, engine_for=rig, identity_for=model("a")).resume()
    assert run.result(timeout=30).status == "done"


# Verdicts and reports of a run


def test_the_range_of_a_scorer_reaches_its_verdict_and_report(store, tmp_path):
    def stars(answer, row):
        return 5

    made = grid(12)
    bare = run_to_end(store, made, Rig(), [score.function(stars)])
    assert "range is not known" in bare.verdict("long", over="plain", on="stars", margin=2).method
    known = run_to_end(store, made, Rig(), [score.function(stars, low=1, high=5)])
    assert known.run_id == bare.run_id
    found = known.verdict("long", over="plain", on="score.stars", margin=2)
    assert found.outcome == "same"
    page = known.report(tmp_path / "r.html", margin=2).read_text()
    assert "within a margin of 2" in page
    assert "within a margin of" not in known.report(tmp_path / "r.html").read_text()


# Scorers


def test_other_scorers_score_the_stored_answers_without_asking(store):
    first, second = Rig(), Rig()
    run = run_to_end(store, grid(3), first)
    again = start(grid(3), [score.max_words(1), score.contains("zzz")], store=store, engine_for=second)
    assert again.run_id == run.run_id
    assert second.opened == []
    frame = again.cells()
    assert (set(frame["score.max_words"]), set(frame["score.contains"])) == ({1.0}, {0.0})
    assert again.scorers == ["max_words", "contains"]
    assert again.status == "done"


def test_a_scorer_that_raises_is_an_error_of_that_score_alone(store):
    def picky(answer, row):
        if row["q"] == "item 1":
            raise ValueError("cannot read this")
        return float("nan") if row["q"] == "item 2" else 0.5

    run = run_to_end(store, grid(3), Rig(), scorers=(CONTAINS, score.function(picky)))
    frame = run.cells().set_index("input_id")
    assert run.status == "done"
    assert (frame["score.contains"] == 1.0).all()
    assert frame["score.picky"].isna().groupby(level=0).all().to_dict() == {"1": False, "2": True, "3": True}
    assert "cannot read this" in frame.loc["2", "score_error.picky"].iloc[0]


def test_a_reopened_run_makes_its_scorers_again(store):
    rig = Rig(delay=0.02)
    run = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    wait_for(lambda: run.progress().done > 1)
    run.cancel()
    wait_for(lambda: not run.running)
    opened = open_run(store, run.run_id, engine_for=Rig())
    opened.resume()
    assert (opened.result(timeout=30).cells()["score.contains"] == 1.0).all()


def test_a_run_with_a_function_scorer_is_resumed_with_the_function(store):
    def mine(answer, row):
        return True

    rig = Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"])
    run = run_to_end(store, grid(2), rig, scorers=(score.function(mine),))
    with pytest.raises(BadInput, match="mine"):
        open_run(store, run.run_id, engine_for=Rig()).resume()
    opened = open_run(store, run.run_id, engine_for=Rig(), scorers=[score.function(mine)])
    opened.resume()
    assert opened.result(timeout=30).status == "done"


# Failing, pausing, cancelling


def test_a_failed_cell_is_recorded_by_name_and_only_resume_tries_it_again(store):
    def script(prompt, config):
        return RequestRefused("Too rude.", fix="Be kind.", status=400) if "item 1" in prompt[-1].content else "yes"

    rig = Rig(script)
    run = run_to_end(store, grid(3), rig)
    assert run.status == "failed"
    assert (run.progress().done, run.progress().failed) == (4, 2)
    failed = run.cells().query("status == 'failed'")
    assert set(failed["error"]) == {"RequestRefused: Too rude. Be kind."}
    assert set(rig.asked.values()) == {1}
    healed = Rig()
    again = run_to_end(store, grid(3), healed)
    assert again.run_id == run.run_id
    assert set(healed.asked) == {"Say yes to item 1", "Please say yes to item 1"}
    assert again.status == "done"
    assert again.cells()["error"].isna().all()


def test_an_error_that_is_not_ours_fails_the_cell_too(store):
    run = run_to_end(store, grid(1), Rig([ValueError("odd"), "yes"]))
    assert run.progress().failed == 1
    assert "ValueError: odd" in run.cells().query("status == 'failed'")["error"].iloc[0]


@pytest.mark.parametrize("kind", [Unreachable, StreamBroken, ServerExited])
def test_a_lost_engine_is_opened_again_and_the_cell_retried(store, kind):
    losses = iter([None, None, lost(kind)])
    rig = Rig(lambda prompt, config: next(losses, None) or "yes", slots=1)
    run = run_to_end(store, grid(3), rig)
    assert run.status == "done"
    assert len(rig.opened) == 2
    assert sum(rig.asked.values()) == 7
    assert rig.opened == rig.closed


def test_a_cell_that_always_breaks_the_engine_fails_by_name_and_alone(store):
    def script(prompt, config):
        return lost(StreamBroken) if "Please say yes to item 2" in prompt[-1].content else Reply("yes", delay=0.002)

    rig = Rig(script, slots=4)
    run = run_to_end(store, grid(6), rig)
    frame = run.cells()
    assert run.status == "failed"
    assert frame.query("status == 'failed'")["error"].str.startswith("StreamBroken").tolist() == [True]
    assert (frame["status"] == "done").sum() == 11
    assert rig.asked["Please say yes to item 2"] == 3


def test_cells_that_lost_their_engine_are_retried_one_at_a_time(store):
    def script(prompt, config):
        return Reply("yes", delay=0.03, fail_after=0) if "Please" in prompt[-1].content else "yes"

    rig = Rig(script, slots=4)
    run = run_to_end(store, grid(3), rig)
    assert run.progress().failed == 3
    retries: list[tuple[float, float]] = []
    seen: set[str] = set()
    for call in rig.calls:
        if call.prompt[-1].content in seen:
            retries.append((call.started, call.ended))
        seen.add(call.prompt[-1].content)
    assert len(retries) == 6
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(sorted(retries)))


def test_a_lasting_outage_ends_the_run_and_leaves_its_cells_pending(store):
    begun = time.monotonic()
    rig = Rig(lambda prompt, config: lost(Unreachable), slots=2)
    run = start(grid(40), store=store, engine_for=rig)
    with pytest.raises(Unreachable):
        run.result(timeout=30)
    assert time.monotonic() - begun < 10
    assert run.status == "failed"
    assert run.progress().failed == 0
    assert run.progress().pending == 80
    healed = Rig()
    assert run_to_end(store, grid(40), healed, scorers=()).run_id == run.run_id


def test_an_engine_that_cannot_be_opened_ends_the_run_with_its_error(store):
    def engine_for(model, wish):
        raise ServerExited("It died.", fix="Read the log.", name="m")

    run = start(grid(2), store=store, engine_for=engine_for)
    with pytest.raises(ServerExited, match="It died"):
        run.result(timeout=30)
    assert run.progress().error == "It died."
    with pytest.raises(ServerExited, match="It died"):
        open_run(store, run.run_id).result()


def test_pause_lets_cells_in_flight_finish_and_resume_does_the_rest(store):
    rig = Rig(delay=0.05, slots=2)
    run = start(grid(10), [CONTAINS], store=store, engine_for=rig)
    wait_for(lambda: len(rig.calls) >= 4)
    run.pause()
    wait_for(lambda: not run.running)
    assert run.status == "paused"
    assert {call.outcome for call in rig.calls} == {"done"}
    assert run.progress().done == len(rig.calls) < 20
    assert rig.closed == ["m"]
    with pytest.raises(RunUnfinished, match="is paused"):
        run.result()
    run.resume()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_a_pause_can_be_taken_back(store):
    rig = Rig(delay=0.1, slots=1)
    run = start(grid(3), store=store, engine_for=rig)
    wait_for(lambda: bool(rig.calls))
    run.pause()
    assert run.status == "pausing"
    run.resume()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_pausing_and_resuming_at_any_moment_asks_everything_once(store):
    rig = Rig(delay=0.002, slots=3)
    run = start(grid(30), [CONTAINS], store=store, engine_for=rig)
    for trial in range(15):
        time.sleep(0.003 * (trial % 5))
        run.pause()
        time.sleep(0.002 * (trial % 3))
        run.resume()
    assert run.result(timeout=30).status == "done"
    assert set(rig.asked.values()) == {1}


def test_cancel_stops_requests_in_flight_within_a_second(store):
    rig = Rig(lambda prompt, config: Reply("yes", delay=60 if "item 3" in prompt[-1].content else 0))
    run = start(grid(6), store=store, engine_for=rig)
    wait_for(lambda: [call.outcome for call in rig.calls].count("running") == 2)
    begun = time.monotonic()
    run.cancel()
    wait_for(lambda: not run.running)
    assert time.monotonic() - begun < 1.0
    assert run.status == "cancelled"
    assert [call.outcome for call in rig.calls].count("cancelled") == 2
    done = run.progress().done
    assert run.progress().pending == 12 - done > 0
    assert run.progress().running == 0
    with pytest.raises(Cancelled):
        run.result()
    healed = Rig()
    again = run_to_end(store, grid(6), healed, scorers=())
    assert again.run_id == run.run_id
    assert len(healed.calls) == 12 - done


def test_cancelling_at_any_moment_loses_nothing(store):
    for trial in range(12):
        rig = Rig(delay=0.003)
        run = start(grid(20), [CONTAINS], store=store, engine_for=rig)
        time.sleep(0.004 * trial)
        run.cancel()
        wait_for(lambda run=run: not run.running)
        frame = run.cells()
        assert set(frame["status"]) <= {"done", "pending"}
        assert (frame["status"] == "done").sum() == run.progress().done
    assert run_to_end(store, grid(20), Rig()).progress().done == 40


def test_ctrl_c_in_result_cancels_the_run(store, monkeypatch):
    run = start(grid(4), store=store, engine_for=Rig(delay=60))
    monkeypatch.setattr(run, "_wait", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert run.status == "cancelled"
    assert not run.running


def test_result_with_a_timeout_leaves_the_run_alone(store):
    run = start(grid(4), store=store, engine_for=Rig(delay=0.2))
    with pytest.raises(RunUnfinished, match="0 of 8"):
        run.result(timeout=0.05)
    assert run.running
    run.result(timeout=30)


def test_starting_a_grid_that_is_running_here_gives_the_same_run(store):
    rig = Rig(delay=0.05)
    run = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    second = start(grid(5), [CONTAINS], store=store, engine_for=rig)
    assert second.run_id == run.run_id
    with pytest.raises(RunBusy, match="other scorers"):
        start(grid(5), [score.max_words(3)], store=store, engine_for=rig)
    second.result(timeout=30)
    assert set(rig.asked.values()) == {1}
    assert rig.opened == ["m"]


def test_a_run_opened_without_engines_can_only_be_read(store):
    rig = Rig(["yes", RequestRefused("No.", fix="Ask again.", status=400), "yes", "yes"])
    run = run_to_end(store, grid(2), rig)
    opened = open_run(store, run.run_id)
    assert len(opened.cells()) == 4
    with pytest.raises(BadInput, match="only be read"):
        opened.resume()


def test_a_full_disk_ends_the_run_by_name_and_resume_goes_on(store, monkeypatch):
    import sqlite3

    import sqlalchemy as sa

    from noa_lab.errors import DiskFull
    from noa_lab.experiments.store import _writer as _store_writer

    real, commits = _store_writer.renew, []

    def renew(connection, run_id, token):
        commits.append(run_id)
        if len(commits) > 3:
            raise sa.exc.OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))
        real(connection, run_id, token)

    with monkeypatch.context() as patch:
        patch.setattr(_store_writer, "renew", renew)
        run = start(grid(100), [CONTAINS], store=store, engine_for=Rig(delay=0.005))
        with pytest.raises(DiskFull):
            run.result(timeout=30)
    shown = run.progress()
    assert (shown.status, shown.running) == ("failed", 0)
    kept = {row["cell_id"] for row in store.cells(run.run_id) if row["status"] == "done"}
    assert 0 < len(kept) == shown.done
    healed = Rig()
    assert run_to_end(store, grid(100), healed).progress().done == 200
    assert len(healed.calls) == 200 - len(kept)


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
