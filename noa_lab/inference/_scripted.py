"""An engine without a model: it says what it is told to, at the speed and with the faults that are wanted."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from noa_lab.errors import BadInput, ContextOverflow, RequestRefused, StreamBroken
from noa_lab.inference._chat_format import format_chat_prompt
from noa_lab.inference._completion import Completion, Embeddings, Timings
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._protocol import Capabilities, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import ChatMessage, InferenceConfig

__all__ = ["Reply", "ScriptedCall", "ScriptedEngine"]

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a script.

    Attributes:
        text: What the engine says.
        delay: Seconds before the first token (the prefill).
        piece_delay: Seconds before each further token.
        error: Raised instead of the answer, or after `fail_after` tokens of it.
        fail_after: Tokens delivered before `error` (or `StreamBroken`, when that is None); None delivers all.
    """

    text: str = ""
    delay: float = 0.0
    piece_delay: float = 0.0
    error: BaseException | None = None
    fail_after: int | None = None


Script = Callable[[Prompt, InferenceConfig], "str | Reply | BaseException"]


@dataclass(slots=True)
class ScriptedCall:
    """What the engine was asked, in order of asking.

    Attributes:
        prompt: Text or messages, as the caller gave them.
        rendered: The text after the chat format.
        config: The config in force.
        outcome: "running", "done", "failed" or "cancelled".
        started: `time.perf_counter()` when a slot took it; 0 while it waits.
        ended: `time.perf_counter()` at the end; 0 before.
    """

    prompt: Prompt
    rendered: str
    config: InferenceConfig
    outcome: str = "running"
    started: float = 0.0
    ended: float = 0.0


class ScriptedEngine(EngineBase):
    """An `InferenceEngine` without a model: deterministic, instant unless told otherwise.

    For tests, and for trying a comparison or an agent before a model is asked. Tokens are words and punctuation marks, each with the
    whitespace before it. `max_tokens`, stop sequences, the context size and the number of slots are honoured as a real engine
    honours them; a schema or grammar is the script's to honour. Vectors of texts are counts of their words.

    Args:
        replies: One text for every call; or a list of texts, `Reply`s and exceptions, used in order (asking once more raises
            `RequestRefused`); or a function of the prompt (text or messages) and the config.
        model_name: What `model_name` and `Completion.model` say.
        context_size: Tokens of prompt and answer together.
        slots: Requests worked on at the same time; others wait.
        delay: Seconds before each answer's first token, for replies that do not say.
        piece_delay: Seconds before each further token, for replies that do not say.

    Attributes:
        calls: Every call so far (`ScriptedCall`).
        peak: Most requests that were worked on at the same time.
    """

    def __init__(
        self,
        replies: str | Sequence[str | Reply | BaseException] | Script = "A scripted answer.",
        *,
        model_name: str = "scripted",
        context_size: int = 4096,
        slots: int = 1,
        delay: float = 0.0,
        piece_delay: float = 0.0,
    ) -> None:
        super().__init__(model_name)
        self._script = _script(replies)
        self._what = Capabilities(
            context_size=context_size,
            slots=slots,
            chat_template=False,
            reports_cached_tokens=False,
            embeddings=True,
            constraints=frozenset({"json_schema", "grammar"}),
            tools="generic",
        )
        self._vocabulary: dict[str, int] = {}
        self._delay, self._piece_delay = delay, piece_delay
        self._slots = asyncio.Semaphore(slots)
        self._active = 0
        self.calls: list[ScriptedCall] = []
        self.peak = 0

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        sent = time.perf_counter()
        prompt, config = question.prompt, question.config
        text = await self._text_or_tokens(question)
        rendered = text if isinstance(text, str) else await self._detokenize(text)
        call = ScriptedCall(prompt, rendered, config)
        number = len(self.calls)
        self.calls.append(call)
        self._check_fits(rendered, config)
        try:
            async with self._slots:
                self._active += 1
                self.peak = max(self.peak, self._active)
                call.started = time.perf_counter()
                try:
                    answer = await self._play(self._script(prompt, config), call, number, sent, emit)
                finally:
                    self._active -= 1
        except BaseException as error:
            call.outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
            raise
        finally:
            call.ended = time.perf_counter()
        call.outcome = "done"
        return answer

    async def _play(
        self, said: str | Reply | BaseException, call: ScriptedCall, number: int, sent: float, emit: Emit
    ) -> Completion:
        reply = _reply(said, self._delay, self._piece_delay)
        await asyncio.sleep(reply.delay)
        if reply.error is not None and reply.fail_after is None:
            raise reply.error
        config = call.config
        prompt_tokens = len(_TOKEN.findall(call.rendered))
        room = self._what.context_size - prompt_tokens
        text, finish = _until_stop(reply.text, config.stop_sequences)
        tokens = _TOKEN.findall(text)
        limit = min(config.max_tokens, room)
        if len(tokens) > limit:
            tokens, finish = tokens[:limit], "length"
        first = time.perf_counter()
        for index, token in enumerate(tokens):
            if reply.fail_after == index:
                raise reply.error or _broken("".join(tokens[:index]))
            if index:
                await asyncio.sleep(reply.piece_delay)
            emit(token)
        if reply.fail_after is not None and reply.fail_after >= len(tokens):
            raise reply.error or _broken("".join(tokens))
        return Completion(
            text="".join(tokens),
            model=self.model_name,
            finish_reason=finish,
            prompt_tokens=prompt_tokens,
            cached_tokens=0,
            completion_tokens=len(tokens),
            truncated=finish == "length" and room < config.max_tokens,
            seed=None if config.greedy else _seed(config, number),
            timings=_timings(sent, call.started, first),
            token_ids=tuple(map(self._id, tokens)),
            raw_request={"prompt": call.rendered, "config": config.model_dump()},
            raw_response={"content": "".join(tokens), "number": number},
        )

    def _check_fits(self, rendered: str, config: InferenceConfig) -> None:
        size, tokens = self._what.context_size, len(_TOKEN.findall(rendered))
        if not tokens:
            raise self._no_tokens(rendered)
        if tokens >= size:
            raise ContextOverflow(
                f"The prompt has {tokens} tokens; the context holds {size}, and the answer needs at least one.",
                fix="Shorten the prompt or give the engine a larger context.",
                prompt_tokens=tokens,
                max_tokens=config.max_tokens,
                context_size=size,
            )

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        del tools
        return format_chat_prompt(messages)

    def _id(self, token: str) -> int:
        return self._vocabulary.setdefault(token, len(self._vocabulary))

    async def _tokenize(self, text: str) -> list[int]:
        return [self._id(token) for token in _TOKEN.findall(text)]

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        known = list(self._vocabulary)
        try:
            return "".join(known[token] for token in tokens)
        except IndexError:
            raise BadInput(
                f"{max(tokens)} is not a token of this engine.",
                fix="Use ids from tokenize().",
                field="tokens",
                value=max(tokens),
            ) from None

    async def _embed(self, texts: list[str]) -> Embeddings:
        found = [_TOKEN.findall(text) for text in texts]
        return Embeddings(tuple(map(_counts, found)), self.model_name, sum(map(len, found)))

    async def _capabilities(self) -> Capabilities:
        return self._what

    async def _fingerprint(self) -> dict[str, Any]:
        return {"executor": "scripted", "model": self.model_name, "context_size": self._what.context_size}

    async def _close(self) -> None:
        return None


def _counts(tokens: Sequence[str], size: int = 32) -> tuple[float, ...]:
    """Counts of words in `size` bins, as a vector of length 1."""
    bins = [0.0] * size
    for token in tokens:
        bins[zlib.crc32(token.strip().lower().encode()) % size] += 1.0
    norm = sum(value * value for value in bins) ** 0.5
    return tuple(value / norm for value in bins)


def _script(replies: str | Sequence[str | Reply | BaseException] | Script) -> Script:
    if callable(replies):
        return replies
    if isinstance(replies, str):
        constant = replies
        return lambda _prompt, _config: constant
    waiting = deque(replies)

    def in_order(prompt: Prompt, config: InferenceConfig) -> str | Reply | BaseException:
        del prompt, config
        if not waiting:
            raise RequestRefused(
                f"The script had {len(replies)} replies and was asked for one more.", fix="Add a reply.", status=500
            )
        return waiting.popleft()

    return in_order


def _reply(said: str | Reply | BaseException, delay: float, piece_delay: float) -> Reply:
    if isinstance(said, Reply):
        return said
    if isinstance(said, BaseException):
        return Reply(error=said, delay=delay)
    return Reply(said, delay=delay, piece_delay=piece_delay)


def _until_stop(text: str, stops: Sequence[str]) -> tuple[str, str]:
    found = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(found)], "stop_sequence") if found else (text, "stop")


def _broken(text: str) -> StreamBroken:
    return StreamBroken("The script broke the stream.", fix="This is a test.", text=text, url="scripted:")


def _seed(config: InferenceConfig, number: int) -> int:
    return config.seed if config.seed is not None else zlib.crc32(b"scripted %d" % number) & 0x7FFFFFFF


def _timings(sent: float, started: float, first: float) -> Timings:
    now = time.perf_counter()
    return Timings(
        queue_ms=(started - sent) * 1000,
        ttft_ms=(first - sent) * 1000,
        prefill_ms=(first - started) * 1000,
        decode_ms=(now - first) * 1000,
        total_ms=(now - sent) * 1000,
    )
