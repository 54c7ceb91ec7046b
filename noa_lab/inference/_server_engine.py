"""The engine that asks a llama-server."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from noa_lab.errors import RequestRefused, TemplateInvalid, Unsupported
from noa_lab.inference._api import Recover, ServerApi
from noa_lab.inference._chat_format import BUILT_IN_TEMPLATE_SHA256, format_chat_prompt
from noa_lab.inference._checks import check_conversation
from noa_lab.inference._completion import Completion, ContinuationLogprobs, Embeddings
from noa_lab.inference._continuation import check_room, forced, scored, split_continuation
from noa_lab.inference._engine import EngineBase, ignore
from noa_lab.inference._protocol import Capabilities, Mode, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._responses import completion_of
from noa_lab.inference._sampling import check_echo, choose_seed, constraint, explicit
from noa_lab.inference._server_facts import Props
from noa_lab.inference._streams import Emit
from noa_lab.inference._strict import Strict, check_mode
from noa_lab.inference._tools import Tool, check_call
from noa_lab.inference._types import ChatMessage, InferenceConfig

if TYPE_CHECKING:
    from noa_lab.inference.batch import Lanes

__all__ = ["LlamaInferenceEngine"]


class LlamaInferenceEngine(EngineBase):
    """An `InferenceEngine` over a llama-server.

    `chat` renders the conversation with `/apply-template` and sends the text to `/completion`, so that the text, the tokens and
    every setting are echoed and exact. The text is tokenized with special tokens read as such; the server's template leaves out
    a beginning-of-text token that the tokenizer adds, so it is never doubled.

    Too long a prompt (as many tokens as the context, or more) is `ContextOverflow` with the server's own count, before anything
    is evaluated. `max_tokens` beyond the room that is left is no error: the answer ends where the context is full, with
    finish_reason "length" and `truncated`.

    Args:
        base_url: "http://host:port".
        model_name: What to call the model; what the server calls it is in `Completion.model`.
        api_key: The server's key; never shown.
        mode: "fast" or "strict" (see `Mode`). Strict needs a server with one slot; the build, the model and the context that the
            first strict answer came from are pinned: another one is refused.
        cache_prompt: Whether a slot may reuse the start of its last prompt; never in strict mode.
        id_slot: The slot that must answer; None is any.
        model_sha256: Hash of the model's file, for the fingerprint, where the caller knows it.
        patience: Seconds of silence after which a request is given up (see `LlamaClient`).
        recover: Awaited when the server went away under a request that had not brought a token (see `Recover`).
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        api_key: str | None = None,
        *,
        mode: Mode = "fast",
        cache_prompt: bool = True,
        id_slot: int | None = None,
        model_sha256: str | None = None,
        patience: float = 300.0,
        recover: Recover | None = None,
    ) -> None:
        super().__init__(model_name)
        self._api = ServerApi(base_url, api_key, patience=patience, recover=recover)
        self._mode = check_mode(mode)
        self._strict = Strict()
        self._cache_prompt = cache_prompt
        self._id_slot = id_slot
        self._model_sha256 = model_sha256
        self._known_props: Props | None = None
        self._embeds: bool | None = None
        self._renders: bool | None = None
        """Whether the server renders conversations; None before it was asked."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._api.connection.base_url!r}, {self.model_name!r})"

    async def _check_honoured(self, config: InferenceConfig) -> None:
        """llama-server honours all there is: it need not be asked."""

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        if (question.mode or self._mode) == "fast":
            return await self._ask_completion(question, emit, {"cache_prompt": self._cache_prompt})
        async with self._strict.turn():
            self._strict.check(await self._api.props(), self._api.connection.base_url)
            return await self._ask_completion(question, emit, {"cache_prompt": False, "id_slot": 0})

    async def _ask_completion(self, question: Question, emit: Emit, treatment: Mapping[str, Any]) -> Completion:
        if question.tools:
            return await self._ask_with_tools(question, emit, treatment)
        prompt, config = await self._text_or_tokens(question), question.config
        seed = choose_seed(config)
        held_to = {} if question.grammar is None else {"grammar": question.grammar}
        body = {**self._body(prompt, config, seed), **held_to, **treatment}
        response = await self._api.complete(body, emit)
        if not response.tokens_evaluated:
            raise self._no_tokens(prompt)
        check_echo(body, response.raw.get("generation_settings") or {}, self._api.connection.base_url)
        return completion_of(response, body, None if config.greedy else seed)

    async def _ask_with_tools(self, question: Question, emit: Emit, treatment: Mapping[str, Any]) -> Completion:
        """By `/v1/chat/completions`, which knows the model's own format of calls."""
        config, seed = question.config, choose_seed(question.config)
        named = [tool for tool in question.tools if tool.name == question.tool_choice]
        options = {
            **self._body("", config, seed),
            **treatment,
            "tools": [tool.as_openai() for tool in named or question.tools],
            "tool_choice": "required" if named else question.tool_choice,
            "verbose": True,
        }
        del options["prompt"], options["n_probs"]
        options["messages"] = [message.as_openai() for message in check_conversation(question.prompt)]
        response = await self._api.chat(options, emit)
        exact = response.raw.get("__verbose") or {}
        check_echo(options, exact.get("generation_settings") or {}, self._api.connection.base_url)
        calls = tuple(
            check_call(call["name"], call["arguments"], question.tools, id_=call["id"]) for call in response.tool_calls
        )
        known = dataclasses.replace(
            response, stop_reason=exact.get("stop_type"), truncated=bool(exact.get("truncated", False))
        )
        answer = completion_of(known, options, None if config.greedy else seed)
        return dataclasses.replace(
            answer, tool_calls=calls, finish_reason="tool_calls" if calls else answer.finish_reason
        )

    def _body(self, prompt: str | Sequence[int], config: InferenceConfig, seed: int) -> dict[str, Any]:
        """The whole request to `/completion`."""
        body = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "n_predict": config.max_tokens,
            "stop": list(config.stop_sequences),
            **explicit(config, seed),
            "cache_prompt": self._cache_prompt and self._mode == "fast",
        }
        if (grammar := constraint(config)) is not None:
            body["grammar"] = grammar
        if self._id_slot is not None:
            body["id_slot"] = self._id_slot
        return body

    async def _score(self, prompt: Prompt, continuation: str | tuple[int, ...]) -> ContinuationLogprobs:
        text = await self._text_or_tokens(Question(prompt, InferenceConfig()))
        before, after = await split_continuation(text, continuation, self._tokenize, self._detokenize)
        check_room(before, after, (await self._capabilities()).context_size)
        body = {**self._body(before, InferenceConfig(temperature=0.0, n_probs=1), 0), **forced(after)}
        found = scored(await self._api.complete(body, ignore), after)
        if found is None:
            raise self._unsupported("continuation_logprobs", "score this continuation", continuation)
        return found

    async def _embed(self, texts: list[str]) -> Embeddings:
        try:
            return await self._api.embed(texts)
        except RequestRefused as error:
            if error.fields.get("status") == 501 or "ooling type" in error.message:
                raise Unsupported(
                    error.message,
                    fix="Serve the model with embeddings=True, or llama-server with --embeddings --pooling mean.",
                    what="embeddings",
                    engine=type(self).__name__,
                ) from None
            raise

    def batch(self) -> Lanes:
        """Its slots as lanes, for many questions at once; nobody else may use the server meanwhile."""
        from noa_lab.inference.batch import Lanes

        return Lanes(self._api.connection, self.capabilities, body=self._body, finish=completion_of)

    async def _props(self) -> Props:
        if self._known_props is None:
            self._known_props = await self._api.props()
        return self._known_props

    async def _template(self) -> str | None:
        """The chat template of the model itself; where it has none, llama-server reports one of its own."""
        template = (await self._props()).chat_template
        return None if not template or _sha256(template) == BUILT_IN_TEMPLATE_SHA256 else template

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        template = await self._template()
        if template is None:
            return format_chat_prompt(messages)
        if self._renders is not False:
            try:
                text = await self._api.apply_template(messages, tools)
                self._renders = True
                return text
            except RequestRefused as error:
                if self._renders or error.fields.get("status") != 404:
                    raise
            self._renders = False
        return self._render_here(template, messages)

    def _render_here(self, template: str, messages: Sequence[ChatMessage]) -> str:
        """For a llama-server of before January 2025, which has no `/apply-template` and tells no token's text."""
        if "eos_token" in template:
            raise Unsupported(
                f"The llama-server at {self._api.connection.base_url} is too old to render this model's chat template.",
                fix="Install a newer llama.cpp (`noa-lab install`), or write the prompt yourself and use `generate`.",
                what="chat",
                engine=type(self).__name__,
            )
        from noa_lab.inference.embedded._template import ChatTemplate

        try:
            found = ChatTemplate(template)
        except TemplateInvalid:
            # Servers that old leave out the template's last character.
            found = ChatTemplate(template + "}")
        # The tokenizer adds the beginning-of-text token itself.
        return found.render([{"role": str(turn.role), "content": turn.content} for turn in messages])

    async def _tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        return await self._api.tokenize(text, add_special=add_special)

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        return await self._api.detokenize(tokens)

    async def _capabilities(self) -> Capabilities:
        props = await self._props()
        if not (props.context_size and props.slots):
            raise RequestRefused(
                f"{self._api.connection.base_url} did not say how large its context is.",
                fix="Give the address of a llama-server with one model; for a router use RoutedEngine.",
                url=self._api.connection.base_url + "/props",
            )
        return Capabilities(
            context_size=props.context_size,
            slots=props.slots,
            chat_template=await self._template() is not None,
            embeddings=await self._can_embed(),
            logprobs=True,
            continuation_logprobs=True,
            constraints=frozenset({"json_schema", "grammar"}),
            tools="native" if props.supports_tools else "generic",
            modes=frozenset({"fast", "strict"} if props.slots == 1 else {"fast"}),
        )

    async def _can_embed(self) -> bool:
        """Whether the server makes embeddings: it says so only when asked for one."""
        if self._embeds is None:
            try:
                await self._embed(["x"])
                self._embeds = True
            except (Unsupported, RequestRefused):
                self._embeds = False
        return self._embeds

    async def _fingerprint(self) -> dict[str, Any]:
        props, what, template = await self._props(), await self._capabilities(), await self._template()
        path = props.model_path
        return {
            "executor": "llama-server",
            "model": (PureWindowsPath(path) if "\\" in path else PurePosixPath(path)).name,
            "model_sha256": self._model_sha256,
            "quantization": props.get("model_ftype"),
            "build": props.build,
            "chat_template_sha256": None if template is None else _sha256(template),
            "context_size": what.context_size,
            "slots": what.slots,
            "mode": self._mode,
            "cache_prompt": self._cache_prompt and self._mode == "fast",
            "id_slot": self._id_slot,
        }

    async def _close(self) -> None:
        await self._api.aclose()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
