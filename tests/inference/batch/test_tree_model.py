"""The context of a tree on the real model: what is moved in it, or parked beside it, is the same to the last bit."""

from __future__ import annotations

import random

import pytest

from noa_lab.inference.embedded._tree_model import Fed, TreeModel

pytestmark = pytest.mark.real

LOGITS = 1000
"""So many of each row are compared."""


@pytest.fixture(scope="module")
def model(gguf):
    return TreeModel(gguf, 256, 1, cells=2048, sequences=16)


def decode(model: TreeModel, fed: list[Fed]) -> list[list[float]]:
    """The logits after each sequence fed."""
    return [list(model._lib.llama_get_logits_ith(model._context, place)[:LOGITS]) for place in model.decode(fed)]


def fed(rng: random.Random, sequence: int, start: int, tokens: int) -> Fed:
    return Fed(sequence, start, [rng.randrange(1000, 40_000) for _ in range(tokens)], wanted=True)


def grow(model: TreeModel, *, tidy: bool) -> list[list[list[float]]]:
    """Answers to a trunk's prompts grow side by side, some end, one forks from another, and the others grow on."""
    rng = random.Random(1)
    model.clear()
    model.decode([fed(rng, 15, 0, 60)])
    model.forget(15)
    model.decode([fed(rng, 0, 0, 150)])
    model.copy(0, 8, 140)
    model.copy(0, 9, 70)
    for lane in range(1, 8):
        model.copy(0, lane, 150)
    model.decode([fed(rng, 10, 0, 40)])
    for step in range(12):
        model.decode([fed(rng, lane, 150 + step, 1) for lane in range(1, 8)])
    for lane in (0, 2, 5):
        model.forget(lane)
    model.copy(1, 2, 156)
    lengths = {1: 162, 2: 156, 3: 162, 4: 162, 6: 162, 7: 162}
    if tidy:
        model.tidy(lengths, [8, 9, 10])
        assert model.taken == 150 + 5 * 12
    found = [decode(model, [fed(rng, lane, at + step, 1) for lane, at in lengths.items()]) for step in range(2)]
    model.copy(10, 11, 35)
    model.copy(9, 12, 70)
    model.copy(8, 13, 100)
    return [*found, decode(model, [fed(rng, 11, 35, 2), fed(rng, 12, 70, 2), fed(rng, 13, 100, 2)])]


def test_what_is_moved_together_or_parked_gives_the_same_logits(model):
    assert grow(model, tidy=True) == grow(model, tidy=False)


def test_what_is_parked_takes_no_cells_until_it_is_needed(model):
    rng = random.Random(2)
    model.clear()
    model.decode([fed(rng, 0, 0, 100)])
    model.copy(0, 8, 100)
    model.tidy([], [8])
    assert model.taken == 0
    model.copy(8, 1, 90)
    assert model.taken == 100
    model.tidy([1], [8])
    assert (model.taken, len(model._parked)) == (90, 1), "more than what is at work holds of it"
    model.forget(8)
    assert not model._parked


def test_what_there_is_no_room_to_park_is_forgotten(model):
    rng = random.Random(3)
    model.clear()
    for sequence in range(8):
        model.decode([fed(rng, sequence, 0, 200)])
    model.tidy([], range(8))
    assert len(model._parked) == 2048 // 2 // 200
    assert model.taken == 0
