"""The engine that grows many answers side by side, in a child process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from noa_lab.errors import CannotShare, ContextOverflow, RequestRefused, ServerExited, StreamBroken, Unreachable
from noa_lab.inference._completion import Completion, Timings
from noa_lab.inference._growing_answers import read_probabilities
from noa_lab.inference._loop import background
from noa_lab.inference._protocol import Capabilities
from noa_lab.inference._sampling import constraint, explicit
from noa_lab.inference._types import ChatMessage
from noa_lab.inference.batch._questions import BatchFacts, BatchQuestion, BatchSink, Windows
from noa_lab.inference.embedded._engine import EmbeddedEngine, check_size
from noa_lab.inference.embedded._process import ChildProcess

__all__ = ["TreeBatch", "TreeEngine"]

_LOOK_SECONDS = 0.1

_TRUNKS_MORE = 4
"""Trunks that can be kept, more than there are lanes."""

_MOST_LANES = (256 - 2 - _TRUNKS_MORE) // 2
"""llama.cpp has 256 sequences in a context (`LLAMA_MAX_SEQ`): the lanes, the trunks, what has been released, and what is being moved."""

_OF_THE_BATCH = frozenset(("id", "question", "answer", "evaluated"))
"""What comes with an answer and is not about it."""

Message = dict[str, Any]


class TreeEngine(EmbeddedEngine):
    """An `EmbeddedEngine` whose `batch` grows many answers side by side, in one context that they share.

    Args:
        model: The GGUF file.
        lanes: Answers that may grow at once, at most 125.
        context_size: Tokens of one prompt and its answer together.
        threads: Threads of computation; None is half the processors.
        model_name: What to call the model; None is the file's name without ".gguf".
        model_sha256: Hash of the file where the caller knows it.

    Raises:
        ModelFileBroken: When there is no GGUF file at the path.
        BadInput: For sizes that cannot be.
    """

    def __init__(
        self,
        model: Path,
        *,
        lanes: int = 8,
        context_size: int = 4096,
        threads: int | None = None,
        model_name: str | None = None,
        model_sha256: str | None = None,
    ) -> None:
        super().__init__(
            model, context_size=context_size, threads=threads, model_name=model_name, model_sha256=model_sha256
        )
        self._lanes = check_size("lanes", lanes, most=_MOST_LANES)

    @property
    def _stores(self) -> int:
        """Trunks that can be kept beside the lanes."""
        return self._lanes + _TRUNKS_MORE

    def _new_child(self) -> ChildProcess:
        # What lanes have at most, each for itself, and the trunk that is prepared while they are at it.
        cells = (self._lanes + 1) * self._context_size
        return ChildProcess(
            self._path,
            self._context_size,
            self._threads,
            program="noa_lab.inference.embedded._tree_child",
            more=(cells, self._lanes, self._stores),
        )

    async def _capabilities(self) -> Capabilities:
        return dataclasses.replace(await super()._capabilities(), slots=self._lanes)

    async def _fingerprint(self) -> dict[str, Any]:
        return {**await super()._fingerprint(), "executor": "embedded tree", "slots": self._lanes}

    def batch(self) -> TreeBatch:
        """Answers many questions at once."""
        return TreeBatch(self, self._ready, self._lanes)


class TreeBatch:
    """A `BatchEngine` over the child process of a `TreeEngine`.

    Args:
        engine: The engine.
        ready: Gives the child; runs on the private loop.
        lanes: Answers that may grow at once.
    """

    name = "tree"

    def __init__(self, engine: TreeEngine, ready: Callable[[], Any], lanes: int) -> None:
        self._engine, self._ready = engine, ready
        self.facts = BatchFacts(lanes=lanes, copying=True)
        self._batches: dict[int, Sequence[BatchQuestion]] = {}
        self._waiting = 0

    async def prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, tuple[int, ...]]:
        """See `BatchEngine`."""
        return await background().hop(self._prompt(messages))

    async def _prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, tuple[int, ...]]:
        child: ChildProcess = await self._ready()
        plain = [message.as_openai() for message in messages]
        text = str(await child.ask({"op": "render", "messages": plain}, _nothing))
        return text, tuple(await child.ask({"op": "tokenize", "text": text, "add_special": True}, _nothing))

    async def aclose(self) -> None:
        """See `BatchEngine`; the child belongs to the engine, and ends with that."""

    async def run(self, windows: Windows, sink: BatchSink) -> None:
        """See `BatchEngine`."""
        child: ChildProcess = await background().hop(self._ready())
        if not child.facts.get("can_go_back", True):
            raise CannotShare(
                "This model cannot go back to where two prompts fork (it is recurrent, or has a sliding window).",
                fix="Nothing needs to be done: its prompts are evaluated one by one.",
                expected=1,
                kept=0,
            )
        await _TreeRun(self, child, windows, sink).run()


class _TreeRun:
    """One batch: what has been sent to the child and what has come back. Runs on the caller's event loop."""

    def __init__(self, batch: TreeBatch, child: ChildProcess, windows: Windows, sink: BatchSink) -> None:
        self._facts, self._model = batch.facts, batch._engine.model_name  # noqa: SLF001 - the two classes are one thing
        self._child, self._windows, self._sink = child, windows, sink
        self._heard: asyncio.Queue[tuple[Sequence[BatchQuestion], Message]] = asyncio.Queue()
        self._asking: set[asyncio.Future[Any]] = set()
        self._begun: dict[tuple[int, int], BatchQuestion] = {}
        """By question (identity) and answer: what is under way."""
        self._left = 0
        """Questions that no lane has taken yet."""
        self._stopped = False
        self._first = True

    async def run(self) -> None:
        coming: asyncio.Task[Sequence[BatchQuestion] | None] | None = None
        over = False
        try:
            while True:
                if coming is None and not over and not self._stopped and self._left <= 2 * self._facts.lanes:
                    coming = asyncio.create_task(_next(self._windows))
                await self._stop_if_wanted()
                hearing = asyncio.create_task(self._heard.get())
                waited: set[asyncio.Future[Any]] = {hearing, *self._asking, *([coming] if coming else [])}
                done, _ = await asyncio.wait(waited, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if hearing in done:
                    self._take(*hearing.result())
                else:
                    hearing.cancel()
                while not self._heard.empty():
                    self._take(*self._heard.get_nowait())
                if coming is not None and coming in done:
                    window, coming = coming.result(), None
                    over = window is None
                    self._send(window or ())
                for asking in [each for each in self._asking if each in done]:
                    self._asking.discard(asking)
                    self._facts.evaluated += asking.result()["evaluated"]
                if not self._asking and coming is None and (over or self._stopped):
                    return
        except (Unreachable, StreamBroken, ServerExited) as error:
            self._undo(error)
            raise
        finally:
            self._undo(None)
            await self._end(coming)

    def _fitting(self, window: Sequence[BatchQuestion]) -> list[BatchQuestion]:
        """Those questions that leave room for an answer; the others are told to the sink."""
        size, fitting = int(self._child.facts["context_size"]), []
        for question in window:
            tokens, answers = len(question.tokens), range(len(question.seeds))
            if 0 < tokens < size:
                fitting.append(question)
                continue
            self._sink.begin(question, answers)
            error = ContextOverflow(
                f"The prompt has {tokens} tokens; the context holds {size}, and the answer needs at least one.",
                fix="Shorten the prompt, or take a larger context.",
                prompt_tokens=tokens,
                max_tokens=question.config.max_tokens,
                context_size=size,
            )
            self._sink.undone(question, answers, error)
        return fitting

    def _send(self, window: Sequence[BatchQuestion]) -> None:
        window = [] if self._stopped else self._fitting(window)
        if not window:
            return
        arms: dict[Any, int] = {}
        for index, question in enumerate(window):
            arms.setdefault(question.arm, index)
        message = {
            "op": "grow",
            "questions": [_plain(question) for question in window],
            # Trunks of several arms at once take room that was not reckoned with.
            "early": list(arms.values())[: self._facts.lanes // 2] if self._first else [],
        }
        self._first = False
        self._left += len(window)
        loop = asyncio.get_running_loop()

        def hear(message: Message) -> None:
            loop.call_soon_threadsafe(self._heard.put_nowait, (window, message))

        self._asking.add(asyncio.wrap_future(background().submit(self._child.ask(message, hear))))

    async def _stop_if_wanted(self) -> None:
        if self._stopped or not self._sink.stopping():
            return
        self._stopped = True
        await background().hop(self._child.tell({"op": "enough"}))

    def _take(self, window: Sequence[BatchQuestion], message: Message) -> None:
        if "begun" in message:
            question = window[message["begun"]]
            self._left -= message["first"] == 0
            answers = range(message["first"], message["first"] + message["count"])
            self._begun |= {(id(question), answer): question for answer in answers}
            self._sink.begin(question, answers)
            return
        question, answer = window[message["question"]], message["answer"]
        del self._begun[id(question), answer]
        if "refused" in message:
            error = RequestRefused(
                f"llama.cpp cannot read the grammar: {message['refused']}.",
                fix="Correct the grammar.",
                status=400,
                type="invalid_request_error",
            )
            self._sink.undone(question, range(answer, answer + 1), error)
            return
        self._facts.evaluated += message["evaluated"]
        self._facts.generated += message["completion_tokens"]
        self._sink.answered(question, answer, self._completion(question, answer, message))

    def _completion(self, question: BatchQuestion, answer: int, facts: Message) -> Completion:
        seed = question.seeds[answer]
        request = {
            "prompt": question.text,
            "max_tokens": question.config.max_tokens,
            "stop": list(question.config.stop_sequences),
            **explicit(question.config, seed or 0),
        }
        spent = facts["prefill_ms"] + facts["decode_ms"]
        return Completion(
            text=facts["text"],
            model=self._model,
            finish_reason=facts["finish_reason"],
            prompt_tokens=facts["prompt_tokens"],
            cached_tokens=facts["cached_tokens"],
            completion_tokens=facts["completion_tokens"],
            truncated=facts["truncated"],
            seed=seed,
            timings=Timings(0.0, facts["prefill_ms"], facts["prefill_ms"], facts["decode_ms"], spent),
            token_ids=tuple(facts["tokens"]),
            logprobs=tuple(read_probabilities(facts["logprobs"])),
            raw_request=request,
            raw_response={name: value for name, value in facts.items() if name not in _OF_THE_BATCH},
        )

    def _undo(self, error: BaseException | None) -> None:
        for (_, answer), question in self._begun.items():
            self._sink.undone(question, range(answer, answer + 1), error)
        self._begun.clear()

    async def _end(self, coming: asyncio.Task[Any] | None) -> None:
        rest = {*self._asking, *([coming] if coming is not None else [])}
        for each in rest:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*rest, return_exceptions=True)


async def _next(windows: Windows) -> Sequence[BatchQuestion] | None:
    return await anext(windows, None)


def _plain(question: BatchQuestion) -> Message:
    config = question.config
    return {
        "tokens": list(question.tokens),
        "seeds": list(question.seeds),
        "sampling": explicit(config, 0),
        "grammar": constraint(config),
        "max_tokens": config.max_tokens,
        "stop": list(config.stop_sequences),
    }


def _nothing(message: Message) -> None:
    del message
