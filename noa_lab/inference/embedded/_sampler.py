"""llama-server's sampling, on the low-level calls: its chain, its grammar, its probabilities (`common/sampling.cpp`, b11312)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

__all__ = ["GrammarInvalid", "Sampler", "probabilities"]


class GrammarInvalid(Exception):
    """llama.cpp cannot read the grammar."""


class Sampler:
    """Chooses tokens for one answer. The owner calls `close`.

    Args:
        lib: The module `llama_cpp`.
        vocab: The model's vocabulary.
        sampling: Values of all samplers, in llama-server's names (`_sampling.explicit`).
        grammar: GBNF of the answer, or None.

    Raises:
        GrammarInvalid: When the grammar cannot be read.
    """

    def __init__(self, lib: Any, vocab: Any, sampling: Mapping[str, Any], grammar: str | None = None) -> None:
        self._lib = lib
        self._size = int(lib.llama_vocab_n_tokens(vocab))
        self._grammar = None
        if grammar is not None:
            self._grammar = lib.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
            if not self._grammar:
                raise GrammarInvalid("failed to parse grammar")
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in self._links(vocab, sampling):
            lib.llama_sampler_chain_add(self._chain, link)

    def _links(self, vocab: Any, sampling: Mapping[str, Any]) -> list[Any]:
        """The samplers in llama-server's order; those at their neutral value are left out."""
        lib, found = self._lib, []
        count = ctypes.c_int32(0)
        suppressed = lib.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
        if count.value:
            biases = (lib.llama_logit_bias * count.value)()
            for index in range(count.value):
                biases[index].token, biases[index].bias = suppressed[index], float("-inf")
            found.append(lib.llama_sampler_init_logit_bias(self._size, count.value, biases))
        last_n, penalty = sampling["repeat_last_n"], sampling["repeat_penalty"]
        return [
            *found,
            lib.llama_sampler_init_penalties(self._size, last_n, penalty, 0.0, 0.0),
            lib.llama_sampler_init_top_k(sampling["top_k"]),
            lib.llama_sampler_init_top_p(sampling["top_p"], 0),
            lib.llama_sampler_init_min_p(sampling["min_p"], 0),
            lib.llama_sampler_init_temp_ext(sampling["temperature"], 0.0, 1.0),
            lib.llama_sampler_init_dist(sampling["seed"]),
        ]

    def look_back(self, prompt: list[int]) -> None:
        """Let penalties count these tokens, without the grammar."""
        for token in prompt:
            self._lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Any, index: int = -1) -> int:
        """The next token.

        Args:
            context: The context, after a decode.
            index: Which of the decode's outputs to sample from; -1 is the last.
        """
        if self._grammar is None:
            return int(self._lib.llama_sampler_sample(self._chain, context, index))
        candidates = _Candidates(self._lib, context, index, self._size)
        self._lib.llama_sampler_apply(self._chain, candidates.pointer)
        token = candidates.selected
        if not self._allowed(token):
            candidates = _Candidates(self._lib, context, index, self._size)
            self._lib.llama_sampler_apply(self._grammar, candidates.pointer)
            self._lib.llama_sampler_apply(self._chain, candidates.pointer)
            token = candidates.selected
        self._lib.llama_sampler_accept(self._grammar, token)
        self._lib.llama_sampler_accept(self._chain, token)
        return token

    def _allowed(self, token: int) -> bool:
        """Whether the grammar lets this token follow: cheaper than applying it to all."""
        one = (self._lib.llama_token_data * 1)(self._lib.llama_token_data(token, 1.0, 0.0))
        array = self._lib.llama_token_data_array(one, 1, -1, False)
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one[0].logit != float("-inf"))

    def close(self) -> None:
        """Free it; closing twice is fine."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                self._lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None


class _Candidates:
    """All tokens with their logits, for the samplers to work on."""

    def __init__(self, lib: Any, context: Any, index: int, size: int) -> None:
        import numpy as np

        # The layout of llama_token_data: id, logit, p.
        self._data = np.zeros(size, dtype=[("id", np.intc), ("logit", np.single), ("p", np.single)])
        self._data["id"] = np.arange(size, dtype=np.intc)
        self._data["logit"] = logits(lib, context, index, size)
        start = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self._array = lib.llama_token_data_array(start, size, -1, False)
        self.pointer = ctypes.byref(self._array)

    @property
    def selected(self) -> int:
        return int(self._array.data[self._array.selected].id)


def logits(lib: Any, context: Any, index: int, size: int) -> Any:
    """The model's logits at one output, as an array of shape (vocabulary,)."""
    import numpy as np

    return np.ctypeslib.as_array(lib.llama_get_logits_ith(context, index), shape=(size,))


def probabilities(lib: Any, context: Any, index: int, size: int, token: int, top: int) -> dict[str, Any]:
    """Log-probability of a token and the likeliest ones, before any sampler.

    Returns:
        `{"id", "logprob", "top_logprobs": [{"id", "logprob"}, ...]}`, the likeliest first.
    """
    import numpy as np

    found = logits(lib, context, index, size).astype(np.float64)
    found -= np.logaddexp.reduce(found)
    likeliest = np.argsort(-found, kind="stable")[:top]
    ranked = [{"id": int(each), "logprob": float(found[each])} for each in likeliest]
    return {"id": token, "logprob": float(found[token]), "top_logprobs": ranked}
