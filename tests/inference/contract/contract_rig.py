"""Every engine of the contract: how it is made, what it is asked, and when it is idle again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inference_server import CONTEXT

from noa_lab.errors import NoaLabError
from noa_lab.inference import (
    Capabilities,
    CassetteEngine,
    ChatMessage,
    Completion,
    EmbeddedEngine,
    Embeddings,
    Emit,
    EngineBase,
    InferenceConfig,
    LlamaClient,
    LlamaInferenceEngine,
    OpenAIEngine,
    Prompt,
    Question,
    Reply,
    RoutedEngine,
    ScriptedEngine,
    Tool,
)

REAL = {LlamaInferenceEngine, RoutedEngine, OpenAIEngine, EmbeddedEngine}
COUNTING = "1, 2, 3, 4, 5,"
SMILES = "🙂 🙂 🙂 🙂 🙂 🙂 🙂 🙂"
ENDLESS = "Once upon a time"
LONG = InferenceConfig(max_tokens=400, temperature=0.0)


def greedy(max_tokens: int, **more: object) -> InferenceConfig:
    return InferenceConfig(temperature=0.0, max_tokens=max_tokens, **more)


def script(prompt: Prompt, config: InferenceConfig) -> Reply:
    if prompt == COUNTING:
        return Reply(" 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")
    if prompt == SMILES:
        return Reply(" 🙂 🙂 🙂 🙂")
    # 400 of them take 4 s: whoever leaves in the middle is not too late, and is not idle by itself when it is looked at.
    return Reply("word " * config.max_tokens, piece_delay=0.01)


class Rerun(EngineBase):
    """Records each question from a scripted engine, and answers from what a new cassette engine plays back."""

    def __init__(self, folder: Path) -> None:
        super().__init__("smollm2-135m")
        self.inner = scripted()
        self._path = folder / "cassette.jsonl"
        self._recorder = CassetteEngine(self._path, self.inner)

    async def _ask(self, question: Question, emit: Emit) -> Completion:
        return await self._twice("_ask", question, lambda piece: None, play=(question, emit))

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        raise NotImplementedError

    async def _twice(self, name: str, *given: object, play: tuple[object, ...] = ()) -> Any:
        with contextlib.suppress(NoaLabError):
            await getattr(self._recorder, name)(*given)
        player = CassetteEngine(self._path)
        player._tape._played.update({key: len(found) - 1 for key, found in player._tape._records.items()})
        found = await getattr(player, name)(*(play or given))
        assert not isinstance(found, Completion) or found.replayed
        return found

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        return await self._twice("_render", messages, tools)

    async def _tokenize(self, text: str) -> list[int]:
        return await self._twice("_tokenize", text)

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        return await self._twice("_detokenize", tokens)

    async def _embed(self, texts: list[str]) -> Embeddings:
        return await self._twice("_embed", texts)

    async def _capabilities(self) -> Capabilities:
        return await self._twice("_capabilities")

    async def _fingerprint(self) -> dict[str, Any]:
        return await self._twice("_fingerprint")

    async def _close(self) -> None:
        await self._recorder.aclose()


def scripted() -> ScriptedEngine:
    return ScriptedEngine(script, model_name="smollm2-135m", context_size=CONTEXT)


def make(kind: str, request: pytest.FixtureRequest) -> EngineBase:
    if kind in {"server", "routed", "openai"}:
        server = request.getfixturevalue("real_server")
        if kind == "openai":
            return OpenAIEngine(server.url + "/v1", "smollm2-135m", server.key)
        return {"server": LlamaInferenceEngine, "routed": RoutedEngine}[kind](server.url, "smollm2-135m", server.key)
    if kind == "embedded":
        gguf = request.getfixturevalue("gguf")
        return EmbeddedEngine(gguf, context_size=CONTEXT, threads=1, model_name="smollm2-135m")
    if kind == "scripted":
        return scripted()
    folder = request.getfixturevalue("tmp_path_factory").mktemp(kind)
    return Rerun(folder) if kind == "replayed" else CassetteEngine(folder / "tape.jsonl", scripted())


def wait_idle(engine: EngineBase, request: pytest.FixtureRequest) -> None:
    """Until nothing is being generated; fails after 3 s. 400 tokens take longer than that."""
    end = time.monotonic() + 3
    if isinstance(engine, LlamaInferenceEngine | OpenAIEngine):
        server = request.getfixturevalue("real_server")
        with LlamaClient(server.url, server.key) as client:
            while any(slot["is_processing"] for slot in client.slots()):
                assert time.monotonic() < end
                time.sleep(0.01)
    elif isinstance(engine, EmbeddedEngine):
        engine.generate("x", greedy(1))  # waits for its turn
        assert time.monotonic() < end
    else:
        calls = next(inner for inner in inside(engine) if isinstance(inner, ScriptedEngine)).calls
        while calls[-1].outcome == "running":
            assert time.monotonic() < end
            time.sleep(0.005)
        assert calls[-1].outcome == "cancelled" or isinstance(engine, Rerun)  # which has recorded all before it plays


def inside(engine: EngineBase) -> Iterator[EngineBase]:
    """The engine, and those that it asks."""
    yield engine
    for name in ("inner", "_engine"):
        if isinstance(inner := getattr(engine, name, None), EngineBase):
            yield from inside(inner)
