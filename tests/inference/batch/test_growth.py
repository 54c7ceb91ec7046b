"""The growing of many answers, on a model that only counts: what is evaluated, what is refused, and what happens without room."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

import pytest

from noa_lab.inference.batch import Prefixes, packed
from noa_lab.inference.batch._prefixes import unpacked
from noa_lab.inference.embedded._growth import Growth
from noa_lab.inference.embedded._sampler import GrammarInvalid
from noa_lab.inference.embedded._tree_model import BATCH, Fed, OutOfCells, TreeModel

LANES, STORES = 4, 8


class Cells:
    """The cells of a unified cache as llama.cpp gives them out: from the head on whichever is free, and the head goes back to what is freed."""

    def __init__(self, count: int) -> None:
        self.cells: list[tuple[int, set[int]]] = [(0, set())] * count
        self.head = self.refusals = 0

    def take(self, fed: Sequence[Fed]) -> None:
        tokens = [(part.start + offset, part.sequence) for part in fed for offset in range(len(part.tokens))]
        if self.used + len(tokens) > len(self.cells):
            self.refusals += 1
            raise OutOfCells
        self.head = 0 if self.head > self.used + 2 * len(tokens) else self.head
        for position, sequence in tokens:
            while self.cells[self.head % len(self.cells)][1]:
                self.head += 1
            self.head %= len(self.cells)
            self.cells[self.head] = position, {sequence}

    @property
    def used(self) -> int:
        return sum(bool(owners) for _, owners in self.cells)

    def positions(self, sequence: int) -> list[int]:
        return [position for position, owners in self.cells if sequence in owners]

    def llama_memory_seq_cp(self, memory, source: int, target: int, start: int, end: int) -> None:
        for position, owners in self.cells:
            if source in owners and start <= position < (end if end >= 0 else 10**9):
                owners.add(target)

    def llama_memory_seq_rm(self, memory, sequence: int, start: int, end: int) -> None:
        freed = len(self.cells)
        for at, (position, owners) in enumerate(self.cells):
            if sequence in owners and start <= position < (end if end >= 0 else 10**9):
                owners.discard(sequence)
                freed = min(freed, at) if not owners else freed
        self.head = min(self.head, freed)

    def llama_memory_clear(self, memory, data: bool) -> None:
        self.cells, self.head = [(0, set())] * len(self.cells), 0

    def llama_state_seq_get_size(self, context, sequence: int) -> int:
        return 4 * len(self.positions(sequence))

    def llama_state_seq_get_data(self, context, state, size: int, sequence: int) -> int:
        state[:] = packed(self.positions(sequence))
        return size

    def llama_state_seq_set_data(self, context, state, size: int, sequence: int) -> int:
        self.llama_memory_seq_rm(None, sequence, -1, -1)
        for position in unpacked(bytes(state)):
            self.take([Fed(sequence, position, (0,), wanted=False)])
        return size


class Counting(TreeModel):
    """Holds tokens as the real one does, and answers with the number of tokens that came before: what is wrong shows in the text."""

    def __init__(self, cells: int = 5_000) -> None:
        self.context_size, self._sequences, self._cells = 400, LANES + STORES, cells
        self._released, self._moving, self._parked = self._sequences, self._sequences + 1, {}
        self._lib, self._memory, self._context, self._in_context = Cells(cells), None, None, []
        self.rows: list[list[int]] = []
        self.steps: list[list[int]] = []
        self.most = self.moves = 0
        self.clear()

    def copy(self, source: int, target: int, length: int) -> None:
        assert len(self._held[source]) >= length * 4, "more is copied than there is"
        super().copy(source, target, length)

    @property
    def refusals(self) -> int:
        return self._lib.refusals

    def tidy(self, working: Collection[int], kept: Iterable[int]) -> None:
        before = self._taken
        super().tidy(working, kept)
        assert self._taken == self._lib.used == self.room(working) <= before
        self.moves += 1

    def decode(self, fed: Sequence[Fed]) -> list[int]:
        assert sum(len(part.tokens) for part in fed) <= BATCH
        for part in fed:
            assert len(self._held[part.sequence]) == 4 * part.start, "a hole, or something evaluated twice"
        self._lib.take(fed)
        for part in fed:
            self._held[part.sequence] += packed(part.tokens)
            places = self._lib.positions(part.sequence)
            assert places == list(range(part.start + len(part.tokens))), "not in the order of its tokens"
        self.most = max(self.most, self._lib.used)
        self._taken += sum(len(part.tokens) for part in fed)
        self.rows = [list(part.tokens) for part in fed]
        self.steps.append([len(part.tokens) for part in fed])
        self._lengths = [part.start + len(part.tokens) for part in fed]
        return list(range(len(fed)))

    def sampler(self, sampling, grammar, prompt):
        if grammar == "broken":
            raise GrammarInvalid("failed to parse grammar")
        return _Sampler()

    def sample(self, sampler, output: int) -> int:
        return self._lengths[output]

    def ends(self, token: int) -> bool:
        return False

    def piece(self, token: int) -> bytes:
        return f"{token} ".encode()


class _Sampler:
    def close(self) -> None:
        pass


def wish(tokens: Sequence[int], answers: int = 1, length: int = 5, **changes):
    return {
        "tokens": list(tokens), "seeds": list(range(answers)), "sampling": {"n_probs": 0}, "grammar": None, "stop": [],
        "max_tokens": length, **changes,
    }  # fmt: skip


def grow(wishes, model: Counting | None = None, window: int = 1000, early: Sequence[int] = ()):
    """Answer everything; returns the answers by question, the tokens evaluated, and the most that grew at once."""
    model, said = model or Counting(), []
    growth = Growth(model, LANES, STORES, said.append)
    for number, start in enumerate(range(0, len(wishes), window)):
        growth.add(number, wishes[start : start + window], early)
    widest = 0
    while growth.busy:
        growth.step()
        widest = max(widest, len(model.rows))
    found: dict[int, list[str]] = {}
    evaluated = 0
    for message in said:
        evaluated += message.get("done", message).get("evaluated", 0)
        if "text" in message:
            found.setdefault(message["id"] * window + message["question"], []).append(message["text"])
    return found, evaluated, widest


def family(rng: random.Random, trunks: int, leaves: int) -> list[list[int]]:
    """Prompts that share beginnings of any length, whole prompts included."""
    found = []
    for _ in range(trunks):
        trunk = [rng.randrange(50) for _ in range(rng.randrange(200))]
        found += [[*trunk, *(rng.randrange(3) for _ in range(rng.randrange(1, 40)))] for _ in range(leaves)]
    return [*found, *rng.sample(found, 3)]


@pytest.mark.parametrize("seed", range(12))
def test_every_answer_is_right_and_hardly_anything_is_evaluated_twice(seed):
    rng = random.Random(seed)
    prompts = family(rng, rng.randrange(1, 6), rng.randrange(2, 20))
    answers = [rng.choice((1, 1, 1, 3, 7)) for _ in prompts]
    found, evaluated, widest = grow([wish(*pair) for pair in zip(prompts, answers, strict=True)])
    for number, prompt in enumerate(prompts):
        right = "".join(f"{len(prompt) + offset} " for offset in range(5))
        assert found[number] == [right] * answers[number]
    least = Prefixes([packed(prompt) for prompt in prompts]).minimum
    # Prompts that fork within a few tokens of each other go side by side rather than one after the other.
    assert evaluated <= 1.02 * least + 4 * len(prompts)
    assert widest >= LANES


def crowd(seed: int, cells: int) -> tuple[Counting, float]:
    """Many trunks and longer answers, one of each trunk early; every answer must be right. Returns the tokens evaluated over the fewest."""
    rng, model = random.Random(seed), Counting(cells)
    model.context_size = 260
    trunks = [[rng.randrange(50) for _ in range(200)] for _ in range(STORES)]
    prompts = [[*trunk, *(leaf,) * rng.randrange(1, 40)] for trunk in trunks for leaf in range(3)]
    found, evaluated, _ = grow([wish(prompt, length=20) for prompt in prompts], model, early=range(0, len(prompts), 3))
    assert found == {number: ["".join(f"{len(each) + at} " for at in range(20))] for number, each in enumerate(prompts)}
    return model, evaluated / Prefixes([packed(prompt) for prompt in prompts]).minimum


@pytest.mark.parametrize("seed", range(6))
def test_the_context_holds_little_more_than_what_is_at_work_and_nothing_is_evaluated_twice(seed):
    model, over = crowd(seed, cells=2_500)
    # Four prompts of 240 tokens at most with answers of 20, two of them with trunks of their own, and what is loose.
    assert model.most <= 4 * 260 + 2 * 200 + 256
    assert over <= 1.02
    assert not model.refusals


@pytest.mark.parametrize("contexts", [LANES + 1, 2 * LANES])
@pytest.mark.parametrize("seed", range(6))
def test_where_room_is_short_it_is_tidied_up_and_tokens_stay_in_their_order(seed, contexts):
    model, over = crowd(seed, cells=contexts * 260)
    assert model.moves
    assert over <= 1.1, "hardly anything is forgotten"
    assert not model.refusals


def test_answers_that_are_alike_share_their_cells_after_a_tidy_and_stay_in_order():
    model = Counting()
    grow([wish([1] * 10, 1, length=200), wish([2] * 10, 3, length=200)], model)
    assert model.moves
    assert model.most < 2 * 200 + 300 + 256


def test_a_prompt_with_answers_to_come_is_not_evaluated_again_where_room_is_short():
    model = Counting(cells=(LANES + 1) * 100)
    model.context_size, prompts = 100, [[number] * 60 for number in range(6)]
    _, evaluated, _ = grow([wish(prompt, 9, length=30) for prompt in prompts], model)
    assert evaluated <= 6 * 60 + 12


def test_where_there_is_no_room_some_is_made():
    """Prompts that begin together take more cells than there are before what has ended is let go of."""
    model = Counting(cells=(LANES + 1) * 100)
    model.context_size, rng = 100, random.Random(1)
    prompts = [[rng.randrange(10_000) for _ in range(90)] for _ in range(40)]
    lengths = [rng.randrange(1, 10) for _ in prompts]
    found, _, _ = grow([wish(prompt, length=length) for prompt, length in zip(prompts, lengths, strict=True)], model)
    assert found == {number: ["".join(f"{90 + at} " for at in range(each))] for number, each in enumerate(lengths)}
    assert model.refusals


def test_tokens_are_evaluated_as_a_server_would_that_evaluates_the_whole_prompt():
    """Prompts of at least 64 tokens in batches of at least 64, shorter ones and answers in smaller ones."""
    model, rng = Counting(), random.Random(1)
    short = [[rng.randrange(9) for _ in range(30)] for _ in range(20)]
    grow([wish(prompt, length=3) for prompt in short], model)
    assert max(map(sum, model.steps)) < 64
    model = Counting()
    long = [[rng.randrange(9) for _ in range(200)] for _ in range(20)]
    grow([wish(prompt, length=3) for prompt in long], model)
    assert all(sum(step) >= 64 for step in model.steps if max(step) > 20)


def test_a_part_that_comes_later_shares_with_what_is_there():
    trunk = list(range(100))
    prompts = [[*trunk, *(number,) * 6] for number in range(200, 240)]
    found, evaluated, _ = grow([wish(prompt) for prompt in prompts], window=10)
    assert len(found) == 40
    assert evaluated <= 1.02 * (100 + 40 * 6)


def test_prompts_wait_a_few_steps_to_be_evaluated_together():
    trunk, model = list(range(100)), Counting()
    prompts = [[*trunk, *(number,) * 24] for number in range(200, 232)]
    grow([wish(prompt, length=4) for prompt in prompts], model, early=[0])
    small = [step for step in model.steps if max(step) > 1 and sum(step) < 64]
    assert len(small) <= 1, "the early one is evaluated alone"


def test_prompts_in_tiles_wait_for_those_of_the_other_lanes_where_answers_are_short():
    trunk, model = list(range(100)), Counting()
    prompts = [[*trunk, *(number,) * 40] for number in range(200, 232)]
    lengths = [2, 2, *(4,) * 30]
    grow([wish(prompt, length=length) for prompt, length in zip(prompts, lengths, strict=True)], model)
    together = [len(step) for step in model.steps if max(step) > 1]
    assert together.count(LANES) >= 7, together


def test_a_broken_grammar_spoils_its_own_answers_alone():
    wishes = [wish([1, 2, 3], 3), wish([1, 2, 4], 3, grammar="broken"), wish([1, 2, 3], 2)]
    found, _, _ = grow(wishes)
    assert {number: len(texts) for number, texts in found.items()} == {0: 3, 2: 2}
