"""What the scripted engine does beyond the engines' contract: queues, faults, delays, the log."""

from __future__ import annotations

import asyncio

import pytest

from noa_lab.errors import BadInput, RequestRefused, StreamBroken, Unreachable
from noa_lab.inference import ChatMessage, InferenceConfig, Prompt
from noa_lab.testing import Reply, ScriptedEngine


def test_replies_in_order_then_refused() -> None:
    engine = ScriptedEngine(["one", Reply("two"), Unreachable("gone", fix="")])
    assert [engine.generate("x").text, engine.generate("x").text] == ["one", "two"]
    with pytest.raises(Unreachable):
        engine.generate("x")
    with pytest.raises(RequestRefused, match="3 replies"):
        engine.generate("x")
    assert [call.outcome for call in engine.calls] == ["done", "done", "failed", "failed"]


def test_a_function_sees_what_was_asked() -> None:
    def answer(prompt: Prompt, config: InferenceConfig) -> str:
        return f"{prompt if isinstance(prompt, str) else prompt[-1].content} {config.top_k}"

    engine = ScriptedEngine(answer)
    assert engine.generate("raw", InferenceConfig(top_k=3)).text == "raw 3"
    assert engine.chat([ChatMessage.user("hi")]).text == "hi 40"
    assert engine.calls[1].rendered == "<|user|>\nhi\n<|assistant|>\n"


def test_breaking_in_the_middle() -> None:
    engine = ScriptedEngine(lambda _prompt, _config: Reply("a b c d", fail_after=2))
    with pytest.raises(StreamBroken) as caught:
        engine.generate("x")
    assert caught.value.fields["text"] == "a b"


def test_slots_are_honoured() -> None:
    async def crowd(engine: ScriptedEngine) -> None:
        await asyncio.gather(*(engine.agenerate("x") for _ in range(6)))

    for slots in (1, 3):
        engine = ScriptedEngine(slots=slots, delay=0.01)
        asyncio.run(crowd(engine))
        assert engine.peak == slots


def test_the_same_script_gives_the_same_seeds() -> None:
    def seeds() -> list[int | None]:
        engine = ScriptedEngine()
        return [engine.generate("x").seed for _ in range(3)]

    assert seeds() == seeds()
    assert len(set(seeds())) == 3


def test_empty_prompt() -> None:
    with pytest.raises(BadInput):
        ScriptedEngine().generate("")
