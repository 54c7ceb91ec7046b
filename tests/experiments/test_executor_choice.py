"""Which executor "auto" becomes, why, and with which sizes: on this machine and on imagined ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from comparison_rig import GREEDY, Rig, grid

from noa_lab import runtime as runtimes
from noa_lab.experiments import EngineWish, Store, start
from noa_lab.experiments.execution._choice import choose
from noa_lab.workbench._trees import Trees

WISH = EngineWish("tree", 8, 1024)


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


@pytest.mark.real
def test_on_this_machine_nothing_stands_against_a_tree(home, runtime, model):
    assert Trees(home).hindrance(model, WISH) == ""


@pytest.mark.real
def test_a_server_with_a_gpu_is_better(home, runtime, model, monkeypatch):
    gpu = replace(runtimes.current(home), backend="vulkan")
    monkeypatch.setattr(runtimes, "current", lambda home: gpu)
    found = Trees(home).hindrance(model, WISH)
    assert found == "the server computes with vulkan, the embedded runtime with cpu"


@pytest.mark.real
def test_without_llama_cpp_in_the_bindings_there_is_no_tree(home, runtime, model, monkeypatch):
    monkeypatch.setattr(runtimes, "bindings_ready", lambda home: False)
    assert "no llama.cpp" in Trees(home).hindrance(model, WISH)


@pytest.mark.real
@pytest.mark.parametrize(("room", "lanes"), [(9, 8), (8, 4), (5, 4), (3, 2), (2, 1), (1, 0)])
def test_as_many_answers_grow_as_there_is_memory_for(home, runtime, model, monkeypatch, room, lanes):
    def fit(model, home, settings, *, quick):
        assert quick
        return SimpleNamespace(verdict="fits" if settings.slots <= room else "does not fit")

    monkeypatch.setattr("noa_lab.models.memory.fit_of_file", fit)
    trees = Trees(home)
    assert trees._lanes(model, WISH) == lanes
    against = trees.hindrance(model, WISH)
    assert ("would not fit" in against) == (lanes < 2)
