"""What every engine shares: from one coroutine per question to the whole protocol, sync, async and streaming."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from noa_lab.errors import BadInput, Unsupported
from noa_lab.inference._checks import (
    check_config,
    check_continuation,
    check_conversation,
    check_prompt,
    check_raw,
    check_text,
    check_texts,
    check_tokens,
    is_conversation,
)
from noa_lab.inference._completion import Completion, ContinuationLogprobs, Dropped, Embeddings
from noa_lab.inference._generic_tools import read_generic, with_generic_tools
from noa_lab.inference._loop import background
from noa_lab.inference._overflow import fit_conversation, fit_tokens, room_for_prompt
from noa_lab.inference._protocol import AsyncTextStream, Capabilities, Prompt, TextStream
from noa_lab.inference._question import Question
from noa_lab.inference._sampling import constraint
from noa_lab.inference._streams import Emit, RunningAsyncStream, RunningStream
from noa_lab.inference._tools import Tool, ToolChoice, as_tools, check_called, check_choice
from noa_lab.inference._types import ChatMessage, InferenceConfig

__all__ = ["EngineBase", "ignore"]

T = TypeVar("T")


class EngineBase(abc.ABC):
    """The `InferenceEngine` protocol over a handful of coroutines that a subclass writes.

    The coroutines always run on noa_lab's private event loop, so a subclass keeps its connections there and needs no locks.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._closed = False
        self.defaults = InferenceConfig()
        """What a config leaves open is as here; an engine of `lab.serve` or `lab.route` has server.yaml's `inference`."""

    # What a subclass writes

    @abc.abstractmethod
    async def _answer(self, question: Question, emit: Emit) -> Completion:
        """Answer; call `emit` with each piece of text as it arrives. Cancelling the coroutine must stop the work."""

    @abc.abstractmethod
    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str: ...

    @abc.abstractmethod
    async def _tokenize(self, text: str) -> list[int]: ...

    @abc.abstractmethod
    async def _detokenize(self, tokens: Sequence[int]) -> str: ...

    @abc.abstractmethod
    async def _capabilities(self) -> Capabilities: ...

    @abc.abstractmethod
    async def _fingerprint(self) -> dict[str, Any]: ...

    @abc.abstractmethod
    async def _close(self) -> None: ...

    async def _embed(self, texts: list[str]) -> Embeddings:
        raise self._unsupported("embeddings", "make embeddings", f"{len(texts)} texts")

    async def _score(self, prompt: Prompt, continuation: str | tuple[int, ...]) -> ContinuationLogprobs:
        del prompt
        raise self._unsupported("continuation_logprobs", "score given continuations", continuation)

    # The protocol

    @property
    def model_name(self) -> str:
        """Name of the model, as the caller gave it."""
        return self._model_name

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; the first look may ask the server."""
        return self._wait(self._capabilities())

    def generate(self, prompt: str | Sequence[int], config: InferenceConfig | None = None) -> Completion:
        """Continue raw text.

        Args:
            prompt: The text, sent as it is; the tokenizer adds the model's own beginning-of-text token where it has one. Or token
                ids, to which nothing is added.
            config: How to sample; what it leaves open, or all of it for None, is as `defaults` says.

        Raises:
            BadInput: For values that no engine could honour.
            SchemaUnsupported: For a JSON schema that cannot be held to; the keyword is named.
            ContextOverflow: When the prompt leaves no room for one token (see `InferenceConfig.overflow`).
            Unsupported: When this engine cannot do what is asked.
            InferenceError: When the engine fails: `Unreachable`, `RequestRefused`, `StreamBroken`.
        """
        return self._wait(self._ask(Question(check_raw(prompt), self._config(config)), ignore))

    def chat(
        self,
        messages: Sequence[ChatMessage],
        config: InferenceConfig | None = None,
        *,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        tool_choice: ToolChoice = "auto",
    ) -> Completion:
        """Answer a conversation, through the model's chat template.

        Args:
            messages: The turns; where the last is the assistant's, it is continued.
            config: How to sample; what it leaves open, or all of it for None, is as `defaults` says.
            tools: What the model may call: `Tool`s or typed functions. Calls come back in `Completion.tool_calls`; none is executed.
            tool_choice: "auto", "required", "none", or the name of the tool that must be called.

        Raises:
            ToolCallInvalid: When the model wrote a call that no tool takes.
            NoaLabError: What `generate` raises.
        """
        return self._wait(self._ask(_conversation(messages, self._config(config), tools, tool_choice), ignore))

    def stream(self, prompt: Prompt, config: InferenceConfig | None = None) -> TextStream:
        """Like `generate` (for text) or `chat` (for messages), piece by piece; the request starts with the loop over it."""
        question = Question(check_prompt(prompt), self._config(config))
        self._check_open()
        return RunningStream(lambda emit: self._ask(question, emit))

    async def agenerate(self, prompt: str | Sequence[int], config: InferenceConfig | None = None) -> Completion:
        """Async twin of `generate`; cancelling the task cancels the request."""
        return await self._hop(self._ask(Question(check_raw(prompt), self._config(config)), ignore))

    async def achat(
        self,
        messages: Sequence[ChatMessage],
        config: InferenceConfig | None = None,
        *,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        tool_choice: ToolChoice = "auto",
    ) -> Completion:
        """Async twin of `chat`; cancelling the task cancels the request."""
        return await self._hop(self._ask(_conversation(messages, self._config(config), tools, tool_choice), ignore))

    def astream(self, prompt: Prompt, config: InferenceConfig | None = None) -> AsyncTextStream:
        """Async twin of `stream`."""
        question = Question(check_prompt(prompt), self._config(config))
        self._check_open()
        return RunningAsyncStream(lambda emit: self._ask(question, emit))

    def embed(self, texts: str | Sequence[str]) -> Embeddings:
        """Vectors of texts, each of length 1.

        Raises:
            Unsupported: When the engine makes none; a llama-server does when started with `embeddings`.
            BadInput: For an empty text.
            InferenceError: When the engine fails.
        """
        return self._wait(self._embed(check_texts(texts)))

    async def aembed(self, texts: str | Sequence[str]) -> Embeddings:
        """Async twin of `embed`."""
        return await self._hop(self._embed(check_texts(texts)))

    def continuation_logprobs(self, prompt: Prompt, continuation: str | Sequence[int]) -> ContinuationLogprobs:
        """How probable a given continuation of a prompt is, token by token, by the model before any sampler.

        Args:
            prompt: Text, token ids or a conversation.
            continuation: Text, tokenized as it would stand behind the prompt, or token ids.

        Raises:
            Unsupported: When the engine cannot score what it did not choose itself.
            ContextOverflow: When both do not fit together.
        """
        return self._wait(self._score(check_prompt(prompt), check_continuation(continuation)))

    async def acontinuation_logprobs(self, prompt: Prompt, continuation: str | Sequence[int]) -> ContinuationLogprobs:
        """Async twin of `continuation_logprobs`."""
        return await self._hop(self._score(check_prompt(prompt), check_continuation(continuation)))

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The exact text that the model's chat template makes of a conversation, up to where the answer begins."""
        return self._wait(self._render(check_conversation(messages)))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of raw text: exactly those that `generate` makes of it, the model's own beginning-of-text token included."""
        return self._wait(self._tokenize(check_text(text)))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self._wait(self._detokenize(check_tokens(tokens, "tokens")))

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens that a prompt takes up, by the serving model's tokenizer: equal to `Completion.prompt_tokens`."""
        return self._wait(self._count(check_prompt(prompt)))

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers beside the request. No secrets."""
        return self._wait(self._fingerprint())

    def close(self) -> None:
        """Let go of connections and child processes; closing twice is fine."""
        if not self._closed:
            self._closed = True
            background().run(self._close())

    async def aclose(self) -> None:
        """Async twin of `close`."""
        if not self._closed:
            self._closed = True
            await background().hop(self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Plumbing

    async def _ask(self, question: Question, emit: Emit) -> Completion:
        """Answer, after what an overflow policy leaves out has been left out."""
        await self._check_honoured(question.config)
        question = dataclasses.replace(question, grammar=constraint(question.config))
        if not question.tools:
            return await self._ask_fitting(question, emit)
        support = (await self._capabilities()).tools
        if support == "none":
            raise self._unsupported("tools", "call tools", [tool.name for tool in question.tools])
        if question.grammar is not None:
            raise BadInput(
                "An answer with tools cannot be constrained as well.",
                fix="Leave out the schema or grammar, or the tools.",
                field="tools",
                value=[tool.name for tool in question.tools],
            )
        if support == "native":
            return check_called(await self._ask_fitting(question, emit), question.tool_choice)
        answer = await self._ask_fitting(with_generic_tools(question), ignore)
        return read_generic(answer, question.tools, len(question.prompt))

    async def _ask_fitting(self, question: Question, emit: Emit) -> Completion:
        if question.config.overflow == "error":
            return await self._answer(question, emit)
        prompt, dropped = await self._fit(question)
        answer = await self._answer(dataclasses.replace(question, prompt=prompt), emit)
        return dataclasses.replace(answer, dropped=dropped)

    async def _check_honoured(self, config: InferenceConfig) -> None:
        """Refuse what this engine would leave out without a word."""
        constraint = next((name for name in ("json_schema", "grammar") if getattr(config, name) is not None), None)
        if constraint and constraint not in (await self._capabilities()).constraints:
            raise self._unsupported("constraints", f"constrain an answer by {constraint}", constraint)
        if config.n_probs and not (await self._capabilities()).logprobs:
            raise self._unsupported("logprobs", "tell log-probabilities", config.n_probs)

    async def _fit(self, question: Question) -> tuple[Prompt, Dropped | None]:
        what = await self._capabilities()
        if not (what.tokenizer and what.context_size):
            raise self._unsupported("tokenizer", "measure a prompt for an overflow policy", question.config.overflow)
        room = room_for_prompt(what.context_size, question.config)
        prompt = question.prompt
        if not is_conversation(prompt):
            tokens = await self._tokenize(prompt) if isinstance(prompt, str) else prompt
            beginning = await self._tokenize("")
            fitted, dropped = fit_tokens(check_tokens(tokens), room, question.config.overflow, beginning)
            return (prompt, None) if dropped is None else (fitted, dropped)

        async def count(turns: Sequence[ChatMessage]) -> int:
            return len(await self._tokenize(await self._render(turns, question.tools)))

        return await fit_conversation(prompt, room, question.config, what.context_size, count)

    async def _count(self, prompt: Prompt) -> int:
        if isinstance(prompt, str):
            return len(await self._tokenize(prompt))
        return len(await self._tokenize(await self._render(prompt))) if is_conversation(prompt) else len(prompt)

    async def _text_or_tokens(self, question: Question) -> str | Sequence[int]:
        """The prompt after the chat template."""
        prompt = question.prompt
        if is_conversation(prompt):
            return await self._render(prompt, question.tools)
        return prompt if isinstance(prompt, str) else check_tokens(prompt)

    @staticmethod
    def _no_tokens(text: object) -> BadInput:
        """The error for a prompt that the tokenizer makes nothing of: a model has nothing to continue then."""
        fix = "Give at least one word."
        return BadInput("The prompt is empty: it has no tokens.", fix=fix, field="prompt", value=text)

    def _unsupported(self, what: str, deed: str, value: object, fix: str = "") -> Unsupported:
        """The error for what this engine cannot do.

        Args:
            what: The field of `Capabilities` that says so.
            deed: "make embeddings".
            value: What was asked for.
            fix: What to do instead.
        """
        return Unsupported(
            f"{type(self).__name__} of {self._model_name!r} cannot {deed}.",
            fix=fix or f"Use an engine whose capabilities.{what} says that it can.",
            what=what,
            engine=type(self).__name__,
            value=value,
        )

    def _config(self, config: object) -> InferenceConfig:
        """The config with what it leaves open filled in."""
        return check_config(config).over(self.defaults)

    def _check_open(self) -> None:
        if self._closed:
            raise BadInput(
                f"The engine of {self._model_name!r} is closed.",
                fix="Make a new engine; a closed one stays closed.",
                field="engine",
                value="closed",
            )

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BadInput:
            work.close()
            raise
        return background().run(work)

    async def _hop(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            self._check_open()
        except BadInput:
            work.close()
            raise
        return await background().hop(work)


def ignore(piece: str) -> None:
    """An `Emit` for callers that want the whole answer only."""
    del piece


def _conversation(
    messages: object,
    config: InferenceConfig,
    tools: Sequence[Tool | Callable[..., Any]],
    choice: str,
) -> Question:
    listed = as_tools(tools)
    chosen = check_choice(choice, listed) if listed else "none"
    return Question(check_conversation(messages), config, () if chosen == "none" else listed, chosen)
