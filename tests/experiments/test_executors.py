"""The executors of a run, on a fake server that keeps slots: who is asked what, in which order, and what cells say of it."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager

import pytest
from comparison_rig import Held, Rig, grid, wait_for

from noa_lab.errors import NotEnoughMemory, UnknownName, Unsupported
from noa_lab.experiments import Grid, Plan, start
from noa_lab.experiments.execution._batch import wanted_answers
from noa_lab.experiments.execution._plain import taking_turns
from noa_lab.inference import LlamaInferenceEngine
from noa_lab.testing import FakeSlots, Faults


class Servers:
    """An `engine_for` that starts a fake server for each opening, as wished."""

    def __init__(self, faults=(), kind=FakeSlots, **options) -> None:
        self.faults, self.kind, self.options = iter(faults), kind, options
        self.wishes, self.fakes = [], []

    @contextmanager
    def __call__(self, ref, wish):
        self.wishes.append(wish)
        size = wish.context_size or 4096
        slots = wish.slots or 2
        faults = next(self.faults, None)
        with (
            self.kind(slots, context_size=size, faults=faults, **self.options) as fake,
            LlamaInferenceEngine(fake.base_url, ref, patience=20, mode="strict" if slots == 1 else "fast") as engine,
        ):
            self.fakes.append(fake)
            yield engine

    @property
    def asked(self) -> list[str]:
        return [text for fake in self.fakes for text, body in fake.asked if body["n_predict"]]


def shared_grid(inputs=4, **changes) -> Grid:
    defaults = {
        "prompts": {"a": "{{ text }} First.", "b": "{{ text }} Second."},
        "inputs": [{"text": " ".join(f"w{number}x{place}" for place in range(40))} for number in range(inputs)],
        "models": ["m"],
        "sampling": [{"temperature": 0.0, "max_tokens": 8}, {"temperature": 0.7, "max_tokens": 8}],
        "repeats": 3,
    }
    return Grid(**{**defaults, **changes})


def run_to_end(store, made, engine_for, **options):
    return start(made, store=store, engine_for=engine_for, **options).result(timeout=60)


def test_by_default_lanes_answer_everything_and_evaluate_what_is_shared_once(store):
    servers = Servers(answer=lambda text, seed: f"{text.count('w')} {seed}", seconds=0.002)
    run = run_to_end(store, shared_grid(), servers)
    frame = run.cells()
    assert set(frame["executor"]) == {"lanes"}
    assert len(frame) == 4 * 2 * (1 + 3)
    assert (frame["status"] == "done").all()
    seeds = frame[frame["sampling"] == 1]
    assert all(answer.endswith(f" {seed}") for answer, seed in zip(seeds["answer"], seeds["seed"], strict=True))
    (plan,) = run.plan
    assert (plan.executor, plan.answers, plan.prompts) == ("lanes", 32, 16)
    # By this server's clock evaluating is free, so that a beginning may now and then be evaluated by two lanes at once.
    assert plan.evaluated == servers.fakes[0].evaluated <= 2 * plan.least_tokens < plan.prompt_tokens
    assert plan.least_tokens < 0.2 * plan.prompt_tokens
    assert "evaluated so far" in str(plan)
    assert servers.wishes[0].slots == 8
    assert servers.wishes[0].context_size % 256 == 0


def test_the_arms_of_one_input_share_seeds_also_within_one_request(store):
    servers = Servers()
    frame = run_to_end(store, shared_grid(), servers).cells()
    sampled = frame[frame["sampling"] == 1]
    by_place = sampled.pivot_table(index=["input_id", "repeat"], columns="prompt", values="seed", aggfunc="first")
    assert (by_place["a"] == by_place["b"]).all()
    assert by_place["a"].nunique() == 12


def test_a_run_of_lanes_is_paused_and_goes_on_where_it_stopped(store):
    held = Held(after=24, value=0.002)
    servers = Servers(seconds=held)
    run = start(shared_grid(12), store=store, engine_for=servers)
    wait_for(lambda: run.progress().done >= 10)
    run.pause()
    held.go.set()
    wait_for(lambda: not run.running)
    assert run.status == "paused"
    before = set(run.cells().query("status == 'done'")["cell_id"])
    assert 10 <= len(before) < 96
    run.resume()
    assert run.result(timeout=60).status == "done"
    texts = [(text, body["seed"]) for fake in servers.fakes for text, body in fake.asked if body["n_predict"]]
    assert len(texts) == len(set(texts)), "something was asked twice"


def test_a_server_that_dies_is_opened_again_and_loses_nothing(store):
    servers = Servers(faults=[Faults(die_at=9), Faults(die_at=14)], seconds=0.002)
    run = run_to_end(store, shared_grid(6), servers)
    assert run.status == "done"
    assert len(servers.fakes) >= 3
    assert (run.cells()["status"] == "done").all()


def test_a_model_that_cannot_share_is_asked_plainly_and_says_so(store):
    servers = Servers(faults=itertools.repeat(Faults(forgetful=True)))
    run = run_to_end(store, shared_grid(), servers)
    assert set(run.cells()["executor"]) == {"plain"}
    (plan,) = run.plan
    assert plan.executor == "plain"
    assert "evaluates a prompt again" in plan.why
    assert [wish.executor for wish in servers.wishes] == ["lanes", "plain"]


class LittleMemory(Servers):
    """Has no room for a tree with a context above 512 tokens."""

    @contextmanager
    def __call__(self, ref, wish):
        if wish.executor == "tree" and wish.context_size > 512:
            raise NotEnoughMemory("There is no room.", fix="Stop a server.", model=ref)
        with super().__call__(ref, wish) as engine:
            yield engine


def dense_grid(**changes) -> Grid:
    """Prompts of more tokens than their characters let expect: the context is found to be too small when they are read."""
    return shared_grid(60, prompts={"a": "{{ text }} First.", "b": "{{ text }} " + "? " * 400}, **changes)


def test_a_tree_whose_context_turns_out_not_to_fit_gives_way_to_lanes(store):
    servers = LittleMemory()
    run = run_to_end(store, dense_grid(), servers, hindrance=lambda _ref, _wish: "")
    assert run.status == "done"
    assert set(run.cells()["executor"]) == {"lanes"}
    assert [wish.executor for wish in servers.wishes] == ["tree", "lanes"]
    assert "would not fit into the memory" in run.plan[0].why


def test_a_tree_that_was_asked_for_does_not_give_way(store):
    run = start(dense_grid(), store=store, engine_for=LittleMemory(), executor="tree")
    with pytest.raises(NotEnoughMemory):
        run.result(timeout=60)
    assert set(run.cells()["status"]) == {"pending"}


class Choosy(FakeSlots):
    """Its chat template takes no system messages, as those of some models."""

    async def _template(self, body):
        if body["messages"][0]["role"] == "system":
            message = "System role not supported"
            return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
        return await super()._template(body)


def test_a_prompt_that_the_chat_template_refuses_fails_and_the_others_are_answered(store):
    made = shared_grid(prompts={"a": "{{ text }} First.", "b": {"system": "Be brief.", "user": "{{ text }}"}})
    run = run_to_end(store, made, Servers(kind=Choosy))
    frame = run.cells()
    assert set(frame["executor"].dropna()) == {"lanes"}
    assert frame.groupby("prompt")["status"].unique().map(list).to_dict() == {"a": ["done"], "b": ["failed"]}
    assert frame["error"].dropna().str.contains("System role not supported").sum() == 16
    assert run.status == "failed"


def test_a_context_that_was_guessed_too_small_is_made_larger_before_anything_is_asked(store):
    # The fake counts a token for each sign: more than words of a language have.
    made = shared_grid().replace(inputs=[{"text": "?!" * 400}, {"text": "short"}])
    servers = Servers()
    run = run_to_end(store, made, servers)
    assert run.status == "done"
    first, second = servers.wishes
    assert first.context_size < 810 < second.context_size
    assert not [text for text, body in servers.fakes[0].asked if body["n_predict"]]


def test_an_edited_grid_takes_over_answers_whatever_the_number_of_lanes(store):
    run_to_end(store, shared_grid(2), Servers())
    servers = Servers()
    run = run_to_end(store, shared_grid(3, prompts={"a": "{{ text }} First.", "c": "{{ text }} Third."}), servers)
    frame = run.cells()
    cached = frame.groupby(["prompt", "input_id"])["cached"].all().to_dict()
    assert cached == {("a", "1"): True, ("a", "2"): True, ("a", "3"): False} | {("c", i): False for i in "123"}


def test_executors_never_lend_each_other_answers(store):
    made = shared_grid(2)
    for executor in ("auto", "plain", "strict", "latency"):
        run = run_to_end(store, made, Servers(), executor=executor)
        assert not run.cells()["cached"].any(), executor
    assert len({summary["run_id"] for summary in store.runs()}) == 4


@pytest.mark.parametrize("executor", ["strict", "latency"])
def test_strict_and_latency_ask_one_at_a_time_and_reuse_nothing(store, executor):
    servers = Servers(seconds=0.001)
    run = run_to_end(store, shared_grid(3), servers, executor=executor)
    frame = run.cells()
    assert set(frame["executor"]) == {executor}
    assert (frame["cached_tokens"] == 0).all()
    assert all(body["cache_prompt"] is False for text, body in servers.fakes[0].asked)
    assert servers.wishes[0].slots == 1
    assert run.plan[0].executor == executor


def test_in_a_latency_run_the_arms_take_turns_and_answers_are_never_copied(store):
    made = shared_grid(4, sampling=[{"temperature": 0.0, "max_tokens": 8}], repeats=1)
    servers = Servers()
    run_to_end(store, made, servers, executor="latency")
    asked = [text for text, body in servers.fakes[0].asked if body["n_predict"] == 8]
    arms = ["a" if "First" in text else "b" for text in asked]
    assert len(servers.fakes[0].asked) == 9, "one request warms up"
    assert arms == ["a", "b", "b", "a", "a", "b", "b", "a"]
    again = run_to_end(
        store, made.replace(prompts={"a": made.prompts["a"], "c": "{{ text }} Third."}), Servers(), executor="latency"
    )
    assert not again.cells()["cached"].any()


def test_taking_turns_gives_every_arm_every_place():
    cells = list(shared_grid(6, repeats=2).cells())
    ordered = taking_turns(cells)
    assert sorted(ordered, key=str) == sorted(cells, key=str)
    rounds = [list(group) for _, group in itertools.groupby(ordered, key=lambda cell: (cell.repeat, cell.input_id))]
    firsts = [(group[0].prompt, group[0].sampling) for group in rounds if len(group) == 4]
    assert len(set(firsts)) == 4


def test_repeats_are_one_question_as_long_as_their_seeds_follow_each_other():
    cells = list(shared_grid(1, prompts={"a": "{{ text }}"}, sampling=[{"temperature": 0.7}], repeats=5).cells())
    (whole,) = wanted_answers(cells)
    assert [cell.repeat for cell in whole.cells] == [0, 1, 2, 3, 4]
    parts = list(wanted_answers([cells[0], cells[1], cells[3], cells[4]]))
    assert [[cell.repeat for cell in part.cells] for part in parts] == [[0, 1], [3, 4]]


def test_an_executor_that_cannot_be_had_is_named(store):
    with pytest.raises(UnknownName, match="lane"):
        start(grid(1), store=store, engine_for=Rig(), executor="lane")
    run = start(grid(1), store=store, engine_for=Rig(), executor="lanes")
    with pytest.raises(Unsupported, match="no slots"):
        run.result(timeout=30)
    assert run_to_end(store, grid(1), Rig()).plan[0].executor == "plain"


def test_prompts_that_may_be_shortened_are_asked_one_by_one(store):
    made = shared_grid(2, sampling=[{"temperature": 0.0, "max_tokens": 8, "overflow": "truncate_middle"}])
    run = run_to_end(store, made, Servers())
    assert set(run.cells()["executor"]) == {"plain"}
    assert "shortened" in run.plan[0].why


def test_a_large_grid_is_tokenized_part_by_part(store):
    made = shared_grid(400, sampling=[{"temperature": 0.0, "max_tokens": 8}], repeats=1)
    servers = Servers()
    run = run_to_end(store, made, servers)
    assert run.status == "done"
    assert run.plan[0].answers == 800
    assert servers.fakes[0].counts["/tokenize"] <= 810
    assert servers.fakes[0].evaluated <= 1.1 * run.plan[0].least_tokens


def test_the_plan_says_how_fast_short_answers_were_both_ways(store):
    made = Grid(
        prompts={"p": "{{ n }} is the number"},
        inputs=[{"n": f"{number} {number * 7}"} for number in range(60)],
        sampling=[{"temperature": 0.0, "max_tokens": 8}],
        models=["m"],
    )
    (plan,) = run_to_end(store, made, Servers(seconds=0.1)).plan
    assert plan.paces is not None
    assert plan.paces[0] > plan.paces[1] > 0
    assert "8 answers side by side (a token, read or written, took " in str(plan)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_a_plan_that_goes_on_keeps_what_was_measured():
    before = Plan("m", "lanes", lanes=1, answers=5, paces=(3.25, 4.125))
    after = Plan("m", "lanes", lanes=8, answers=9).after(before)
    assert after.paces == before.paces
    assert "one answer at a time (a token, read or written, took 3.2 ms one at a time, 4.1 ms side by side)" in str(
        before
    )
