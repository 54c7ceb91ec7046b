"""Strict and fast: what strict mode sends and refuses, and what is measured of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import RealServer, start_server, stop_server

from noa_lab.errors import BadInput, RequestRefused
from noa_lab.inference import (
    EmbeddedEngine,
    InferenceConfig,
    LlamaInferenceEngine,
    Reply,
    ScriptedEngine,
    check_determinism,
)
from noa_lab.testing import FakeLlamaServer, Script

SHORT = (InferenceConfig(temperature=0.0, max_tokens=12), InferenceConfig(temperature=0.8, seed=5, max_tokens=12))


def props(**changes: object) -> dict[str, object]:
    found = {"total_slots": 1, "build_info": "b1", "model_path": "m.gguf", "chat_template": "x"}
    return {**found, "default_generation_settings": {"n_ctx": 64}, **changes}


def test_strict_uses_one_slot_and_no_cache() -> None:
    with FakeLlamaServer(bodies={"/props": props()}) as fake:
        with LlamaInferenceEngine(fake.base_url, "m", mode="strict", id_slot=3) as engine:
            engine.generate("x", InferenceConfig(seed=4))
            assert engine.capabilities.modes == {"fast", "strict"}
            fingerprint = engine.fingerprint()
        sent = next(seen.body for seen in fake.seen if seen.path == "/completion")
    assert (sent["cache_prompt"], sent["id_slot"], sent["seed"]) == (False, 0, 4)
    assert (fingerprint["mode"], fingerprint["cache_prompt"]) == ("strict", False)


def test_strict_asks_one_at_a_time() -> None:
    async def crowd(engine: LlamaInferenceEngine) -> None:
        await asyncio.gather(*(engine.agenerate(f"p{number}") for number in range(3)))

    scripts = [Script(pieces=["a", "b"], pause=0.02)]
    with FakeLlamaServer(scripts, bodies={"/props": props()}) as fake:
        with LlamaInferenceEngine(fake.base_url, "m", mode="strict") as engine:
            asyncio.run(crowd(engine))
        # Each answer is preceded by a look at the server, and none begins before the last has ended.
        assert [seen.path for seen in fake.seen] == ["/props", "/completion"] * 3


def test_strict_refuses_several_slots() -> None:
    with FakeLlamaServer(bodies={"/props": props(total_slots=2)}) as fake:
        with (
            LlamaInferenceEngine(fake.base_url, "m", mode="strict") as engine,
            pytest.raises(BadInput, match="slots=1"),
        ):
            engine.generate("x")
        assert [seen.path for seen in fake.seen] == ["/props"]
        with LlamaInferenceEngine(fake.base_url, "m") as engine:
            assert engine.capabilities.modes == {"fast"}
            report = check_determinism(engine, ["x"], runs=2, configs=SHORT)
        assert "slots=1" in str(report)
        with pytest.raises(KeyError):
            report["strict"]


@pytest.mark.parametrize("changed", ["build_info", "model_path", "chat_template"])
def test_strict_pins_the_setup(changed: str) -> None:
    with (
        FakeLlamaServer(bodies={"/props": props()}) as fake,
        LlamaInferenceEngine(fake.base_url, "m", mode="strict") as engine,
    ):
        engine.generate("x")
        fake._bodies["/props"] = props(**{changed: "other"})
        with pytest.raises(RequestRefused, match=changed) as caught:
            engine.generate("x")
    assert caught.value.fields["type"] == "setup_changed"


def test_modes_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    for make in (
        lambda: LlamaInferenceEngine("http://h", "m", mode="slow"),
        lambda: EmbeddedEngine(tmp_path / "m.gguf", mode=1),
    ):
        with pytest.raises(BadInput, match="mode"):
            make()


def test_the_first_differing_token_is_shown() -> None:
    engine = ScriptedEngine(["one two three", "one <b> three", "one two"], slots=2)
    report = check_determinism(engine, ["p"], runs=3, configs=[InferenceConfig(temperature=0.0)])
    found = report["fast"]
    assert not found.identical
    assert [(each.run, each.position, each.expected, each.found) for each in found.differences] == [
        (1, 1, " two", " <"),
        (2, 2, " three", ""),
    ]
    assert "2 of 2 repeated answers differ; the first: 'p', answer 1: token 1 is ' <', not ' two'" in str(report)
    assert "&lt;" in report._repr_html_()


def test_bad_questions() -> None:
    with pytest.raises(BadInput, match="seed"):
        check_determinism(ScriptedEngine(), configs=[InferenceConfig()])
    for wrong in ({"runs": 1}, {"prompts": []}):
        with pytest.raises(BadInput):
            check_determinism(ScriptedEngine(), **wrong)
    closed = ScriptedEngine()
    closed.close()
    with pytest.raises(BadInput, match="closed"):
        check_determinism(closed)
    with pytest.raises(RequestRefused):
        check_determinism(ScriptedEngine([Reply("a"), RequestRefused("no", fix="")]), ["p"])


@pytest.fixture(scope="module")
def one_slot(llama_server_program: Path, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    server = start_server(llama_server_program, gguf, tmp_path_factory.mktemp("one") / "log", "-np", "1")
    yield server
    stop_server(server)


@pytest.mark.real
def test_strict_is_identical_and_fast_is_reported(one_slot: RealServer, gguf: Path) -> None:
    with LlamaInferenceEngine(one_slot.url, "m", one_slot.key) as engine:
        report = check_determinism(engine, runs=2, configs=SHORT)
    assert report["strict"].identical, report
    assert report["fast"].requests == 8
    assert len(report.token_ids) == 8
    with EmbeddedEngine(gguf, context_size=256, threads=1) as engine:
        assert check_determinism(engine, ["One, two,"], runs=2, configs=SHORT)["strict"].identical


@pytest.mark.real
@pytest.mark.full
@pytest.mark.timeout(900)
def test_strict_over_restarts(llama_server_program: Path, gguf: Path, tmp_path: Path) -> None:
    """20 runs over 3 restarts: identical token ids."""
    seen, fast = set(), []
    for restart in range(4):
        server = start_server(llama_server_program, gguf, tmp_path / f"log{restart}", "-np", "1")
        try:
            with LlamaInferenceEngine(server.url, "m", server.key) as engine:
                report = check_determinism(engine, runs=5)
        finally:
            stop_server(server)
        assert report["strict"].identical, report
        seen.add(report.token_ids)
        fast.append(str(report["fast"]))
    assert len(seen) == 1
    print("\n".join(fast))
