"""What an engine can do beside answering, where its capabilities say so: vectors, probabilities, grammars."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from contract_rig import COUNTING, REAL, greedy, inside
from inference_server import CONTEXT

from noa_lab.errors import BadInput, ContextOverflow, NoaLabError
from noa_lab.inference import ChatMessage, EngineBase, InferenceConfig


def test_embeddings(engine: EngineBase) -> None:
    if not engine.capabilities.embeddings:
        return
    found = engine.embed(["Paris is a city.", "A town called Paris", "Bake at 200 degrees"])
    assert asyncio.run(engine.aembed("Paris is a city."))[0] == pytest.approx(found[0], abs=1e-4)
    vectors = np.asarray(found)
    assert vectors.shape[0] == len(found) == 3
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far
    for wrong in ("", [], ["a", ""], None, [7], "\ud83d"):
        with pytest.raises(BadInput):
            engine.embed(wrong)


def test_logprobs_of_generated_tokens(engine: EngineBase) -> None:
    if not engine.capabilities.logprobs:
        return
    answer = engine.generate(COUNTING, greedy(6, n_probs=3))
    assert [found.token for found in answer.logprobs] == list(answer.token_ids)
    assert b"".join(found.piece for found in answer.logprobs).decode() == answer.text
    for found in answer.logprobs:
        assert found.logprob <= 0
        assert len(found.top) == 3
        assert found.top[0].token == found.token  # greedy
        assert [each.logprob for each in found.top] == sorted((each.logprob for each in found.top), reverse=True)
    cold, hot = (
        engine.generate(COUNTING, InferenceConfig(temperature=value, seed=1, max_tokens=1, n_probs=3)).logprobs[0].top
        for value in (0.1, 5.0)
    )
    assert [each.logprob for each in cold] == pytest.approx([each.logprob for each in hot], abs=0.02)


def test_logprobs_of_given_continuations(engine: EngineBase) -> None:
    if not engine.capabilities.continuation_logprobs:
        return
    prompt = "The capital of France is"
    paris = engine.continuation_logprobs(prompt, " Paris")
    soup = asyncio.run(engine.acontinuation_logprobs(prompt, " soup, of course 🙂"))
    assert paris.logprob > soup.logprob
    assert paris.greedy
    assert not soup.greedy
    assert b"".join(token.piece for token in soup.tokens).decode() == " soup, of course 🙂"
    chosen = engine.generate(prompt, greedy(3, n_probs=1))
    scored = engine.continuation_logprobs(prompt, chosen.token_ids)
    assert [found.logprob for found in scored.tokens] == pytest.approx(
        [found.logprob for found in chosen.logprobs], abs=0.05
    )
    by_tokens = engine.continuation_logprobs(engine.tokenize(prompt), " Paris")
    assert by_tokens.logprob == pytest.approx(paris.logprob, abs=0.05)
    turns = [ChatMessage.user("Hi")]
    assert engine.continuation_logprobs(turns, "Hello").prompt_tokens == engine.count_tokens(turns)
    with pytest.raises(ContextOverflow):
        engine.continuation_logprobs(prompt, " word" * CONTEXT)
    for wrong in ("", [], None, [-1]):
        with pytest.raises(BadInput):
            engine.continuation_logprobs(prompt, wrong)


def test_grammar(engine: EngineBase) -> None:
    if "grammar" not in engine.capabilities.constraints or not REAL & set(map(type, inside(engine))):
        return
    answer = engine.generate("x", InferenceConfig(max_tokens=20, temperature=2.0, grammar='root ::= "yes" | "no"'))
    assert answer.text in {"yes", "no"}
    assert answer.finish_reason == "stop"
    with pytest.raises(BadInput, match="both constrain"):
        InferenceConfig(grammar="root ::= [a]", json_schema={})
    with pytest.raises(NoaLabError, match="grammar"):
        engine.generate("x", greedy(2, grammar="root ::= ("))
    assert engine.generate(COUNTING, greedy(1)).completion_tokens == 1
