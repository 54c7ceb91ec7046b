"""A GGUF model in this process, on llama-cpp-python's low-level calls. Only the embedded engine's child process loads it."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Answered", "EmbeddedModel", "LoadFailed"]

_BATCH = 512
"""Prompt tokens decoded at once: llama-server's own physical batch, and the grain at which a cancel is noticed."""


class LoadFailed(Exception):
    """llama.cpp did not load the model."""


@dataclass(slots=True)
class Answered:
    """Facts of one answer.

    Attributes:
        finish_reason: "stop", "length", "stop_sequence" or "cancelled".
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those that were still in the context from the last request.
        completion_tokens: Tokens sampled, the end-of-text token included.
        truncated: Whether the context was full at the end.
        prefill_ms: From the start to the first token.
        decode_ms: From the first token to the end.
        tokens: Ids of the tokens sampled.
    """

    finish_reason: str = "length"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    truncated: bool = False
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    tokens: list[int] = field(default_factory=list)


class EmbeddedModel:
    """One model with one context and one sequence.

    Args:
        path: The GGUF file.
        context_size: Tokens of prompt and answer together.
        threads: Threads of computation.

    Raises:
        LoadFailed: With the reason in words.
    """

    def __init__(self, path: Path, context_size: int, threads: int) -> None:
        import llama_cpp as lib

        # The bindings print every line of llama.cpp's log otherwise.
        logging.getLogger("llama-cpp-python").setLevel(logging.WARNING)
        self._lib: Any = lib
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise LoadFailed("llama.cpp could not load the file")
        self.trained_context = int(lib.llama_model_n_ctx_train(self._model))
        if context_size > self.trained_context:
            raise LoadFailed(
                f"the model was trained for a context of {self.trained_context} tokens, not {context_size}"
            )
        self.context_size = context_size
        self._context = self._new_context(threads)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._in_context: list[int] = []

    def _new_context(self, threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = self.context_size, _BATCH, _BATCH, 1
        params.n_threads = params.n_threads_batch = threads
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise LoadFailed(f"there is not enough memory for a context of {self.context_size} tokens")
        return context

    # Facts

    def chat_template(self) -> str | None:
        """The template in the model's metadata."""
        found = self._lib.llama_model_chat_template(self._model, None)
        return found.decode(errors="replace") if found else None

    def special(self, which: str) -> tuple[str, bool]:
        """Text of the "bos" or "eos" token ("" without one), and whether the tokenizer adds it itself."""
        token = int(getattr(self._lib, f"llama_vocab_{which}")(self._vocab))
        adds = bool(getattr(self._lib, f"llama_vocab_get_add_{which}")(self._vocab))
        return (self._bytes(token, special=True).decode(errors="replace") if token >= 0 else ""), adds

    # Tokens

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids as llama-server's `/completion` makes them: special tokens are read, the tokenizer's own are added."""
        data = text.encode()
        room = len(data) + 8
        for _ in range(2):
            buffer = (self._lib.llama_token * room)()
            count = self._lib.llama_tokenize(self._vocab, data, len(data), buffer, room, add_special, True)
            if count >= 0:
                return list(buffer[:count])
            room = -count
        raise AssertionError

    def detokenize(self, tokens: list[int]) -> bytes:
        """Bytes of token ids, special ones written out (llama-server's `/detokenize`)."""
        return b"".join(self._bytes(token, special=True) for token in tokens)

    def _bytes(self, token: int, *, special: bool = False) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    # Generation

    def tokens(
        self, prompt: list[int], sampling: dict[str, Any], limit: int, facts: Answered, cancelled: Callable[[], bool]
    ) -> Generator[bytes, None, None]:
        """Sample until the end-of-text token, `limit` or the end of the context; yields each token's bytes.

        `facts` is filled while it goes on. The caller closes the iterator when it has seen a stop text.
        """
        room = self.context_size - len(prompt)
        began = time.perf_counter()
        facts.prompt_tokens = len(prompt)
        sampler = self._sampler(sampling, prompt)
        try:
            if not self._prefill(prompt, facts, cancelled, reuse=bool(sampling["cache_prompt"])):
                facts.finish_reason = "cancelled"
                return
            first = 0.0
            while True:
                token = int(self._lib.llama_sampler_sample(sampler, self._context, -1))
                first = first or time.perf_counter()
                facts.completion_tokens += 1
                facts.tokens.append(token)
                facts.prefill_ms = (first - began) * 1000
                facts.decode_ms = (time.perf_counter() - first) * 1000
                facts.truncated = facts.completion_tokens >= room
                if self._lib.llama_vocab_is_eog(self._vocab, token):
                    facts.finish_reason = "stop"
                    return
                yield self._bytes(token)
                if facts.truncated or facts.completion_tokens >= limit:
                    return
                if cancelled():
                    facts.finish_reason = "cancelled"
                    return
                self._decode([token])
        finally:
            self._lib.llama_sampler_free(sampler)

    def _prefill(self, prompt: list[int], facts: Answered, cancelled: Callable[[], bool], *, reuse: bool) -> bool:
        """Bring the context to the end of the prompt; returns False when it was cancelled."""
        kept = 0
        if reuse:
            # The last token is always decoded again: its logits are what the answer begins with.
            most = min(len(self._in_context), len(prompt) - 1)
            while kept < most and self._in_context[kept] == prompt[kept]:
                kept += 1
        memory = self._lib.llama_get_memory(self._context)
        if not self._lib.llama_memory_seq_rm(memory, 0, kept, -1):
            # Recurrent models cannot go back half-way.
            self._lib.llama_memory_clear(memory, True)
            kept = 0
        del self._in_context[kept:]
        facts.cached_tokens = kept
        for at in range(kept, len(prompt), _BATCH):
            if cancelled():
                return False
            self._decode(prompt[at : at + _BATCH])
        return True

    def _decode(self, tokens: list[int]) -> None:
        buffer = (self._lib.llama_token * len(tokens))(*tokens)
        code = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(buffer, len(tokens)))
        if code != 0:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
            self._in_context.clear()
            raise RuntimeError(f"llama_decode failed with code {code}")
        self._in_context.extend(tokens)

    def _sampler(self, sampling: dict[str, Any], prompt: list[int]) -> Any:
        """llama-server's chain for these values (`common/sampling.cpp`, b11312); samplers at their neutral value are left out."""
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        size = lib.llama_vocab_n_tokens(self._vocab)
        count = ctypes.c_int32(0)
        suppressed = lib.llama_vocab_get_suppress_tokens(self._vocab, ctypes.byref(count))
        links = []
        if count.value:
            biases = (lib.llama_logit_bias * count.value)()
            for index in range(count.value):
                biases[index].token, biases[index].bias = suppressed[index], float("-inf")
            links.append(lib.llama_sampler_init_logit_bias(size, count.value, biases))
        links += [
            lib.llama_sampler_init_penalties(size, sampling["repeat_last_n"], sampling["repeat_penalty"], 0.0, 0.0),
            lib.llama_sampler_init_top_k(sampling["top_k"]),
            lib.llama_sampler_init_top_p(sampling["top_p"], 0),
            lib.llama_sampler_init_min_p(sampling["min_p"], 0),
            lib.llama_sampler_init_temp_ext(sampling["temperature"], 0.0, 1.0),
            lib.llama_sampler_init_dist(sampling["seed"]),
        ]
        for link in links:
            lib.llama_sampler_chain_add(chain, link)
        for token in prompt[-int(sampling["repeat_last_n"]) :]:
            lib.llama_sampler_accept(chain, token)
        return chain
