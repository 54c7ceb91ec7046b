"""The engine that asks any endpoint with OpenAI's API, through the `openai` package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import RequestRefused
from noa_lab.inference._checks import check_conversation, check_tokens, is_conversation
from noa_lab.inference._completion import Completion, ContinuationLogprobs, Embeddings
from noa_lab.inference._continuation import check_room, forced, scored, split_continuation
from noa_lab.inference._engine import EngineBase, ignore
from noa_lab.inference._openai_endpoint import Endpoint
from noa_lab.inference._protocol import Capabilities, Prompt
from noa_lab.inference._question import Question
from noa_lab.inference._responses import completion_of, timings_of
from noa_lab.inference._sampling import check_echo, choose_seed, explicit
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool, check_call
from noa_lab.inference._types import ChatMessage, InferenceConfig

if TYPE_CHECKING:
    from noa_lab.inference._requests import CompletionResponse

__all__ = ["OpenAIEngine"]

_STANDARD = frozenset({"temperature", "top_p", "seed"})
"""Fields of `InferenceConfig` that OpenAI's API knows."""

_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}


class OpenAIEngine(EngineBase):
    """An `InferenceEngine` over an endpoint with OpenAI's API: llama-server, vLLM, OpenAI, ...

    What the API cannot say is refused when it was asked for (`top_k`, a grammar, a count of tokens), and `capabilities` says so
    beforehand. An endpoint that is llama.cpp's is noticed, and then everything works as with `LlamaInferenceEngine`.

    Args:
        base_url: With "/v1" at the end, for example "https://api.openai.com/v1".
        model_name: The endpoint's name for the model.
        api_key: Never shown, and never part of a fingerprint, a cassette or an answer. It is not read from the environment: give
            `os.environ["OPENAI_API_KEY"]` where you mean it.
        context_size: Tokens of prompt and answer together, where the endpoint does not tell.
        max_tokens_field: What the endpoint calls the limit; newer models of OpenAI want "max_completion_tokens".
        patience: Seconds of silence after which a request is given up.
        max_retries: How often the package asks again when nothing had been delivered: no connection, status 408, 409, 429 or 5xx.

    Raises:
        BadInput: For an address that cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        api_key: str | None = None,
        *,
        context_size: int = 0,
        max_tokens_field: str = "max_tokens",
        patience: float = 300.0,
        max_retries: int = 2,
    ) -> None:
        super().__init__(model_name)
        self._endpoint = Endpoint(base_url, model_name, api_key, patience=patience, max_retries=max_retries)
        self._context_size = context_size
        self._max_tokens_field = max_tokens_field

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._endpoint.base_url!r}, {self.model_name!r})"

    async def _answer(self, question: Question, emit: Emit) -> Completion:
        config, seed = question.config, choose_seed(question.config)
        llama = await self._endpoint.is_llama_cpp()
        body = {**self._common(config, seed, llama=llama), **self._constraint(question, llama=llama)}
        if is_conversation(question.prompt):
            body = body | self._chat_fields(question, llama=llama)
            response = await self._endpoint.chat(check_conversation(question.prompt), body, emit, config.max_tokens)
        else:
            prompt = question.prompt if isinstance(question.prompt, str) else list(check_tokens(question.prompt))
            body["prompt"] = prompt
            response = await self._endpoint.complete(body, emit, config.max_tokens)
        if llama and not response.tokens_evaluated:
            raise self._no_tokens(question.prompt)
        answer = self._completion(response, body, None if config.greedy else seed, config)
        calls = tuple(
            check_call(call["name"], call["arguments"], question.tools, id_=call["id"])
            for call in response.raw.get("tool_calls") or ()
        )
        return dataclasses.replace(answer, tool_calls=calls, finish_reason="tool_calls") if calls else answer

    def _common(self, config: InferenceConfig, seed: int, *, llama: bool) -> dict[str, Any]:
        """Sampling fields; on llama.cpp every one there is, elsewhere those that the API knows."""
        limit = {self._max_tokens_field: config.max_tokens}
        stop = {"stop": list(config.stop_sequences)} if config.stop_sequences else {}
        if llama:
            return {**explicit(config, seed), **limit, **stop, "verbose": True, "return_progress": True}
        for name, neutral in _NEUTRAL.items():
            if name in config.model_fields_set and getattr(config, name) != neutral:
                raise self._unsupported(
                    "samplers", f"sample with {name}", getattr(config, name), f"Leave {name} out, or use {neutral}."
                )
        standard = {"temperature": config.temperature, "top_p": config.top_p, "seed": seed}
        return {**standard, **limit, **stop}

    @staticmethod
    def _chat_fields(question: Question, *, llama: bool) -> dict[str, Any]:
        config, found = question.config, dict[str, Any]()
        if config.n_probs:
            found |= {"logprobs": True, "top_logprobs": config.n_probs}
        if question.tools:
            named = question.tool_choice not in {"auto", "required", "none"}
            choice = {"type": "function", "function": {"name": question.tool_choice}} if named else question.tool_choice
            offered = question.tools
            if named and llama:  # llama-server knows no choice by name
                offered, choice = [tool for tool in offered if tool.name == question.tool_choice], "required"
            found |= {"tools": [tool.as_openai() for tool in offered], "tool_choice": choice}
        return found

    @staticmethod
    def _constraint(question: Question, *, llama: bool) -> dict[str, Any]:
        if question.grammar is None:
            return {}
        if llama:
            return {"grammar": question.grammar}
        schema = {"name": "answer", "schema": question.config.json_schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _completion(
        self, response: CompletionResponse, body: Mapping[str, Any], seed: int | None, config: InferenceConfig
    ) -> Completion:
        exact = response.raw.get("__verbose")
        if exact is not None:
            check_echo(body, exact.get("generation_settings") or {}, self._endpoint.base_url)
            known = dataclasses.replace(
                response, stop_reason=exact.get("stop_type"), truncated=bool(exact.get("truncated"))
            )
            return completion_of(known, {**body, "n_predict": config.max_tokens}, seed)
        reason = response.stop_reason or ""
        return Completion(
            text=response.content,
            model=response.model,
            finish_reason=_FINISH.get(reason, reason),
            prompt_tokens=response.tokens_evaluated,
            cached_tokens=response.tokens_cached,
            completion_tokens=response.tokens_predicted,
            seed=seed,
            timings=timings_of(response),
            logprobs=response.probabilities,
            raw_request=body,
            raw_response=response.raw,
        )

    # Tokens: only where the endpoint is llama.cpp's

    async def _render(self, messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> str:
        body: dict[str, Any] = {"messages": [message.as_openai() for message in messages]}
        if tools:
            body["tools"] = [tool.as_openai() for tool in tools]
        return str((await self._llama("/apply-template", body, "render a conversation"))["prompt"])

    async def _tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return list((await self._llama("/tokenize", body, "tokenize"))["tokens"])

    async def _detokenize(self, tokens: Sequence[int]) -> str:
        return str((await self._llama("/detokenize", {"tokens": list(tokens)}, "detokenize"))["content"])

    async def _llama(self, path: str, body: Mapping[str, Any], deed: str) -> dict[str, Any]:
        if not await self._endpoint.is_llama_cpp():
            fix = "Use an endpoint of llama.cpp, or leave this out: OpenAI's API has nothing for it."
            raise self._unsupported("tokenizer", deed, path, fix)
        return await self._endpoint.llama(path, {"model": self.model_name, **body})

    async def _score(self, prompt: Prompt, continuation: str | tuple[int, ...]) -> ContinuationLogprobs:
        if not await self._endpoint.is_llama_cpp():
            return await super()._score(prompt, continuation)
        text = await self._text_or_tokens(Question(prompt, InferenceConfig()))
        before, after = await split_continuation(text, continuation, self._tokenize, self._detokenize)
        check_room(before, after, (await self._capabilities()).context_size)
        greedy = InferenceConfig(temperature=0.0, n_probs=1, max_tokens=len(after))
        body = {**self._common(greedy, 0, llama=True), **forced(after), "prompt": before}
        body.pop("n_predict")
        found = scored(await self._endpoint.complete(body, ignore, len(after)), after)
        if found is None:
            raise self._unsupported("continuation_logprobs", "score this continuation", continuation)
        return found

    async def _embed(self, texts: list[str]) -> Embeddings:
        try:
            return await self._endpoint.embed(texts, one_by_one=await self._endpoint.is_llama_cpp())
        except RequestRefused as error:
            if error.fields.get("status") in {404, 501} or "ooling type" in error.message:
                fix = "Use an endpoint, or a model, that makes embeddings."
                raise self._unsupported("embeddings", "make embeddings", len(texts), fix) from None
            raise

    async def _capabilities(self) -> Capabilities:
        facts = await self._endpoint.facts()
        llama = facts.llama_cpp
        samplers = frozenset({*_STANDARD, *_NEUTRAL}) if llama else _STANDARD
        return Capabilities(
            context_size=facts.context_size or self._context_size,
            slots=facts.slots,
            chat_template=facts.chat_template,
            reports_cached_tokens=True,
            tokenizer=llama,
            embeddings=facts.embeddings,
            logprobs=True,
            continuation_logprobs=llama,
            constraints=frozenset({"json_schema", "grammar"} if llama else {"json_schema"}),
            tools="generic" if llama and not facts.native_tools else "native",
            samplers=samplers,
        )

    async def _fingerprint(self) -> dict[str, Any]:
        facts = await self._endpoint.facts()
        return {
            "executor": "openai",
            "model": self.model_name,
            # A llama-server is known by what it says of itself; its port differs each time.
            "endpoint": None if facts.llama_cpp else self._endpoint.base_url,
            **facts.identity,
            "context_size": facts.context_size or self._context_size,
        }

    async def _close(self) -> None:
        await self._endpoint.aclose()
