"""The same grid, an edited one, a fresh one, and models that changed: which answers are taken over and which are asked for."""

from __future__ import annotations

import pytest
from comparison_rig import CONTAINS, GREEDY, WARM, Held, Rig, grid, run_to_end, wait_for

from noa_lab.errors import ExperimentError, RequestRefused
from noa_lab.experiments import Prompt, open_run, start


def test_the_same_grid_continues_its_run_and_asks_nothing_again(store):
    first, second = Rig(), Rig()
    made = grid(3, sampling=[WARM], repeats=2)
    run = run_to_end(store, made, first)
    again = run_to_end(store, grid(3, sampling=[WARM], repeats=2), second)
    assert again.run_id == run.run_id
    assert second.opened == []


def test_a_run_fills_in_each_conversation_once_and_a_resumed_one_only_what_is_left(store, monkeypatch):
    filled: list[str] = []
    texts = Prompt.texts
    monkeypatch.setattr(Prompt, "texts", lambda self, row: filled.append(row["q"]) or texts(self, row))

    def script(prompt, config):
        return RequestRefused("No.", fix="Ask again.", status=400) if "item 1" in prompt[-1].content else "yes"

    run = run_to_end(store, grid(5), Rig(script))
    assert len(filled) == 10
    filled.clear()
    again = open_run(store, run.run_id, engine_for=Rig())
    again.resume()
    assert again.result(timeout=30).status == "done"
    assert filled == ["item 1"] * 2


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
    held = Held(after=6)
    rig = Rig(held)
    run = start(grid(20), [CONTAINS], store=store, engine_for=rig, identity_for=model("a"))
    wait_for(lambda: run.progress().done > 0)
    run.pause()
    held.go.set()
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
