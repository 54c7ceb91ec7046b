"""A GGUF model with many sequences in one context: what they share is in memory once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.inference.batch._prefixes import common, packed
from noa_lab.inference.embedded._model import EmbeddedModel, LoadFailed
from noa_lab.inference.embedded._sampler import Sampler

__all__ = ["BATCH", "Fed", "OutOfCells", "TreeModel"]

BATCH = 512
"""Most tokens decoded at once: llama-server's own physical batch."""

_TOKEN = 4
"""Bytes of a packed token."""

_NO_CELLS = 1
"""What `llama_decode` returns when the context has no room for the batch."""

_CROWDED = 0.75
"""Share of the cells from which on they had better be tidied up."""


class OutOfCells(Exception):
    """The context has no room for what was to be decoded."""


@dataclass(frozen=True, slots=True)
class Fed:
    """Tokens of one sequence in a batch.

    Attributes:
        sequence: The sequence.
        start: Position of the first token.
        tokens: The tokens.
        wanted: Whether what follows the last one is to be sampled.
    """

    sequence: int
    start: int
    tokens: Sequence[int]
    wanted: bool


class TreeModel(EmbeddedModel):
    """One model, and one context that its sequences share (llama.cpp's unified KV cache).

    llama.cpp's attention adds up in half precision, cell by cell. For a sum to be that of a server with a slot of its own for every
    sequence, the cells of a sequence must lie in the order of its tokens. A new token takes the first cell that is free, so that no cell
    is freed while anything grows: what sequences let go of is kept by one more of them, `_released`, until `tidy`.

    Args:
        path: The GGUF file.
        context_size: Tokens that one sequence may have, prompt and answer together.
        threads: Threads of computation.
        cells: Tokens that all sequences may have together, those that they share counted once.
        sequences: How many sequences there are.

    Raises:
        LoadFailed: With the reason in words.
    """

    def __init__(self, path: Path, context_size: int, threads: int, *, cells: int, sequences: int) -> None:
        self._cells, self._sequences, self._released = cells, sequences, sequences
        self._taken = 0
        super().__init__(path, context_size, threads)
        self._held = [b""] * sequences
        """By sequence: the tokens that it holds, packed."""
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)

    def _new_context(self, threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = self._cells, BATCH, BATCH, self._sequences + 1
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise LoadFailed(f"there is not enough memory for a context of {self._cells} tokens")
        return context

    @property
    def can_go_back(self) -> bool:
        """Whether a sequence can be cut back to any of its tokens: recurrent models and those with a sliding window cannot."""
        lib = self._lib
        recurrent = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        return not recurrent and int(lib.llama_model_n_swa(self._model)) == 0

    def sampler(self, sampling: dict[str, Any], grammar: str | None, prompt: Sequence[int]) -> Sampler:
        """What chooses the tokens of one answer; the caller closes it.

        Raises:
            GrammarInvalid: When llama.cpp cannot read the grammar.
        """
        found = Sampler(self._lib, self._vocab, sampling, grammar)
        found.look_back(list(prompt[-int(sampling["repeat_last_n"]) :]))
        return found

    def sample(self, sampler: Sampler, output: int) -> int:
        """The next token by the last batch's output at this place of the batch."""
        return sampler.sample(self._context, output)

    def probability(self, token: int, output: int, top: int) -> dict[str, Any]:
        """Probability of a token, in the form of llama-server's `completion_probabilities`."""
        return self._probability(token, output, top)

    def ends(self, token: int) -> bool:
        """Whether a token ends the text."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def piece(self, token: int) -> bytes:
        """The bytes of a generated token."""
        return self._bytes(token)

    # Sequences

    def nearest(self, tokens: bytes) -> tuple[int, int]:
        """The sequence that holds most of the beginning of these packed tokens, and how many of them it holds."""
        shared = [common(held, tokens) for held in self._held]
        best = max(range(self._sequences), key=shared.__getitem__)
        return best, shared[best]

    def keep(self, sequence: int, length: int) -> None:
        """Keep only the first tokens of a sequence."""
        if len(self._held[sequence]) > length * _TOKEN:
            self._lib.llama_memory_seq_cp(self._memory, sequence, self._released, length, -1)
            self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1)
            self._held[sequence] = self._held[sequence][: length * _TOKEN]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a sequence share the first tokens of another one; what it had is let go of."""
        if source == target:
            self.keep(target, length)
            return
        self.keep(target, 0)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._held[target] = self._held[source][: length * _TOKEN]

    @property
    def crowded(self) -> bool:
        """Whether so many cells have been taken that nothing new should begin before `tidy`."""
        return self._taken > _CROWDED * self._cells

    def tidy(self, sequences: Sequence[int], *, at_any_cost: bool) -> None:
        """Move what these sequences hold together, and let go of all else. What they shared, each has by itself then.

        Args:
            sequences: Those that are needed.
            at_any_cost: Whether to forget some of them too, when they would take more than half of the room: else nothing is done then.

        Raises:
            RuntimeError: When llama.cpp fails.
        """
        most = self._cells // 2
        if not at_any_cost and sum(len(self._held[sequence]) for sequence in sequences) // _TOKEN > most:
            return
        kept = [(each, self._held[each], self._state(each)) for each in sequences if self._held[each]]
        self.clear()
        for sequence, held, state in kept:
            tokens = len(held) // _TOKEN
            if self._taken + tokens <= most:
                if not self._lib.llama_state_seq_set_data(self._context, state, len(state), sequence):
                    raise RuntimeError("llama_state_seq_set_data failed")
                self._held[sequence] = held
                self._taken += tokens

    def _state(self, sequence: int) -> ctypes.Array[ctypes.c_uint8]:
        size = int(self._lib.llama_state_seq_get_size(self._context, sequence))
        state = (ctypes.c_uint8 * size)()
        if int(self._lib.llama_state_seq_get_data(self._context, state, size, sequence)) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        return state

    def make_room(self) -> None:
        """Free the cells that nothing needs, wherever they lie."""
        self._lib.llama_memory_seq_rm(self._memory, self._released, -1, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._lib.llama_memory_clear(self._memory, True)
        self._in_context.clear()
        self._held = [b""] * self._sequences
        self._taken = 0

    def decode(self, fed: Sequence[Fed]) -> list[int]:
        """Evaluate tokens of several sequences at once.

        Args:
            fed: At most `BATCH` tokens in all.

        Returns:
            For each sequence fed, the place of its last token in the batch: where to sample what follows.

        Raises:
            OutOfCells: When there is no room; nothing has changed then.
            RuntimeError: When llama.cpp fails.
        """
        batch, place = self._batch, 0
        places = []
        for part in fed:
            for offset, token in enumerate(part.tokens):
                batch.token[place], batch.pos[place] = token, part.start + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, part.sequence
                batch.logits[place] = part.wanted and offset == len(part.tokens) - 1
                place += 1
            places.append(place - 1)
        batch.n_tokens = place
        code = self._lib.llama_decode(self._context, batch)
        if code == _NO_CELLS:
            raise OutOfCells
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code}")
        for part in fed:
            self._held[part.sequence] += packed(part.tokens)
        self._taken += place
        return places
