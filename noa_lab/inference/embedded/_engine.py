"""The engine that runs a model on llama-cpp-python, in a child process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noa_lab.errors import BadInput, ContextOverflow, ModelFileBroken, StreamBroken, Unreachable
from noa_lab.inference._checks import is_conversation
from noa_lab.inference._completion import Completion, ContinuationLogprobs, Embeddings, Timings
from noa_lab.inference._continuation import check_room, split_continuation
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._growing_answers import read_probabilities
from noa_lab.inference._loop import background
from noa_lab.inference._protocol import Capabilities, Mode, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._sampling import choose_seed, explicit
from noa_lab.inference._streams import Emit
from noa_lab.inference._strict import check_mode
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import ChatMessage, InferenceConfig
from noa_lab.inference.embedded._process import ChildProcess

__all__ = ["EmbeddedEngine", "check_size"]


class EmbeddedEngine(EngineBase):
    """An `InferenceEngine` without a server: the model lives in a child process, one request at a time.

    A crash of llama.cpp (an illegal instruction, no memory) ends the child and is an error here; this process goes on, and the
    next request starts a new child. The child ends with `close`, and with this process however that ends. It starts with the
    first request.

    Samplers, their order, the chat template and the tokens are llama-server's; the answers can still differ in the last bits of
    the numbers, and so in text.

    Args:
        model: The GGUF file.
        context_size: Tokens of prompt and answer together; at most what the model was trained for.
        mode: "fast" or "strict" (see `Mode`).
        threads: Threads of computation; None is half the processors (the default of a runtime is measured: `Runtime.threads`).
        model_name: What to call the model; None is the file's name without ".gguf".
        cache_prompt: Whether the start of the last prompt is reused.
        model_sha256: Hash of the file where the caller knows it; otherwise `fingerprint` computes it.

    Raises:
        ModelFileBroken: When there is no GGUF file at the path.
        BadInput: For sizes that cannot be.
    """

    def __init__(
        self,
        model: Path,
        *,
        context_size: int = 4096,
        threads: int | None = None,
        mode: Mode = "fast",
        model_name: str | None = None,
        cache_prompt: bool = True,
        model_sha256: str | None = None,
    ) -> None:
        self._path = _checked(Path(model))
        super().__init__(model_name or self._path.name.removesuffix(".gguf"))
        self._context_size = check_size("context_size", context_size, least=8)
        self._threads = max(1, (os.cpu_count() or 2) // 2) if threads is None else check_size("threads", threads)
        self._mode = check_mode(mode)
        self._cache_prompt = cache_prompt
        self._model_sha256 = model_sha256
        self._child: ChildProcess | None = None
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"EmbeddedEngine({str(self._path)!r}, context_size={self._context_size}, threads={self._threads})"

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        child = self._child
        return child.pid if child is not None and child.running else None

    async def _ready(self) -> ChildProcess:
        """The child, started if need be. A forked process starts its own: the pipe belongs to its parent."""
        async with self._starting:
            self._check_open()
            child = self._child
            if child is not None and child.running and child.owner == os.getpid():
                return child
            if child is not None and child.owner == os.getpid():
                await child.stop()
            fresh = self._new_child()
            await fresh.start()
            if self._closed:  # meanwhile, and there was no child to stop then
                await fresh.stop()
                self._check_open()
            background().own(self)
            self._child = fresh
            return fresh

    def _new_child(self) -> ChildProcess:
        return ChildProcess(self._path, self._context_size, self._threads)

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        prompt, config = question.prompt, question.config
        seed = choose_seed(config)
        asked = {
            "op": "answer",
            "prompt": _plain(prompt) if is_conversation(prompt) else prompt,
            "max_tokens": config.max_tokens,
            "stop": list(config.stop_sequences),
            "grammar": question.grammar,
            "sampling": {**explicit(config, seed), "cache_prompt": self._reuses(question.mode)},
        }
        heard = _Heard(emit)
        try:
            facts = await (await self._ready()).ask(asked, heard.take)
        except Unreachable as error:
            if not heard.pieces:
                raise
            raise StreamBroken(error.message, fix=error.fix, text=heard.text, **error.fields) from None
        self._check_fits(facts, config.max_tokens)
        return Completion(
            text=heard.text,
            model=self.model_name,
            finish_reason=facts["finish_reason"],
            prompt_tokens=facts["prompt_tokens"],
            cached_tokens=facts["cached_tokens"],
            completion_tokens=facts["completion_tokens"],
            truncated=facts["truncated"]
            and facts["finish_reason"] == "length"
            and facts["completion_tokens"] < config.max_tokens,
            seed=None if config.greedy else seed,
            timings=heard.timings(facts),
            raw_request={**asked, "prompt": facts["prompt"]},
            token_ids=tuple(facts["tokens"]),
            logprobs=tuple(read_probabilities(facts["logprobs"])),
            raw_response={**facts, "content": heard.text},
        )

    def _reuses(self, mode: Mode | None) -> bool:
        """Whether the start of the last prompt may be reused."""
        return self._cache_prompt and (mode or self._mode) == "fast"

    async def _score(self, prompt: Prompt, continuation: str | tuple[int, ...]) -> ContinuationLogprobs:
        text = await self._text_or_tokens(Question(prompt, InferenceConfig()))
        before, after = await split_continuation(text, continuation, self._tokenize, self._detokenize)
        check_room(before, after, self._context_size)
        asked = {"op": "score", "prompt": before, "continuation": after, "cache_prompt": self._reuses(None)}
        facts = await (await self._ready()).ask(asked, _nothing)
        found = tuple(read_probabilities(facts["logprobs"]))
        return ContinuationLogprobs(found, facts["prompt_tokens"], facts["cached_tokens"], facts)

    async def _embed(self, texts: list[str]) -> Embeddings:
        facts = await (await self._ready()).ask({"op": "embed", "texts": texts}, _nothing)
        if "does_not_fit" in facts:
            self._check_fits(
                {
                    "finish_reason": "does_not_fit",
                    "prompt_tokens": facts["counts"][-1],
                    "prompt": facts["does_not_fit"],
                },
                0,
            )
        vectors = tuple(tuple(vector) for vector in facts["vectors"])
        return Embeddings(vectors, self.model_name, sum(facts["counts"]), {"counts": facts["counts"]})

    def _check_fits(self, facts: dict[str, Any], max_tokens: int) -> None:
        if facts["finish_reason"] != "does_not_fit":
            return
        tokens = facts["prompt_tokens"]
        if not tokens:
            raise self._no_tokens(facts["prompt"])
        raise ContextOverflow(
            f"The prompt has {tokens} tokens; the context holds {self._context_size}, and the answer needs at least one.",
            fix="Shorten the prompt, or make the engine with a larger context_size.",
            prompt_tokens=tokens,
            max_tokens=max_tokens,
            context_size=self._context_size,
        )

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        del tools
        return str(await (await self._ready()).ask({"op": "render", "messages": _plain(messages)}, _nothing))

    async def _tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        asked = {"op": "tokenize", "text": text, "add_special": add_special}
        return list(await (await self._ready()).ask(asked, _nothing))

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        return str(await (await self._ready()).ask({"op": "detokenize", "tokens": list(tokens)}, _nothing))

    async def _capabilities(self) -> Capabilities:
        facts = (await self._ready()).facts
        return Capabilities(
            context_size=self._context_size,
            slots=1,
            chat_template=facts["chat_template"] is not None,
            embeddings=True,
            logprobs=True,
            continuation_logprobs=True,
            constraints=frozenset({"json_schema", "grammar"}),
            tools="generic",
            modes=frozenset({"fast", "strict"}),
        )

    async def _fingerprint(self) -> dict[str, Any]:
        facts = (await self._ready()).facts
        if self._model_sha256 is None:
            self._model_sha256 = await asyncio.to_thread(_file_sha256, self._path)
        template = facts["chat_template"]
        return {
            "executor": "embedded",
            "model": self._path.name,
            "model_sha256": self._model_sha256,
            "build": facts["build"],
            "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
            "context_size": self._context_size,
            "slots": 1,
            "threads": self._threads,
            "mode": self._mode,
            "cache_prompt": self._reuses(None),
        }

    async def _close(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.owner == os.getpid():
            await child.stop()


class _Heard:
    """What the child has said to one question, and when."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.pieces: list[str] = []
        self._sent = time.perf_counter()
        self._started = self._first = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self._started = time.perf_counter()
            return
        self._first = self._first or time.perf_counter()
        self.pieces.append(message["piece"])
        self._emit(message["piece"])

    def timings(self, facts: dict[str, Any]) -> Timings:
        """Where the time went, of an answer that is complete now."""
        ended = time.perf_counter()
        return Timings(
            queue_ms=(self._started - self._sent) * 1000,
            ttft_ms=((self._first or ended) - self._sent) * 1000,
            prefill_ms=facts["prefill_ms"],
            decode_ms=facts["decode_ms"],
            total_ms=(ended - self._sent) * 1000,
        )


def check_size(field: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """The size, if it is one."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return value
    fix = f"Give a whole number from {least} {'on' if most is None else f'to {most}'}."
    raise BadInput(f"{field} = {value!r} is not possible.", fix=fix, field=field, value=value)


def _checked(path: Path) -> Path:
    fix = "Give the path of a .gguf file; `noa-lab models list` shows those that are here."
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFileBroken(f"{path} cannot be read: {error.strerror}.", fix=fix, path=str(path)) from None
    if magic != b"GGUF":
        raise ModelFileBroken(f"{path} is no GGUF file.", fix=fix, path=str(path))
    return path


def _plain(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [message.as_openai() for message in messages]


def _nothing(message: dict[str, Any]) -> None:
    del message


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
