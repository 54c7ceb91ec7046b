"""What every engine promises of an answer: what it knows about itself, what it repeats, how it ends."""

from __future__ import annotations

import pytest
from contract_rig import COUNTING, SMILES, greedy, make
from inference_server import CONTEXT

from noa_lab.errors import BadInput
from noa_lab.inference import ChatMessage, EngineBase, InferenceConfig, InferenceEngine


def test_is_an_engine(engine: EngineBase) -> None:
    assert isinstance(engine, InferenceEngine)
    assert engine.model_name == "smollm2-135m"
    assert engine.capabilities.context_size == CONTEXT
    assert engine.capabilities.slots >= 1


@pytest.mark.parametrize("prompt", ["What is Rust programming language?", "Write a hello world program in Rust."])
def test_seed_example_prompts(engine: EngineBase, prompt: str) -> None:
    answer = engine.chat([ChatMessage.user(prompt)], InferenceConfig(temperature=0.7, max_tokens=16, seed=1))
    assert answer.text.strip()
    assert 0 < answer.completion_tokens <= 16
    assert engine.generate(prompt, InferenceConfig(max_tokens=4, seed=1)).prompt_tokens == engine.count_tokens(prompt)


def test_generate_reports_everything(engine: EngineBase) -> None:
    answer = engine.generate("Once upon a time", InferenceConfig(max_tokens=8, seed=11))
    assert str(answer) == answer.text
    assert answer.model == "smollm2-135m"
    assert answer.finish_reason == "length"
    assert answer.completion_tokens == 8
    assert not answer.truncated
    assert answer.seed == 11
    timings = answer.timings
    assert 0 <= timings.queue_ms <= timings.ttft_ms <= timings.total_ms
    assert timings.total_ms >= timings.decode_ms > 0
    assert answer.raw_request
    assert answer.raw_response
    assert answer.text in answer._repr_html_()


def test_drawn_seed_is_reported_and_repeats_the_answer(engine: EngineBase) -> None:
    config = InferenceConfig(max_tokens=6, temperature=1.0)
    first, second = engine.generate("The", config), engine.generate("The", config)
    assert first.seed is not None
    assert first.seed != second.seed
    again = engine.generate("The", InferenceConfig(max_tokens=6, temperature=1.0, seed=first.seed))
    assert (again.seed, again.text) == (first.seed, first.text)


def test_greedy_repeats_and_has_no_seed(engine: EngineBase) -> None:
    answers = [engine.generate(COUNTING, greedy(8)) for _ in range(3)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].seed is None


def test_stop_sequences(engine: EngineBase) -> None:
    answer = engine.generate(COUNTING, greedy(30, stop_sequences=("nowhere", ", 8")))
    assert answer.finish_reason == "stop_sequence"
    assert answer.text == " 6, 7"
    stream = engine.stream(COUNTING, greedy(30, stop_sequences=(", 8",)))
    assert "".join(stream) == " 6, 7"


@pytest.mark.parametrize("limit", [5, 6, 7, 8])
def test_begun_stop_sequence_is_not_lost_at_the_limit(engine: EngineBase, limit: int) -> None:
    whole = engine.generate(COUNTING, greedy(limit))
    stop = whole.text[-1] + "#never"
    held = engine.generate(COUNTING, greedy(limit, stop_sequences=(stop,)))
    assert (held.text, held.finish_reason) == (whole.text, "length")


def test_max_tokens(engine: EngineBase) -> None:
    one = engine.generate(COUNTING, greedy(1))
    assert (one.completion_tokens, one.finish_reason, one.truncated) == (1, "length", False)


def test_unicode_and_emoji(engine: EngineBase) -> None:
    stream = engine.stream(SMILES, greedy(12))
    pieces = list(stream)
    assert "🙂" in stream.result.text
    assert "\ufffd" not in "".join(pieces)
    odd = "Zoë\u2028\u0085 \x00 \U0001f468\u200d\U0001f469\u200d\U0001f467 ﷽ \u202eabc"
    answer = engine.generate(odd, greedy(2))
    assert answer.prompt_tokens == engine.count_tokens(odd)


def test_extreme_but_allowed_values(engine: EngineBase) -> None:
    wild = InferenceConfig(
        temperature=10, top_p=0.000001, top_k=1, min_p=1, repeat_penalty=10, seed=2**32 - 2, max_tokens=2
    )
    assert engine.generate("x", wild).seed == 2**32 - 2
    assert (
        engine.generate(
            "x", InferenceConfig(top_k=0, top_p=1, max_tokens=1_000_000, stop_sequences=("e", "a", "word"))
        ).text
        is not None
    )


def test_fingerprint_is_stable_and_holds_no_secret(engine: EngineBase) -> None:
    first = engine.fingerprint()
    assert first == engine.fingerprint()
    assert first["context_size"] == CONTEXT
    assert "contract-key" not in repr(first) + repr(engine)


def test_reuse_is_reported(engine: EngineBase) -> None:
    if not engine.capabilities.reports_cached_tokens:
        assert engine.generate(COUNTING, greedy(1)).cached_tokens == 0
        return
    prompt = "The quick brown fox jumps over the lazy dog. " * 4
    engine.generate(prompt, greedy(1))
    second = engine.generate(prompt, greedy(1))
    assert second.cached_tokens == second.prompt_tokens - 1


def test_closing_twice(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    other = make(request.node.callspec.params["engine"], request)
    with other:
        assert other.count_tokens("one two") >= 2
    other.close()
    for use in (lambda: other.generate("x"), lambda: other.stream("x"), lambda: other.capabilities):
        with pytest.raises(BadInput, match="closed"):
            use()
