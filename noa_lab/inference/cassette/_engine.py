"""The engine that records another one, and plays the recording back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from noa_lab.errors import BadInput, CassetteMiss, NoaLabError
from noa_lab.inference._completion import Completion, ContinuationLogprobs, Embeddings
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._protocol import Capabilities, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import ChatMessage
from noa_lab.inference.cassette import _records as records
from noa_lab.inference.cassette._tape import Tape, key_of

__all__ = ["CassetteEngine"]

T = TypeVar("T")


class CassetteEngine(EngineBase):
    """An `InferenceEngine` that answers from a file, so that a notebook or a test runs again without a model.

    With an engine, a question that the cassette does not hold is asked and recorded; without one it is `CassetteMiss`. A question
    is found by all that was asked: prompt, sampling, tools. Asked again and again, it gets its recorded answers in order, so that
    sampled repeats stay different. Errors are recorded, too. Replayed answers say so (`Completion.replayed`), and their timings are
    those of the recording. Of a stream that was cancelled, the pieces up to there are recorded.

    Keys of an API are never in a cassette: engines keep them out of all that they report.

    Args:
        path: The file, JSON Lines; by custom it ends in ".jsonl".
        engine: What to record; the cassette closes it when it is closed itself. None only plays back.
        fresh: Forget what the file holds, and record everything anew.

    Raises:
        BadInput: When there is neither a file nor an engine, the file is no cassette, or it was recorded from another model.
    """

    def __init__(self, path: Path | str, engine: EngineBase | None = None, *, fresh: bool = False) -> None:
        self._path = Path(path)
        if engine is None and (fresh or not self._path.exists()):
            raise BadInput(
                f"There is no cassette at {self._path}, and no engine to record.",
                fix="Give the engine to record as CassetteEngine(path, engine).",
                field="path",
                value=str(self._path),
            )
        if fresh:
            self._path.unlink(missing_ok=True)
        self._tape = Tape(self._path)
        self._engine = engine
        recorded = (self._tape.head or {}).get("model_name")
        super().__init__(engine.model_name if engine is not None else str(recorded))
        # What a config leaves open is as it is, or was, with the engine: a question is found by its whole sampling.
        self.defaults = engine.defaults if engine is not None else records.load_defaults(self._tape.head)
        if engine is not None and recorded not in {None, engine.model_name}:
            raise BadInput(
                f"{self._path} was recorded from {recorded!r}, not from {engine.model_name!r}.",
                fix="Use another file, or fresh=True.",
                field="path",
                value=str(self._path),
            )
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"CassetteEngine({str(self._path)!r}, {self._engine!r})"

    def __len__(self) -> int:
        return len(self._tape)

    async def _ask(self, question: Question, emit: Emit) -> Completion:
        """The whole question, with its tools and its policy: what a cassette holds is what was asked, not how it was answered."""
        asked = {"op": "answer", **records.dump_question(question)}
        record = await self._recorded(asked)
        if record is None:
            return await self._record_answer(asked, question, emit)
        for piece in record.get("pieces", ()):
            emit(piece)
        if "cancelled" in record:
            raise self._miss(asked, "its recording was cancelled after these pieces")
        return _outcome(record, records.load_completion)

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        raise NotImplementedError  # `_ask` is the whole way

    async def _record_answer(self, asked: Mapping[str, Any], question: Question, emit: Emit) -> Completion:
        pieces: list[str] = []

        def hear(piece: str) -> None:
            pieces.append(piece)
            emit(piece)

        engine = await self._engine_for(asked)
        try:
            answer = await engine._ask(question, hear)  # noqa: SLF001 - an engine around an engine
        except asyncio.CancelledError:
            if pieces:
                self._keep(asked, {"pieces": pieces, "cancelled": True})
            raise
        except NoaLabError as error:
            self._keep(asked, {"pieces": pieces, "error": records.dump_error(error)})
            raise
        self._keep(asked, {"pieces": pieces, "done": records.dump_completion(answer)})
        return answer

    async def _played(
        self,
        asked: Mapping[str, Any],
        work: Callable[[EngineBase], Awaitable[T]],
        dump: Callable[[T], Any],
        load: Callable[[Any], T],
    ) -> T:
        """What was recorded for a question without pieces, or what the engine says to it."""
        record = await self._recorded(asked)
        if record is not None:
            return _outcome(record, load)
        engine = await self._engine_for(asked)
        try:
            found = await work(engine)
        except NoaLabError as error:
            self._keep(asked, {"error": records.dump_error(error)})
            raise
        self._keep(asked, {"done": dump(found)})
        return found

    async def _recorded(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        key = key_of(asked)
        record = self._tape.next(key)
        if record is None and asked["op"] not in {"answer", "score", "embed"} and self._tape.count(key):
            # What does not change is recorded once.
            record = self._tape.last(key)
        return record

    async def _engine_for(self, asked: Mapping[str, Any]) -> EngineBase:
        """The engine to record; the first question also records what it is."""
        if self._engine is None:
            raise self._miss(asked, f"it was recorded {self._tape.count(key_of(asked))} times")
        async with self._starting:
            if self._tape.head is None:
                what = await self._engine._capabilities()  # noqa: SLF001
                about = {
                    "model_name": self._engine.model_name,
                    "capabilities": records.dump_capabilities(what),
                    "fingerprint": await self._engine._fingerprint(),  # noqa: SLF001
                    "defaults": self.defaults.model_dump(mode="json"),
                }
                self._tape.start(about)
        return self._engine

    def _keep(self, asked: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        self._tape.add({"key": key_of(asked), "asked": asked, **outcome})

    def _miss(self, asked: Mapping[str, Any], reason: str) -> CassetteMiss:
        prompt = str(asked.get("prompt") or asked.get("text") or asked.get("texts") or "")
        return CassetteMiss(
            f"{self._path} does not hold this question ({reason}): {asked['op']} {prompt[:60]!r}.",
            fix="Record it: CassetteEngine(path, engine) asks the engine for what is missing.",
            path=str(self._path),
            key=key_of(asked),
            prompt=prompt,
        )

    # Everything else

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        asked = {"op": "render", "prompt": records.dump_prompt(messages), "tools": [each.as_openai() for each in tools]}
        return await self._played(asked, lambda engine: engine._render(messages, tools), str, str)  # noqa: SLF001

    async def _tokenize(self, text: str) -> list[int]:
        return await self._played({"op": "tokenize", "text": text}, lambda engine: engine._tokenize(text), list, list)  # noqa: SLF001

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        asked = {"op": "detokenize", "prompt": list(tokens)}
        return await self._played(asked, lambda engine: engine._detokenize(tokens), str, str)  # noqa: SLF001

    async def _embed(self, texts: list[str]) -> Embeddings:
        asked = {"op": "embed", "texts": texts}
        return await self._played(
            asked,
            lambda engine: engine._embed(texts),  # noqa: SLF001
            records.dump_embeddings,
            records.load_embeddings,
        )

    async def _score(self, prompt: Prompt, continuation: str | tuple[int, ...]) -> ContinuationLogprobs:
        asked = {
            "op": "score",
            "prompt": records.dump_prompt(prompt),
            "continuation": continuation if isinstance(continuation, str) else list(continuation),
        }
        return await self._played(
            asked,
            lambda engine: engine._score(prompt, continuation),  # noqa: SLF001
            records.dump_scores,
            records.load_scores,
        )

    async def _capabilities(self) -> Capabilities:
        if self._tape.head is None:
            return await (await self._engine_for({"op": "capabilities"}))._capabilities()  # noqa: SLF001
        return records.load_capabilities(self._tape.head["capabilities"])

    async def _fingerprint(self) -> dict[str, Any]:
        if self._tape.head is None:
            await self._engine_for({"op": "fingerprint"})
        assert self._tape.head is not None
        return {**self._tape.head["fingerprint"], "executor": "cassette", "recorded": self._tape.head["fingerprint"]}

    async def _close(self) -> None:
        if self._engine is not None:
            await self._engine.aclose()


def _outcome(record: Mapping[str, Any], load: Callable[[Any], T]) -> T:
    if "error" in record:
        raise records.load_error(record["error"])
    return load(record["done"])
