"""Scorers that ask a model, on the real llama-server with the real model."""

from __future__ import annotations

import asyncio

import pytest

from noa_lab.experiments import Grid, score
from noa_lab.experiments.score._model import Case, choose
from noa_lab.inference import ChatMessage
from noa_lab.workbench import Lab

pytestmark = pytest.mark.real

CAPITALS = [
    {"country": country, "expected": capital, "wrong": wrong}
    for country, capital, wrong in (
        ("France", "Paris", "Berlin"),
        ("Japan", "Tokyo", "Rome"),
        ("Italy", "Rome", "Tokyo"),
        ("Germany", "Berlin", "Paris"),
    )
]


@pytest.fixture
def lab(home, runtime, model):
    made = Lab(home)
    yield made
    made.store.close()


def test_a_run_is_graded_by_log_probabilities_a_rubric_and_a_judge(lab):
    grid = Grid(
        {"plain": "What is the capital of {{ country }}?", "short": "{{ country }}'s capital, in one word:"},
        CAPITALS,
        sampling=[{"temperature": 0, "max_tokens": 12}],
    )
    scorers = [
        score.logprob("{{ expected }}", name="right"),
        score.logprob("{{ wrong }}", name="wrong"),
        score.perplexity(),
        score.rubric("The answer names a city.", levels=5),
        score.judge("Which answer is shorter?"),
    ]
    run = lab.compare(grid, scorers, name="graded").result(timeout=240)
    frame = run.cells()
    assert run.status == "done"
    assert (frame[["score.right", "score.wrong"]] < 0).all(axis=None)
    short = frame.query("prompt == 'short'")
    assert (short["score.right"] > short["score.wrong"]).mean() > 0.5, "it knows the capitals of large countries"
    assert frame["score.perplexity"].between(0, 1).all()
    assert frame["score.rubric"].between(0, 1).all()
    assert frame.query("prompt == 'plain'")["score.judge"].tolist() == [0.5] * 4
    assert short["score.judge"].isin([0.0, 0.25, 0.5, 0.75, 1.0]).all()
    assert run.verdict("short", over="plain", on="judge").judged is not None
    assert run.provenance["graders"]["smollm2-135m"]["build"].startswith("b11312")
    again = lab.compare(grid, scorers)
    assert again.run_id == run.run_id
    assert again.status == "done"


def test_choices_come_from_the_models_own_probabilities(lab):
    with lab.engine_for("smollm2-135m") as engine:
        question = [ChatMessage.user("Is Paris a city? Reply with one word, Yes or No.")]
        shares = asyncio.run(choose(engine, question, ["No", "Yes"]))
        assert sum(shares) == pytest.approx(1)
        assert all(0 < share < 1 for share in shares), "not the word that it would write, but how sure it is"
        case = Case("Paris", {}, [ChatMessage.user("What is the capital of France?")])
        sure = asyncio.run(score.perplexity().grade(engine, case))
        odd = asyncio.run(score.perplexity().grade(engine, Case("Zebra lamp", {}, case.messages)))
        assert sure.value > odd.value
