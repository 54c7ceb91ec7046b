"""What every engine promises of tokens: exact counts, the edge of the context, what a policy leaves out."""

from __future__ import annotations

import pytest
from contract_rig import COUNTING, greedy
from inference_server import CONTEXT

from noa_lab.errors import BadInput, ContextOverflow
from noa_lab.inference import ChatMessage, EngineBase, InferenceConfig


@pytest.mark.parametrize(
    "messages",
    [
        [ChatMessage.user("Hi")],
        [ChatMessage.system("Be brief."), ChatMessage.user("Zoë says 你好 🙂")],
        [ChatMessage.user("A"), ChatMessage.assistant("B"), ChatMessage.user("C <|im_end|> D")],
    ],
)
def test_tokens_are_counted_after_the_template(engine: EngineBase, messages: list[ChatMessage]) -> None:
    text = engine.render(messages)
    assert all(message.content in text for message in messages)
    count = engine.count_tokens(messages)
    assert count == engine.count_tokens(text)
    assert count == engine.chat(messages, greedy(1)).prompt_tokens
    assert count == engine.generate(text, greedy(1)).prompt_tokens


def test_answer_ends_where_the_context_is_full(engine: EngineBase) -> None:
    prompt = "word " * (CONTEXT - 6)
    tokens = engine.count_tokens(prompt)
    assert CONTEXT - 12 < tokens < CONTEXT
    answer = engine.generate(prompt, InferenceConfig(max_tokens=300, seed=1))
    if answer.finish_reason == "length":
        assert answer.truncated
        assert answer.completion_tokens == CONTEXT - tokens
    else:
        assert answer.completion_tokens <= CONTEXT - tokens


def test_overflow_at_the_boundary(engine: EngineBase) -> None:
    words = CONTEXT + 4
    while engine.count_tokens("word " * words) > CONTEXT:
        words -= 1
    assert engine.count_tokens("word " * words) == CONTEXT
    for extra in (0, 1):
        with pytest.raises(ContextOverflow) as caught:
            engine.generate("word " * (words + extra), greedy(5))
        assert caught.value.fields == {
            "prompt_tokens": CONTEXT + extra,
            "max_tokens": 5,
            "context_size": CONTEXT,
        }
    last = engine.generate("word " * (words - 1), greedy(5))
    assert (last.prompt_tokens, last.completion_tokens) == (CONTEXT - 1, 1)


def test_tokens_go_back_and_forth(engine: EngineBase) -> None:
    text = "One, two and Zoë 🙂"
    tokens = engine.tokenize(text)
    assert engine.detokenize(tokens) == text
    assert engine.count_tokens(text) == engine.count_tokens(tokens) == len(tokens)
    by_text, by_tokens = engine.generate(text, greedy(4)), engine.generate(tokens, greedy(4))
    assert (by_tokens.text, by_tokens.prompt_tokens) == (by_text.text, len(tokens))
    assert len(by_text.token_ids) == by_text.completion_tokens
    assert engine.detokenize(by_text.token_ids) == by_text.text
    for wrong in ([], [1, "a"], [-1], [True]):
        with pytest.raises(BadInput):
            engine.generate(wrong, greedy(1))


def test_rolling_window_over_text(engine: EngineBase) -> None:
    prompt = "beginning " + "word " * CONTEXT + COUNTING
    with pytest.raises(ContextOverflow):
        engine.generate(prompt, greedy(8))
    answer = engine.generate(prompt, greedy(8, overflow="rolling_window"))
    assert answer.prompt_tokens == CONTEXT - 8
    assert answer.dropped.tokens == engine.count_tokens(prompt) - answer.prompt_tokens
    assert (answer.dropped.policy, answer.dropped.messages, answer.truncated) == ("rolling_window", 0, False)
    assert engine.generate(COUNTING, greedy(8, overflow="rolling_window")).dropped is None


def test_rolling_window_over_turns(engine: EngineBase) -> None:
    turns = [ChatMessage.system("Be brief.")]
    for number in range(12):
        turns += [ChatMessage.user(f"Question {number}? " + "word " * 40), ChatMessage.assistant("Yes.")]
    turns.append(ChatMessage.user("And now?"))
    answer = engine.chat(turns, greedy(8, overflow="rolling_window"))
    gone = answer.dropped.messages
    assert gone % 2 == 0
    assert engine.count_tokens([turns[0], *turns[1 + gone :]]) == answer.prompt_tokens <= CONTEXT - 8
    assert engine.count_tokens([turns[0], *turns[gone - 1 :]]) > CONTEXT - 8  # no turn more than need be
    middle = engine.chat(turns, greedy(8, overflow="truncate_middle"))
    kept = [*turns[:3], *turns[3 + middle.dropped.messages :]]
    assert engine.count_tokens(kept) == middle.prompt_tokens
    with pytest.raises(ContextOverflow, match="last message"):
        engine.chat([ChatMessage.user("word " * CONTEXT)], greedy(8, overflow="rolling_window"))
