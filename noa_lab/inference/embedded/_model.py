"""A GGUF model in this process, on llama-cpp-python's low-level calls. Only the child process loads it."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noa_lab.inference.embedded._sampler import Sampler, probabilities
from noa_lab.inference.embedded._vectors import Vectors

__all__ = ["Answered", "EmbeddedModel", "LoadFailed"]

_BATCH = 512
"""Prompt tokens decoded at once: llama-server's own physical batch."""

_SCORED = 64
"""Tokens scored at once: their logits are held for the whole vocabulary."""


_ABORTED = 2
"""What `llama_decode` returns when its abort callback said so."""


class LoadFailed(Exception):
    """llama.cpp did not load the model."""


class Aborted(Exception):
    """A decode was cancelled in the middle."""


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
        logprobs: Their probabilities, where they were asked for, in the form of llama-server's `completion_probabilities`.
    """

    finish_reason: str = "length"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    truncated: bool = False
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


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
        self._threads = threads
        self._context = self._new_context(threads)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._vocab_size = int(lib.llama_vocab_n_tokens(self._vocab))
        self._in_context: list[int] = []
        self._vectors: Vectors | None = None

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
        self,
        prompt: list[int],
        sampling: dict[str, Any],
        grammar: str | None,
        limit: int,
        facts: Answered,
        cancelled: Callable[[], bool],
    ) -> Generator[bytes, None, None]:
        """Sample until the end-of-text token, `limit` or the end of the context; yields each token's bytes.

        `facts` is filled while it goes on. The caller closes the iterator when it has seen a stop text.

        Raises:
            GrammarInvalid: When llama.cpp cannot read the grammar.
        """
        room = self.context_size - len(prompt)
        began = time.perf_counter()
        facts.prompt_tokens = len(prompt)
        sampler = Sampler(self._lib, self._vocab, sampling, grammar)
        try:
            sampler.look_back(prompt[-int(sampling["repeat_last_n"]) :])
            if not self._prefill(prompt, facts, cancelled, reuse=bool(sampling["cache_prompt"])):
                facts.finish_reason = "cancelled"
                return
            first = 0.0
            while True:
                token = sampler.sample(self._context)
                first = first or time.perf_counter()
                facts.completion_tokens += 1
                facts.tokens.append(token)
                if sampling["n_probs"]:
                    facts.logprobs.append(self._probability(token, -1, sampling["n_probs"]))
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
            sampler.close()

    def score(
        self, prompt: list[int], continuation: list[int], facts: Answered, cancelled: Callable[[], bool], *, reuse: bool
    ) -> list[dict[str, Any]]:
        """Probabilities of given tokens after a prompt, in the form of llama-server's `completion_probabilities`."""
        facts.prompt_tokens = len(prompt)
        if not self._prefill(prompt, facts, cancelled, reuse=reuse):
            return []
        found = [self._probability(continuation[0], -1, 1)]
        for at in range(0, len(continuation) - 1, _SCORED):
            if cancelled():
                break
            given = continuation[at : at + _SCORED]
            wanted = continuation[at + 1 : at + 1 + _SCORED]
            self._decode(given[: len(wanted)], every_logit=True)
            found += [self._probability(token, index, 1) for index, token in enumerate(wanted)]
        return found

    def vector(self, tokens: list[int]) -> list[float]:
        """The vector of a text's tokens, of length 1."""
        if self._vectors is None:
            self._vectors = Vectors(self._lib, self._model, self.context_size, self._threads)
        return self._vectors.of(tokens)

    def _probability(self, token: int, index: int, top: int) -> dict[str, Any]:
        found = probabilities(self._lib, self._context, index, self._vocab_size, token, top)
        for each in (found, *found["top_logprobs"]):
            # As the server does: of the chosen token the text as it is sent, which is empty for the end of text.
            each["bytes"] = list(self._bytes(each["id"], special=each is not found))
        return found

    def _prefill(self, prompt: list[int], facts: Answered, cancelled: Callable[[], bool], *, reuse: bool) -> bool:
        """Bring the context to the end of the prompt; returns False when it was cancelled."""
        kept = 0
        if reuse:
            # The last token is always decoded again: its logits are what the answer begins with.
            most = min(len(self._in_context), len(prompt) - 1)
            while kept < most and self._in_context[kept] == prompt[kept]:
                kept += 1
        kept = self._forget_after(kept)
        facts.cached_tokens = kept
        # Looked at between any two steps of a batch; not while single tokens are decoded, where it would only cost.
        watch = self._lib.ggml_abort_callback(lambda _: cancelled())
        self._lib.llama_set_abort_callback(self._context, watch, None)
        try:
            for at in range(kept, len(prompt), _BATCH):
                if cancelled():
                    return False
                try:
                    self._decode(prompt[at : at + _BATCH])
                except Aborted:
                    return False
        finally:
            self._lib.llama_set_abort_callback(self._context, self._lib.ggml_abort_callback(0), None)
        return True

    def _forget_after(self, kept: int) -> int:
        """Keep only the first tokens in the context; returns how many were kept."""
        memory = self._lib.llama_get_memory(self._context)
        if not self._lib.llama_memory_seq_rm(memory, 0, kept, -1):
            # Recurrent models cannot go back half-way.
            self._lib.llama_memory_clear(memory, True)
            kept = 0
        del self._in_context[kept:]
        return kept

    def _decode(self, tokens: Sequence[int], *, every_logit: bool = False) -> None:
        batch = self._lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, len(self._in_context) + index
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
                batch.logits[index] = every_logit or index == len(tokens) - 1
            code = self._lib.llama_decode(self._context, batch)
        finally:
            self._lib.llama_batch_free(batch)
        if code == _ABORTED:
            self._forget_after(len(self._in_context))
            raise Aborted
        if code != 0:
            self._forget_after(0)
            raise RuntimeError(f"llama_decode failed with code {code}")
        self._in_context.extend(tokens)
