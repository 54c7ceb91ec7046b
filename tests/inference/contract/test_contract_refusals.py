"""What every engine refuses by name."""

from __future__ import annotations

import math

import pytest
from contract_rig import COUNTING, greedy

from noa_lab.errors import BadInput, Unsupported
from noa_lab.inference import ChatMessage, EngineBase, InferenceConfig


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_impossible_values_are_named(engine: EngineBase, values: dict[str, float], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        engine.generate("x", InferenceConfig(**values))
    assert caught.value.fields["field"] == field


@pytest.mark.parametrize("prompt", ["", "half a \ud83d character", 7, None, b"bytes"])
def test_impossible_prompts(engine: EngineBase, prompt: str) -> None:
    with pytest.raises(BadInput) as caught:
        engine.generate(prompt, greedy(1))
    assert caught.value.fields["field"] == "prompt"
    assert engine.generate(COUNTING, greedy(1)).completion_tokens == 1


@pytest.mark.parametrize(
    "messages", [[], "text", [{"role": "user", "content": "x"}], [ChatMessage.user("\udc00")], None]
)
def test_impossible_conversations(engine: EngineBase, messages: list[ChatMessage]) -> None:
    with pytest.raises(BadInput):
        engine.chat(messages, greedy(1))


def test_what_cannot_be_done_is_refused(engine: EngineBase) -> None:
    what = engine.capabilities
    if not what.logprobs:
        with pytest.raises(Unsupported) as caught:
            engine.generate("x", greedy(1, n_probs=2))
        assert caught.value.fields["what"] == "logprobs"
    for constraint, value in {"grammar": 'root ::= "a"', "json_schema": {"type": "integer"}}.items():
        if constraint not in what.constraints:
            with pytest.raises(Unsupported, match=constraint):
                engine.generate("x", greedy(1, **{constraint: value}))
    if not what.embeddings:
        with pytest.raises(Unsupported):
            engine.embed("x")
    if not what.continuation_logprobs:
        with pytest.raises(Unsupported):
            engine.continuation_logprobs("x", " y")
