"""The router's decisions: each rule by example, then all of them against random histories."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from schedule_world import World

from noa_lab.server.router._schedule import COOL_DOWN_SECONDS, FAILURES, Policy

ONE = Policy(budget_bytes=10, max_overtaken=4, max_wait_seconds=30, linger_seconds=0.25)
TWO = Policy(budget_bytes=20, max_overtaken=4, max_wait_seconds=30, linger_seconds=0.25)
SIZES = {"a": 10, "b": 10, "c": 10}


def test_a_model_starts_on_its_first_request_and_all_of_its_requests_go_at_once():
    world = World(SIZES, ONE)
    first, second = world.ask("a"), world.ask("a")
    assert world.starts == ["a"]
    world.started("a")
    assert set(world.running) == {first, second}
    assert world.ask("a") in world.running


def test_an_idle_model_makes_way_after_it_has_lingered():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    world.leave(1)
    world.ask("b")
    assert world.state["a"] == "loaded", "its client may ask again at once"
    world.wait(ONE.linger_seconds)
    assert world.state["a"] == "unloading"
    assert world.state["b"] == "unloaded", "the memory is not free yet"
    world.stopped("a")
    assert world.state["b"] == "loading"


def test_a_busy_model_is_never_ended():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    world.ask("b")
    world.wait(3600)
    assert world.state == {"a": "loaded", "b": "unloaded", "c": "unloaded"}
    world.leave(1)
    assert world.state["a"] == "unloading", "the other one has waited long enough: no lingering"


def test_a_pinned_model_is_never_ended_and_what_does_not_fit_beside_it_is_refused():
    world = World(SIZES, ONE, pinned=("a",))
    world.ask("a")
    world.started("a")
    world.leave(1)
    refused = world.refused[world.ask("b")]
    assert refused.kind == "model_too_large"
    assert "pinned" in refused.reason
    world.wait(3600)
    assert world.state["a"] == "loaded"


def test_a_model_larger_than_the_budget_is_refused_with_its_size():
    world = World({"a": 11}, ONE)
    refused = world.refused[world.ask("a")]
    assert (refused.kind, refused.needed_bytes) == ("model_too_large", 11)
    assert world.starts == []


def test_later_requests_go_past_a_waiting_one_only_so_often():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    waiting = world.ask("b")
    later = [world.ask("a") for _ in range(6)]
    assert list(world.running) == [1, *later[:4]]
    for request in (1, *later[:4]):
        world.leave(request)
    world.settle()
    assert world.starts == ["a", "b", "a"]
    assert world.answered.index(waiting) < world.answered.index(later[4])


def test_time_alone_closes_a_model_too():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    world.ask("b")
    world.wait(ONE.max_wait_seconds)
    late = world.ask("a")
    assert late in world.waiting


def test_a_model_that_loads_slowly_is_served_before_it_has_to_go_again():
    world = World(SIZES, ONE)
    first = world.ask("a")
    world.ask("b")
    world.wait(500)
    world.started("a")
    assert first in world.running
    assert world.ask("a") in world.running, "it was loaded just now"


def test_what_came_first_is_served_first_on_a_model_that_was_only_just_loaded():
    world = World(SIZES, Policy(budget_bytes=10, linger_seconds=0))
    first = world.ask("a")
    world.ask("b")
    world.started("a")
    assert first in world.running


def test_the_bound_is_counted_anew_after_each_loading():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    world.ask("b")
    world.ask("c")
    for _ in range(ONE.max_overtaken):
        world.ask("a")
    for request in list(world.running):
        world.leave(request)
    world.stopped("a")
    world.started("b")
    late = [world.ask("b") for _ in range(ONE.max_overtaken + 1)]
    assert [request in world.running for request in late] == [True] * ONE.max_overtaken + [False]


def test_one_that_gave_up_waiting_begins_anew():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    gone = world.ask("b")
    for _ in range(ONE.max_overtaken):
        world.ask("a")
    world.leave(gone)
    world.ask("b")
    assert world.ask("a") in world.running


def test_what_was_held_back_goes_on_in_the_order_in_which_it_came():
    world = World({"a": 10, "b": 10, "big": 20}, TWO)
    for name in ("a", "b"):
        world.ask(name)
        world.started(name)
    big = world.ask("big")
    world.wait(TWO.max_wait_seconds)
    held = [world.ask(name) for name in ("b", "a", "b", "a")]
    assert not set(held) & set(world.running)
    world.leave(big)
    assert list(world.running) == [1, 2, *held]


def test_two_clients_that_take_turns_do_not_load_a_model_for_each_request():
    world = World(SIZES, ONE)
    asked = {"a": 0, "b": 0}
    requests = {world.ask("a"): "a", world.ask("b"): "b"}
    while sum(asked.values()) < 40:
        for model, state in list(world.state.items()):
            if state == "loading":
                world.started(model)
            elif state == "unloading":
                world.stopped(model)
        done = [request for request in world.running if request in requests]
        for request in done:
            model = requests.pop(request)
            world.leave(request)
            asked[model] += 1
            requests[world.ask(model)] = model
        world.wait(0.01)
    assert abs(asked["a"] - asked["b"]) <= ONE.max_overtaken + 1
    assert len(world.starts) <= 40 / ONE.max_overtaken + 2


def test_the_one_that_has_waited_longest_gets_the_memory():
    world = World({"a": 10, "big": 20, "small": 10}, TWO)
    world.ask("a")
    world.started("a")
    world.ask("big")
    world.ask("small")
    assert world.state["small"] == "unloaded", "it would fit, but then the big one would wait for ever"
    world.leave(1)
    world.settle()
    assert world.starts == ["a", "big", "small"]


def test_the_least_recently_used_goes_and_no_more_than_needed():
    world = World({"old": 5, "mid": 10, "new": 5, "next": 10}, TWO)
    for name in ("old", "mid", "new"):
        request = world.ask(name)
        world.started(name)
        world.leave(request)
        world.wait(1)
    world.ask("next")
    assert [name for name, state in world.state.items() if state == "unloading"] == ["mid"]


def test_what_was_measured_counts_and_not_what_was_foreseen():
    world = World({"a": 5, "b": 5}, ONE)
    world.ask("a")
    world.started("a", size=9)
    world.ask("b")
    assert world.starts == ["a"]
    world.leave(1)
    world.settle()
    assert world.starts == ["a", "b"]
    world.grew("b", 12)
    assert world.state["b"] == "loaded", "alone, it may stay"
    world.unload("b")
    world.settle()
    assert world.refused[world.ask("b")].needed_bytes == 12


def test_the_idle_one_goes_when_two_grow_over_the_budget():
    world = World({"a": 5, "b": 5}, ONE)
    for name in ("a", "b"):
        world.ask(name)
        world.started(name)
    world.leave(1)
    world.wait(1)
    world.grew("b", 8)
    assert world.state == {"a": "unloading", "b": "loaded"}


def test_unused_models_end_after_their_time():
    world = World(SIZES, Policy(budget_bytes=30, idle_seconds=60), pinned=("b",))
    for name in ("a", "b", "c"):
        world.ask(name)
        world.started(name)
    world.leave(1)
    world.leave(2)
    world.wait(59)
    assert world.state["a"] == "loaded"
    world.wait(2)
    assert world.state == {"a": "unloading", "b": "loaded", "c": "loaded"}


def test_a_client_that_goes_away_while_it_waits_wants_nothing_any_more():
    world = World(SIZES, ONE)
    world.ask("a")
    world.started("a")
    waiting = world.ask("b")
    for _ in range(9):
        world.ask("a")
    world.leave(waiting)
    assert len(world.running) == 10, "what had been held back for it goes on"
    world.leave(999)


def test_everyone_who_waits_for_a_model_that_fails_is_told_and_after_three_times_it_rests():
    world = World(SIZES, ONE)
    for _ in range(FAILURES):
        asked = [world.ask("a"), world.ask("a")]
        world.start_failed("a")
        assert all(world.refused[request].kind == "model_failed" for request in asked)
        assert world.refused[asked[0]].reason == "broken"
    assert world.ask("a") in world.refused
    assert len(world.starts) == FAILURES
    world.wait(COOL_DOWN_SECONDS)
    world.ask("a")
    assert len(world.starts) == FAILURES + 1
    world.started("a")
    assert world.schedule.models["a"].failures == 0


def test_requests_of_a_server_that_died_are_forgotten_and_new_ones_start_it_again():
    world = World(SIZES, ONE)
    lost = world.ask("a")
    world.started("a")
    world.stopped("a")
    again = world.ask("a")
    world.leave(lost)
    world.started("a")
    assert list(world.running) == [again]


def test_more_requests_than_may_wait_are_refused():
    world = World(SIZES, Policy(budget_bytes=10, max_waiting=3))
    asked = [world.ask("a") for _ in range(4)]
    assert [request for request in asked if request in world.refused] == asked[3:]
    assert world.refused[asked[3]].kind == "queue_full"


def test_unload_is_obeyed_unless_the_model_is_at_work():
    world = World(SIZES, ONE, pinned=("a",))
    assert world.unload("a"), "there is nothing to do"
    request = world.ask("a")
    assert not world.unload("a")
    world.started("a")
    assert not world.unload("a")
    world.leave(request)
    assert world.unload("a")
    assert world.state["a"] == "unloading"


# --- random histories

PHASES = (Phase.generate,)
"""Without shrinking, which takes minutes here: the events that led to a failure are printed all the same."""
NAMES = ("a", "b", "c", "d")
RANDOM_SIZES = {"a": 3, "b": 5, "c": 8, "d": 10}


class Histories(RuleBasedStateMachine):
    """Anything may happen at any time; the world checks every single action."""

    def __init__(self) -> None:
        super().__init__()
        policy = Policy(budget_bytes=13, max_overtaken=5, max_wait_seconds=20, idle_seconds=100, max_waiting=40)
        self.world = World(RANDOM_SIZES, policy, pinned=("a",))

    def among(self, state: str) -> list[str]:
        return [name for name in NAMES if self.world.state[name] == state]

    @rule(model=st.sampled_from(NAMES), count=st.integers(1, 8))
    def ask(self, model: str, count: int) -> None:
        for _ in range(count):
            self.world.ask(model)

    @precondition(lambda self: self.world.running or self.world.waiting)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        self.world.leave(data.draw(st.sampled_from(sorted({**self.world.running, **self.world.waiting}))))

    @precondition(lambda self: self.world.running)
    @rule()
    def all_answers_end(self) -> None:
        for request in list(self.world.running):
            self.world.leave(request)

    @precondition(lambda self: self.among("loading"))
    @rule(data=st.data(), more=st.sampled_from((0, 0, 0, 1)))
    def started(self, data: Any, more: int) -> None:
        name = data.draw(st.sampled_from(self.among("loading")))
        self.world.started(name, min(13, self.world.sizes[name] + more))

    @precondition(lambda self: self.among("loading"))
    @rule(data=st.data())
    def failed(self, data: Any) -> None:
        self.world.start_failed(data.draw(st.sampled_from(self.among("loading"))))

    @precondition(lambda self: self.among("unloading"))
    @rule(data=st.data())
    def stopped(self, data: Any) -> None:
        self.world.stopped(data.draw(st.sampled_from(self.among("unloading"))))

    @precondition(lambda self: self.among("loaded"))
    @rule(data=st.data())
    def died(self, data: Any) -> None:
        self.world.stopped(data.draw(st.sampled_from(self.among("loaded"))))

    @precondition(lambda self: self.among("loaded"))
    @rule(data=st.data())
    def unload(self, data: Any) -> None:
        self.world.unload(data.draw(st.sampled_from(self.among("loaded"))))

    @rule(seconds=st.floats(0.001, 200))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @invariant()
    def both_sides_agree(self) -> None:
        for name, model in self.world.schedule.models.items():
            assert model.state == self.world.state[name]
            assert sorted(model.waiting) == sorted(r for r, m in self.world.waiting.items() if m == name)
            assert model.running == {r for r, m in self.world.running.items() if m == name}

    def teardown(self) -> None:
        self.world.settle()


def test_no_history_breaks_a_rule():
    chosen = settings(
        max_examples=40, stateful_step_count=50, deadline=None, derandomize=True, database=None, phases=PHASES
    )
    run_state_machine_as_test(Histories, settings=chosen)


@pytest.mark.full
def test_no_long_history_breaks_a_rule():
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    chosen = settings(
        max_examples=400,
        stateful_step_count=250,
        deadline=None,
        database=None,
        suppress_health_check=quiet,
        phases=PHASES,
    )
    run_state_machine_as_test(Histories, settings=chosen)


@pytest.mark.parametrize("events", [1_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_a_day_of_random_events(events):
    """One long history: state that is wrong by a little shows after many events."""
    random_number = random.Random(7)
    policy = Policy(budget_bytes=13, max_overtaken=5, max_wait_seconds=20, idle_seconds=100, max_waiting=200)
    world = World(RANDOM_SIZES, policy, pinned=("a",))
    asked = 0
    for _ in range(events):
        kind = random_number.random()
        if kind < 0.45:
            world.ask(random_number.choice(NAMES))
            asked += 1
        elif kind < 0.85 and world.running:
            world.leave(random_number.choice(sorted(world.running)))
        elif kind < 0.87 and world.waiting:
            request = random_number.choice(sorted(world.waiting))
            world.leave(request)
            world.refused[request] = None
        for name, state in list(world.state.items()):
            if state == "loading" and random_number.random() < 0.3:
                world.start_failed(name) if random_number.random() < 0.02 else world.started(name)
            elif state == "unloading" and random_number.random() < 0.5:
                world.stopped(name)
        world.wait(random_number.expovariate(20))
    world.settle()
    assert len(world.answered) + len(world.refused) == asked
    assert len(world.answered) > asked / 2
