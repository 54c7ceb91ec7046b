"""What is left out of a prompt that is too long: as little as possible, and never what must stay."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.errors import BadInput, ContextOverflow
from noa_lab.inference import ChatMessage, InferenceConfig, MessageRole, ScriptedEngine
from noa_lab.inference._overflow import fit_conversation, fit_tokens, room_for_prompt


def test_the_answer_keeps_its_room() -> None:
    assert room_for_prompt(100, InferenceConfig(max_tokens=10)) == 90
    assert room_for_prompt(100, InferenceConfig(max_tokens=90)) == 50
    assert room_for_prompt(101, InferenceConfig()) == 51


def test_cutting_tokens() -> None:
    tokens = list(range(10))
    assert fit_tokens(tokens, 10, "rolling_window", [])[0] == tuple(tokens)
    cut, dropped = fit_tokens(tokens, 4, "rolling_window", [])
    assert (cut, dropped.tokens, dropped.policy) == ((6, 7, 8, 9), 6, "rolling_window")
    assert fit_tokens(tokens, 4, "truncate_middle", [])[0] == (0, 1, 8, 9)
    assert fit_tokens(tokens, 5, "truncate_middle", [])[0] == (0, 1, 7, 8, 9)
    # The beginning of every text stays; the end of an empty text is no beginning.
    assert fit_tokens(tokens, 4, "rolling_window", [0])[0] == (0, 7, 8, 9)
    assert fit_tokens(tokens, 4, "rolling_window", [0, 99])[0] == (0, 7, 8, 9)
    assert fit_tokens(tokens, 4, "rolling_window", [7])[0] == (6, 7, 8, 9)


def turns_of(roles: str) -> list[ChatMessage]:
    kinds = {"s": MessageRole.SYSTEM, "u": MessageRole.USER, "a": MessageRole.ASSISTANT, "t": MessageRole.TOOL}
    return [ChatMessage(role=kinds[role], content=f"{role}{number}") for number, role in enumerate(roles)]


def fit(roles: str, room: int, policy: str = "rolling_window") -> str:
    """Which turns stay of a conversation whose every turn has 10 tokens."""

    async def count(turns: list[ChatMessage]) -> int:
        return 10 * len(turns)

    config = InferenceConfig(overflow=policy, max_tokens=5)
    prompt, dropped = asyncio.run(fit_conversation(turns_of(roles), room, config, 1000, count))
    assert (dropped.messages if dropped else 0) == len(roles) - len(prompt)
    assert (dropped.tokens if dropped else 0) == 10 * (len(roles) - len(prompt))
    return " ".join(turn.content for turn in prompt)


@pytest.mark.parametrize(
    ("roles", "room", "policy", "left"),
    [
        ("suau", 40, "rolling_window", "s0 u1 a2 u3"),
        ("suau", 39, "rolling_window", "s0 u3"),
        ("uauau", 30, "rolling_window", "u2 a3 u4"),
        ("uauau", 29, "rolling_window", "u4"),
        ("suauaua", 39, "rolling_window", "s0 u5 a6"),  # a begun answer stays with its question
        ("uatatau", 40, "rolling_window", "u6"),  # the results of tools go with their question
        ("uauat", 30, "rolling_window", "u2 a3 t4"),
        ("suauauau", 50, "truncate_middle", "s0 u1 a2 u7"),
        ("suauauau", 60, "truncate_middle", "s0 u1 a2 u5 a6 u7"),
    ],
)
def test_whole_exchanges_are_left_out(roles: str, room: int, policy: str, left: str) -> None:
    assert fit(roles, room, policy) == left


@pytest.mark.parametrize(("roles", "room"), [("su", 19), ("suau", 19), ("sa", 10), ("a", 5), ("suau", 0)])
def test_what_must_stay_is_never_left_out(roles: str, room: int) -> None:
    for policy in ("rolling_window", "truncate_middle"):
        with pytest.raises(ContextOverflow) as caught:
            fit(roles, room, policy)
        assert caught.value.fields["context_size"] == 1000


@settings(max_examples=200)
@given(
    st.text("suat", min_size=1, max_size=14),
    st.integers(0, 150),
    st.sampled_from(["rolling_window", "truncate_middle"]),
)
def test_any_conversation(roles: str, room: int, policy: str) -> None:
    try:
        left = fit(roles, room, policy).split()
    except ContextOverflow:
        return
    names = [turn.content for turn in turns_of(roles)]
    assert 10 * len(left) <= room
    assert left[-1] == names[-1]
    assert [name for name in names if name in left] == left  # in order
    if roles.startswith("s"):
        assert left[0] == "s0"
    gap = next((at for at, (one, other) in enumerate(zip(left, names, strict=False)) if one != other), None)
    assert gap is None or left[gap].startswith("u")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(BadInput, match="overflow"):
        InferenceConfig(overflow="cut")


def test_the_policy_measures_with_the_tools_described() -> None:
    def clock() -> None:
        """Tell the time."""

    engine = ScriptedEngine('{"reply": "no"}', context_size=120)
    turns = [
        turn for number in range(6) for turn in (ChatMessage.user(f"q {number} " * 5), ChatMessage.assistant("yes"))
    ]
    answer = engine.chat(
        [*turns, ChatMessage.user("now")], InferenceConfig(max_tokens=20, overflow="rolling_window"), tools=[clock]
    )
    assert answer.dropped.messages > 0
    assert answer.prompt_tokens <= 100
    assert "clock" in engine.calls[-1].rendered
