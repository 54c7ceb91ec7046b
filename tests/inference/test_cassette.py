"""Recordings: what is in them, how they are played back, what is not in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from noa_lab.errors import BadInput, Cancelled, CassetteMiss, ContextOverflow, RequestRefused, StreamBroken
from noa_lab.inference import (
    CassetteEngine,
    ChatMessage,
    InferenceConfig,
    LlamaInferenceEngine,
    OpenAIEngine,
    Reply,
    ScriptedEngine,
)
from noa_lab.testing import FakeLlamaServer, Script

KEY = "sk-very-secret"
HOT = InferenceConfig(temperature=1.0, max_tokens=30)
TURNS = [ChatMessage.user("Hi")]


def clock() -> None:
    """Tell the time."""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_question_gets_its_answers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine(["one", "two", "three"], model_name="m")) as engine:
        recorded = [engine.generate("x", HOT) for _ in range(2)]
        engine.chat(TURNS, HOT)
        assert not recorded[0].replayed
    with CassetteEngine(path) as engine:
        assert (engine.model_name, len(engine)) == ("m", 3)
        played = [engine.generate("x", HOT) for _ in range(2)]
        assert [answer.text for answer in played] == ["one", "two"]
        assert all(answer.replayed for answer in played)
        assert "replayed" in played[0].facts()
        assert [answer.timings for answer in played] == [answer.timings for answer in recorded]
        assert [answer.seed for answer in played] == [answer.seed for answer in recorded]
        with pytest.raises(CassetteMiss, match="recorded 2 times") as caught:
            engine.generate("x", HOT)
        assert caught.value.fields["path"] == str(path)
        for other in (InferenceConfig(temperature=1.0, max_tokens=31), InferenceConfig(seed=1)):
            with pytest.raises(CassetteMiss, match="recorded 0 times"):
                engine.generate("x", other)
        assert engine.chat(TURNS, HOT).text == "three"


def test_what_is_missing_is_recorded_beside_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine(["one"])) as engine:
        engine.generate("x", HOT)
    inner = ScriptedEngine(["two"])
    with CassetteEngine(path, inner) as engine:
        assert [engine.generate("x", HOT).text, engine.generate("y", HOT).text] == ["one", "two"]
        assert len(inner.calls) == 1
    with CassetteEngine(path, ScriptedEngine(["new"]), fresh=True) as engine:
        assert engine.generate("x", HOT).text == "new"
    assert len(lines(path)) == 2


def test_a_head_says_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine(context_size=77)) as engine:
        assert engine.capabilities.context_size == 77
        engine.embed("a")
    head, record = lines(path)
    assert (head["format"], head["version"], head["model_name"]) == ("noa-lab-cassette", 1, "scripted")
    assert record["asked"] == {"op": "embed", "texts": ["a"]}
    with CassetteEngine(path) as engine:
        assert engine.capabilities.context_size == 77
        assert engine.fingerprint()["recorded"]["executor"] == "scripted"
        assert engine.fingerprint()["executor"] == "cassette"


def test_what_a_config_leaves_open_is_as_with_the_engine(tmp_path: Path) -> None:
    path, inner = tmp_path / "tape.jsonl", ScriptedEngine("one")
    inner.defaults = InferenceConfig(temperature=0.2, max_tokens=9, stop_sequences=("x",))
    with CassetteEngine(path, inner) as engine:
        engine.generate("a")
    assert (inner.calls[0].config.temperature, inner.calls[0].config.max_tokens) == (0.2, 9)
    with CassetteEngine(path) as engine:
        assert engine.generate("a").text == "one"
        assert engine.defaults == inner.defaults


def test_errors_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    script = [Reply("a b c", fail_after=2), RequestRefused("no", fix="f", status=400)]
    with CassetteEngine(path, ScriptedEngine(script, context_size=20)) as engine:
        for _ in range(2):
            with pytest.raises((StreamBroken, RequestRefused)):
                engine.generate("x", HOT)
        with pytest.raises(ContextOverflow):
            engine.generate("x " * 30, HOT)
    with CassetteEngine(path) as engine:
        stream, got = engine.stream("x", HOT), []
        with pytest.raises(StreamBroken) as caught:
            got.extend(stream)
        assert (got, caught.value.fields["text"]) == (["a", " b"], "a b")
        with pytest.raises(RequestRefused, match="no"):
            engine.generate("x", HOT)
        with pytest.raises(ContextOverflow) as overflow:
            engine.generate("x " * 30, HOT)
        assert overflow.value.fields["context_size"] == 20


def test_a_cancelled_stream_plays_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine("a b" + " c" * 28, piece_delay=0.3)) as engine:
        stream = engine.stream("x", HOT)
        for piece in stream:
            if piece == " b":
                break
        with pytest.raises(Cancelled):
            stream.result  # noqa: B018
    with CassetteEngine(path) as engine:
        again = []
        for piece in engine.stream("x", HOT):
            again.append(piece)
            if piece == " b":
                break
        assert again == ["a", " b"]
    with CassetteEngine(path) as engine, pytest.raises(CassetteMiss, match="cancelled"):
        list(engine.stream("x", HOT))


def test_tools_and_their_calls(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine('{"tool": "clock", "arguments": {}}')) as engine:
        recorded = engine.chat(TURNS, tools=[clock])
    with CassetteEngine(path) as engine:
        assert engine.chat(TURNS, tools=[clock]).tool_calls == recorded.tool_calls
        with pytest.raises(CassetteMiss):
            engine.chat(TURNS)


@pytest.mark.parametrize("kind", [LlamaInferenceEngine, OpenAIEngine])
def test_no_key_is_ever_in_a_cassette(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "tape.jsonl"
    props = {"default_generation_settings": {"n_ctx": 64}, "total_slots": 1, "chat_template": "x"}
    refusal = Script(status=401, body={"error": {"message": "Invalid API Key", "type": "authentication_error"}})
    with FakeLlamaServer([Script(), refusal], bodies={"/props": props}) as fake:
        with CassetteEngine(path, kind(fake.base_url, "m", KEY)) as engine:
            engine.capabilities  # noqa: B018
            if kind is LlamaInferenceEngine:
                engine.generate("x", HOT)
            with pytest.raises(RequestRefused):
                engine.generate("y", HOT)
        assert any(seen.headers.get("authorization") == f"Bearer {KEY}" for seen in fake.seen)
    assert KEY not in path.read_text()
    assert "uthorization" not in path.read_text()


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine(["one", "two"])) as engine:
        engine.generate("x", HOT)
        engine.generate("y", HOT)
    os.truncate(path, path.stat().st_size - 7)
    with CassetteEngine(path, ScriptedEngine(["again"])) as engine:
        assert engine.generate("x", HOT).text == "one"
        assert engine.generate("y", HOT).text == "again"
    assert len(lines(path)) == 3


@pytest.mark.parametrize("text", ["{}\n", '{"format": "noa-lab-cassette", "version": 99}\n', "<html>\n", "[1]\n"])
def test_what_is_no_cassette(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tape.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match="line 1"):
        CassetteEngine(path)


def test_nothing_to_play(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no cassette"):
        CassetteEngine(tmp_path / "missing.jsonl")
    path = tmp_path / "tape.jsonl"
    with CassetteEngine(path, ScriptedEngine("one", model_name="a")) as engine:
        engine.generate("x", HOT)
    with pytest.raises(BadInput, match="'a'"):
        CassetteEngine(path, ScriptedEngine(model_name="b"))
