"""The prefix tree of prompts: what they share, and the least that must be evaluated."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.inference.batch._prefixes import Prefixes, common, packed

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)
PROMPTS = st.lists(TOKENS, min_size=1, max_size=14)


def shared_by_hand(one, other) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


@given(TOKENS, TOKENS)
def test_two_prompts_begin_alike_as_far_as_their_tokens_do(one, other):
    assert common(packed(one), packed(other)) == shared_by_hand(one, other)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 3))
def test_long_beginnings_are_measured_exactly(length, rest, differing):
    trunk = list(range(70_000, 70_000 + length))
    one, other = packed([*trunk, 1, *range(rest)]), packed([*trunk, 2, *range(differing)])
    assert common(one, other) == length
    assert common(one, one) == length + 1 + rest


@given(PROMPTS)
def test_the_minimum_is_the_distinct_prefixes_and_one_token_for_each_repeated_prompt(prompts):
    prefixes = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
    distinct = {tuple(prompt) for prompt in prompts}
    inside = sum(any(len(p) < len(q) and q[: len(p)] == p for q in distinct) for p in distinct)
    found = Prefixes([packed(prompt) for prompt in prompts])
    # A prompt that another one begins with is sorted before it, so it costs nothing twice.
    assert found.minimum == len(prefixes) + len(prompts) - len(distinct), inside
    assert found.total == sum(map(len, prompts))


@settings(max_examples=100)
@given(PROMPTS, st.integers(1, 4))
def test_trunks_are_shared_beginnings_that_nest_and_are_long_enough(prompts, shortest):
    tokens = [packed(prompt) for prompt in prompts]
    prefixes = Prefixes(tokens)
    trunks = prefixes.trunks(shortest)
    assert len({trunk.tokens for trunk in trunks}) == len(trunks)
    for number, trunk in enumerate(trunks):
        having = {index for index, each in enumerate(tokens) if each.startswith(trunk.tokens)}
        assert {prefixes.order[place] for place in range(trunk.first, trunk.last + 1)} == having
        assert trunk.prompts == len(having) >= 2
        before = 0
        if trunk.parent is not None:
            assert trunk.parent < number
            assert trunk.tokens.startswith(trunks[trunk.parent].tokens)
            before = trunks[trunk.parent].length
        assert trunk.length - before >= shortest


@given(PROMPTS)
def test_with_trunks_of_one_token_every_fork_is_found(prompts):
    distinct = {tuple(prompt) for prompt in prompts}
    forks = set()
    for one in distinct:
        for other in distinct:
            count = shared_by_hand(one, other)
            if count and one != other:
                forks.add(one[:count])
    repeated = {tuple(prompt) for prompt in prompts if prompts.count(prompt) > 1}
    trunks = Prefixes([packed(prompt) for prompt in prompts]).trunks(1)
    assert {trunk.tokens for trunk in trunks} == {packed(fork) for fork in forks | repeated}
