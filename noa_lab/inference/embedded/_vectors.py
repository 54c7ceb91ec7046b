"""Vectors of texts, as llama-server's `/v1/embeddings` makes them."""

from __future__ import annotations

import ctypes
import math
from typing import Any

__all__ = ["Vectors"]

_NONE, _MEAN = 0, 1
"""llama.cpp's `enum llama_pooling_type`."""


class Vectors:
    """A context for embeddings beside the one that generates.

    A model for embeddings pools as its file says; any other one pools by the mean (`--pooling mean`).

    Args:
        lib: The module `llama_cpp`.
        model: The loaded model.
        context_size: Most tokens of one text.
        threads: Threads of computation.

    Raises:
        RuntimeError: When there is not enough memory.
    """

    def __init__(self, lib: Any, model: Any, context_size: int, threads: int) -> None:
        self._lib = lib
        self._model = model
        self._context = self._new(context_size, threads, None)
        if int(lib.llama_pooling_type(self._context)) == _NONE:
            lib.llama_free(self._context)
            self._context = self._new(context_size, threads, _MEAN)

    def _new(self, context_size: int, threads: int, pooling: int | None) -> Any:
        params = self._lib.llama_context_default_params()
        # One text is one batch: its vector is made of all its tokens.
        params.n_ctx = params.n_batch = params.n_ubatch = context_size
        params.n_seq_max, params.embeddings = 1, True
        params.n_threads = params.n_threads_batch = threads
        if pooling is not None:
            params.pooling_type = pooling
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"there is not enough memory for embeddings of {context_size} tokens")
        return context

    def of(self, tokens: list[int]) -> list[float]:
        """The vector of a text's tokens, of length 1."""
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        buffer = (lib.llama_token * len(tokens))(*tokens)
        batch = lib.llama_batch_get_one(buffer, len(tokens))
        only_encodes = lib.llama_model_has_encoder(self._model) and not lib.llama_model_has_decoder(self._model)
        code = (lib.llama_encode if only_encodes else lib.llama_decode)(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code}")
        found = lib.llama_get_embeddings_seq(self._context, 0)
        size = int(lib.llama_model_n_embd(self._model))
        values = ctypes.cast(found, ctypes.POINTER(ctypes.c_float * size)).contents
        norm = math.sqrt(sum(value * value for value in values))
        return [value / norm for value in values] if norm else list(values)
