"""Which executor "auto" becomes, why, and with which sizes: on this machine and on imagined ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from comparison_rig import GREEDY, Rig, grid
from test_executors import Servers, run_to_end

from noa_lab import runtime as runtimes
from noa_lab.experiments import EngineWish, Grid, Store, start
from noa_lab.experiments.execution._choice import choose
from noa_lab.server import ServerSettings
from noa_lab.workbench._trees import Trees

WISH, USUAL = EngineWish("tree", 8, 1024), ServerSettings()


def never() -> str:
    raise AssertionError("nobody should have asked")


def test_auto_is_explained_in_one_line():
    made = grid()
    many = choose("auto", None, made, 100, lambda: "")
    assert (many.executor, many.firm) == ("tree", False)
    assert "side by side" in many.why
    few = choose("auto", None, made, 99, never)
    assert few.executor == "lanes"
    assert "second time" in few.why
    against = choose("auto", None, made, 100, lambda: "the GPU is the server's")
    assert (against.executor, against.why) == ("lanes", "the GPU is the server's")
    assert choose("auto", None, made, 100).executor == "lanes", "where there is no embedded runtime at all"


def test_answers_that_are_there_already_are_worth_more_than_speed():
    made = grid()
    lanes = choose("auto", None, made, 5_000, never, lambda: "lanes")
    assert (lanes.executor, lanes.firm) == ("lanes", False)
    assert "taken over" in lanes.why
    tree = choose("auto", None, made, 5, lambda: "", lambda: "tree")
    assert (tree.executor, tree.firm) == ("tree", False)
    assert "taken over" in tree.why
    assert choose("auto", None, made, 5, lambda: "no room", lambda: "tree").why == "no room"
    assert choose("tree", None, made, 5, never, never).executor == "tree"
    assert choose("auto", "lanes", made, 5_000, never, never).executor == "lanes"


def test_what_was_asked_for_and_what_a_run_began_with_are_not_changed():
    made = grid()
    assert choose("lanes", None, made, 100, never).executor == "lanes"
    assert choose("tree", None, made, 1, never).firm
    for recorded in ("lanes", "tree", "plain"):
        chosen = choose("auto", recorded, made, 100, never)
        assert (chosen.executor, chosen.firm) == (recorded, True)


def test_prompts_that_may_be_shortened_are_asked_plainly():
    made = grid(sampling=[GREEDY.model_copy(update={"overflow": "truncate_middle"})])
    assert choose("auto", None, made, 100, never).executor == "plain"


def test_the_run_asks_what_stands_against_a_tree_and_keeps_the_answer(tmp_path):
    asked = []

    def hindrance(model, wish):
        asked.append((model, wish.executor, wish.slots))
        return "there is a reason"

    store = Store(tmp_path / "runs.db")
    run = start(grid(50), store=store, engine_for=Rig(slots=2), hindrance=hindrance).result(timeout=60)
    assert asked == [("m", "tree", 8)]
    assert run.plan[0].executor == "plain", "the scripted engine has no slots to plan with"
    store.close()


def edited(inputs: int) -> Grid:
    return Grid(
        {"a": "First {{ n }}.", "b": "Second {{ n }}."},
        [{"n": number} for number in range(inputs)],
        ["m"],
        [{"temperature": 0.0, "max_tokens": 4}],
    )


def test_a_grid_that_has_grown_asks_only_what_is_new(store):
    servers, never_against = Servers(), {"hindrance": lambda model, wish: ""}
    first = run_to_end(store, edited(10), servers, **never_against)
    assert first.plan[0].executor == "lanes"
    grown = run_to_end(store, edited(60), servers, **never_against)
    assert grown.plan[0].executor == "lanes", "though a tree is faster for 120 answers"
    assert grown.cells()["cached"].sum() == 20
    assert len(servers.asked) == 120
    anew = run_to_end(store, edited(60), servers, fresh=True, **never_against)
    assert anew.plan[0].executor == "tree"
    assert not anew.cells()["cached"].any()


def test_a_small_grid_takes_over_what_a_tree_has_answered(store):
    servers, never_against = Servers(), {"hindrance": lambda model, wish: ""}
    large = run_to_end(store, edited(60), servers, **never_against)
    assert set(large.cells()["executor"]) == {"tree"}
    small = run_to_end(store, edited(61).replace(inputs=edited(61).inputs[56:]), servers, **never_against)
    assert set(small.cells()["executor"]) == {"tree"}
    assert small.cells()["cached"].sum() == 8
    assert len(servers.asked) == 122
    assert servers.wishes[-1].executor == "tree"


@pytest.mark.real
def test_on_this_machine_nothing_stands_against_a_tree(home, runtime, model):
    assert Trees(home).hindrance(model, WISH, USUAL) == ""


@pytest.mark.real
def test_a_server_with_a_gpu_is_better(home, runtime, model, monkeypatch):
    gpu = replace(runtimes.current(home), backend="vulkan")
    monkeypatch.setattr(runtimes, "current", lambda home: gpu)
    found = Trees(home).hindrance(model, WISH, USUAL)
    assert found == "the server computes with vulkan, the embedded runtime with cpu"


@pytest.mark.real
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cache_type_k": "q8_0", "cache_type_v": "q8_0"}, "cache_type_k and cache_type_v"),
        ({"flash_attention": "off"}, "flash_attention"),
        ({"options": {"rope-scale": 2.0}}, "options"),
    ],
)
def test_what_the_server_is_told_and_the_embedded_runtime_is_not_stands_against_a_tree(
    home, runtime, model, settings, named
):
    found = Trees(home).hindrance(model, WISH, ServerSettings(**settings))
    assert found == f"server.yaml says {named} for it, and the embedded runtime does not take that over"
    assert Trees(home).hindrance(model, WISH, ServerSettings(threads=1, slots=3, save_slots=True)) == ""


@pytest.mark.real
def test_without_llama_cpp_in_the_bindings_there_is_no_tree(home, runtime, model, monkeypatch):
    monkeypatch.setattr(runtimes, "bindings_ready", lambda home: False)
    assert "no llama.cpp" in Trees(home).hindrance(model, WISH, USUAL)


@pytest.mark.real
@pytest.mark.parametrize(("room", "lanes"), [(15, 8), (14, 4), (9, 4), (8, 2), (6, 2), (5, 1), (4, 1), (3, 0)])
def test_as_many_answers_grow_as_there_is_memory_for(home, runtime, model, monkeypatch, room, lanes):
    def fit(model, home, settings, *, quick):
        assert quick
        return SimpleNamespace(verdict="fits" if settings.slots <= room else "does not fit")

    monkeypatch.setattr("noa_lab.models.memory.fit_of_file", fit)
    trees = Trees(home)
    assert trees._lanes(model, WISH) == lanes
    against = trees.hindrance(model, WISH, USUAL)
    assert ("would not fit" in against) == (lanes < 2)
